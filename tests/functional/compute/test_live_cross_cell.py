"""Live migration to another cell over HTTP (CC-12.3): who may, what is seen meanwhile, how it is steered."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.compute.test_cross_cell import Poller
from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"
HOST = "OS-EXT-SRV-ATTR:host"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running(cells=2, hosts=2) as made:
        yield made


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    zone = "nova:cell1-host1"
    made = cloud.server(who="admin", networks="auto", availability_zone=zone, tags=["a", "b"])
    yield made
    cloud.gone(made)


def moves(
    cloud: Whole, server: str, host: str | None, version: str = "2.68", who: str = "admin"
) -> Answer:
    body: dict[str, Any] = {"host": host, "block_migration": "auto"}
    url = f"{V}/servers/{server}/action"
    return cloud.call("POST", url, {"os-migrateLive": body}, who=who, version=version)


def shown(cloud: Whole, server: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.settled(server).json["server"]
    return found


@pytest.mark.parametrize("version", ["2.25", "2.30", "2.68", "2.104"])
def test_there_and_back(cloud: Whole, server: str, version: str) -> None:
    """CC-12.3: one call each; same addresses and tags; history and migrations listed once."""
    before = shown(cloud, server)
    for host in ("cell2-host1", "cell1-host2"):
        assert moves(cloud, server, host, version).status == 202
        now = shown(cloud, server)
        assert (now["status"], now[HOST]) == ("ACTIVE", host), now
        assert now["addresses"] == before["addresses"]
    tags = cloud.call("GET", f"{V}/servers/{server}/tags", who="admin", version="2.26").json
    assert sorted(tags["tags"]) == ["a", "b"]
    path = f"{V}/os-migrations?instance_uuid={server}"
    listed = cloud.call("GET", path, who="admin", version="2.80").json["migrations"]
    told = [(m["status"], m["migration_type"], m["cross_cell_move"]) for m in listed]
    assert told == [("completed", "live-migration", True)] * 2
    acts = cloud.call("GET", f"{V}/servers/{server}/os-instance-actions", who="admin").json
    names = [a["action"] for a in acts["instanceActions"]]
    assert names == ["live-migration", "live-migration", "create"]


def test_who_may(cloud: Whole) -> None:
    """CC-3.8 of a live one: a project manager moves a server live, but within its cell, whatever room is elsewhere."""
    mine = cloud.server(availability_zone="nova")
    host = str(shown(cloud, mine)[HOST])
    cell = host.partition("-")[0]
    assert moves(cloud, mine, None, who="demo").status == 403
    assert moves(cloud, mine, None, who="manager").status == 202
    now = shown(cloud, mine)
    assert now[HOST] != host and now[HOST].partition("-")[0] == cell
    services = cloud.call("GET", f"{V}/os-services", who="admin", version="2.53").json["services"]
    other = next(s["id"] for s in services if s["host"] == host)
    set_it = f"{V}/os-services/{other}"
    for status in ("disabled", "enabled"):
        got = cloud.call("PUT", set_it, {"status": status}, who="admin", version="2.53")
        assert got.status == 200, got
        if status == "enabled":
            break
        assert moves(cloud, mine, None, who="manager").status == 202
        assert shown(cloud, mine)[HOST] == now[HOST], "no host in its cell, and it may not leave"
        assert moves(cloud, mine, None, who="admin").status == 202
        assert shown(cloud, mine)[HOST].partition("-")[0] != cell, "an admin's may"
    cloud.gone(mine)


def test_shown_aborted_and_hastened(cloud: Whole) -> None:
    """source: compute API 2.22, 2.23, 2.24: progress while it runs; aborted it stays, hastened it arrives."""
    fault = {"kilonova:fault": "live_migrate_hang"}
    zone = "nova:cell1-host1"
    slow = cloud.server("slow", who="admin", availability_zone=zone, metadata=fault)
    path = f"{V}/servers/{slow}/migrations"

    def look() -> dict[str, Any] | None:
        found = cloud.call("GET", path, who="admin", version="2.80").json["migrations"]
        return found[0] if found and found[0]["status"] == "running" else None

    assert moves(cloud, slow, "cell2-host1").status == 202
    move = until(look, "it never ran")
    assert move["memory_total_bytes"] > 0 and move["dest_compute"] == "cell2-host1"
    assert shown_now(cloud, slow)["status"] == "MIGRATING"
    every = cloud.call("GET", f"{V}/os-migrations", who="admin", version="2.80").json["migrations"]
    assert [m["id"] for m in every if m["uuid"] == move["uuid"]] == [move["id"]]
    got = cloud.call("DELETE", f"{path}/{move['id']}", who="admin", version="2.24")
    assert got.status == 202, got
    assert shown(cloud, slow)[HOST] == "cell1-host1"
    assert moves(cloud, slow, "cell2-host1").status == 202
    move = until(look, "it never ran")
    force, url = {"force_complete": None}, f"{path}/{move['id']}/action"
    assert cloud.call("POST", url, force, who="admin", version="2.22").status == 202
    assert shown(cloud, slow)[HOST] == "cell2-host1"
    cloud.gone(slow)


def shown_now(cloud: Whole, server: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return found


def test_exactly_one_at_every_instant(cloud: Whole, server: str) -> None:
    """R11, CC-12.3: through live moves a poller sees the server once, whatever it reads."""
    cloud.call("GET", f"{V}/servers", who="admin")
    poller = Poller(cloud, server)
    poller.start()
    until(lambda: poller.looks > 3)
    for _ in range(4):
        for host in ("cell2-host1", "cell2-host2", "cell1-host2", "cell1-host1"):
            assert moves(cloud, server, host).status == 202
            assert shown(cloud, server)[HOST] == host
    poller.end()
    assert poller.wrong == [] and poller.looks > 10
    assert {h.partition("-")[0] for h in poller.hosts} == {"cell1", "cell2"}


def test_nothing_is_left(cloud: Whole) -> None:
    """CC-12.3: made, moved, deleted in its new cell: the ledger is what it was; the audit has nothing to say."""
    cloud.at_rest()
    before = cloud.ledger()
    made = cloud.server(who="admin", networks="auto", availability_zone="nova:cell1-host2")
    assert moves(cloud, made, "cell2-host2").status == 202
    shown(cloud, made)
    cloud.gone(made)
    cloud.at_rest()
    kept = ("deleted", "operation", "action", "event", "migration")
    more = {k: v for k, v in (cloud.ledger() - before).items() if not k.startswith(kept)}
    assert more == {} and cloud.audit() == []
