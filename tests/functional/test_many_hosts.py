"""Hundreds of hosts in several cells in one process; ``benchmarks/scale.py`` does it with ten thousand."""

from pathlib import Path

from kilonova.db.engine import Database
from tests.whole import Whole, until

CELLS, HOSTS = 5, 100
ACTIVE = "/compute/v2.1/servers?status=ACTIVE&limit=1000"


def _written(db: Database) -> int:
    return int(getattr(db, "commits"))  # noqa: B009 - each kind of database counts


def test_hundreds_of_hosts_come_back(tmp_path: Path) -> None:
    """Issue 4 §1: all hosts register, are placed on, and register again when the process was started anew; no drift."""
    whole = Whole(tmp_path / "state", cells=CELLS, hosts=HOSTS)
    try:
        every = whole.services.hosts.alive()
        assert len(every) == CELLS * HOSTS
        demo = whole.demo
        body = {**demo.server_body("many")["server"], "networks": "none"}
        ids = {
            demo.post("/compute/v2.1/servers", {"server": body})["server"]["id"] for _ in range(10)
        }
        until(lambda: {s["id"] for s in demo.get(ACTIVE)["servers"]} == ids, "all are ACTIVE", 60)
        used = {whole.admin.show(i)["OS-EXT-SRV-ATTR:host"] for i in ids}
        assert len(used) > 1, "they spread"
    finally:
        whole.close()

    whole = Whole(tmp_path / "state", cells=CELLS, hosts=HOSTS)
    try:
        assert whole.services.hosts.alive() == every
        agents = whole.cloud.fleet.agents
        assert all(a.registered.is_set() and a.orders.refuse_all is None for a in agents)
        assert _written(whole.services.world) < HOSTS, "hosts that are what they were are only read"
        assert {s["id"] for s in whole.demo.get(ACTIVE)["servers"]} == ids
        assert whole.audit() == []
        for server in ids:
            whole.demo.delete(f"/compute/v2.1/servers/{server}")
        until(lambda: not whole.demo.get("/compute/v2.1/servers")["servers"], "all are gone", 60)
    finally:
        whole.close()
