"""Two cells with a real host each on one machine: a guest goes live to the other cell and back (CC-12.3)."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed, until
from tests.real.test_cloud_live import session

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    with running_cloud(hosts=2, cells=2) as (made, _):
        yield made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _leaves(server: Server) -> dict[str, Any]:
    """Have it leave its cell while it runs; return its newest migration."""
    admin, here = server.cloud.client("admin"), _host(server)
    hosts = admin.get(f"{COMPUTE}/os-hypervisors")["hypervisors"]
    (target,) = {str(h["hypervisor_hostname"]) for h in hosts} - {here}
    body = {"host": target, "block_migration": "auto"}
    with timed(f"{server.name} live to the other cell"):
        admin.call("POST", f"{server.path}/action", {"os-migrateLive": body})
        server.status("ACTIVE")
    found = admin.get(f"{COMPUTE}/os-migrations", instance_uuid=server.id)["migrations"]
    newest: dict[str, Any] = found[0]
    assert (newest["status"], newest.get("cross_cell_move")) == ("completed", True), (
        newest,
        server.cloud.log(),
    )
    assert _host(server) == target
    return newest


def _downtimes_ms(cloud: RealCloud) -> list[int]:
    """Return how long guests stood still in moves to another cell, as libvirt measured it and the journal keeps it."""
    path = next(cloud.directory.rglob("global.db"))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT outputs FROM operation WHERE kind = 'live_migrate_cross_cell' AND state = 'done'"
        ).fetchall()
    return [int(json.loads(outputs)["migrate"]["downtime_ms"]) for (outputs,) in rows]


def test_a_session_survives(cloud: RealCloud, tmp_path: Path) -> None:
    """CC-12.3: to the other cell and back: one boot, one session, same addresses, data on the copied disk."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    server = cloud.boot("commuter", key_name="test", config_drive=True)
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    server.answers_ssh()
    server.tell("echo kept >/root/marker; sync")
    boot, first, address = server.tell(BOOT_ID), _host(server), server.fixed()
    with session(server, tmp_path / "ticks") as newest:
        until(lambda: newest() > 3, "the session counts")
        for _ in range(2):
            _leaves(server)
            seen = newest()
            until(lambda seen=seen: newest() > seen + 3, "the session goes on")  # type: ignore[misc]
    assert _host(server) == first and server.fixed() == address
    print(f"downtime of live moves to another cell, ms: {_downtimes_ms(cloud)}")
    assert server.tell(BOOT_ID) == boot
    assert server.tell("cat /root/marker").startswith("kept")
    cloud.check_audit()
    assert len(list(cloud.directory.glob("agent*/instances/*"))) == 1
    server.delete()
    server.gone()
    assert list(cloud.directory.glob("agent*/instances/*")) == []
