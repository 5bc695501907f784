"""Live migration over HTTP, against a whole cloud: what is accepted and refused, what is shown, how it is steered."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running(hosts=3) as made:
        yield made


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    made = cloud.server("mover")
    yield made
    cloud.gone(made)


@pytest.fixture
def slow(cloud: Whole) -> Iterator[str]:
    """A server whose live migration ends only when it is told to."""
    made = cloud.server("slow", who="admin", metadata={"kilonova:fault": "live_migrate_hang"})
    yield made
    cloud.gone(made)


def _host(cloud: Whole, server: str) -> str:
    shown = cloud.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _migrate(
    cloud: Whole, server: str, version: str = "2.68", who: str = "admin", **asked: Any
) -> Answer:
    body = {"os-migrateLive": {"host": None, "block_migration": "auto", **asked}}
    return cloud.call("POST", f"{V}/servers/{server}/action", body, who=who, version=version)


def _statuses(cloud: Whole, server: str) -> list[str]:
    got = cloud.call(
        "GET", f"{V}/os-migrations?instance_uuid={server}", who="admin", version="2.23"
    )
    assert {m["migration_type"] for m in got.json["migrations"]} <= {"live-migration"}
    return [m["status"] for m in got.json["migrations"]]


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("2.1", {"block_migration": True, "disk_over_commit": False}),
        ("2.24", {"block_migration": "True", "disk_over_commit": "no"}),
        ("2.25", {"block_migration": "auto"}),
        ("2.25", {"block_migration": True}),
        ("2.30", {"force": False}),
        ("2.67", {}),
        ("2.68", {}),
        ("2.104", {}),
    ],
)
def test_a_server_moves(cloud: Whole, server: str, version: str, asked: dict[str, Any]) -> None:
    """source: compute API, os-migrateLive by microversion."""
    before = _host(cloud, server)
    got = _migrate(cloud, server, version, **asked)
    assert got.status == 202, got
    assert cloud.settled(server).json["server"]["status"] == "ACTIVE"
    assert _host(cloud, server) != before and _statuses(cloud, server) == ["completed"]
    actions = cloud.call("GET", f"{V}/servers/{server}/os-instance-actions", who="admin").json
    assert "live-migration" in {x["action"] for x in actions["instanceActions"]}


@pytest.mark.parametrize(
    ("version", "more"), [("2.29", {}), ("2.30", {"force": True}), ("2.30", {}), ("2.68", {})]
)
def test_the_host_that_was_asked_for(
    cloud: Whole, server: str, version: str, more: dict[str, Any]
) -> None:
    """source: compute API 2.30, 2.68."""
    target = next(f"cell1-host{n}" for n in (1, 2, 3) if f"cell1-host{n}" != _host(cloud, server))
    assert _migrate(cloud, server, version, host=target, **more).status == 202
    cloud.settled(server)
    assert _host(cloud, server) == target


def test_what_is_refused(cloud: Whole, server: str) -> None:
    """Nova's statuses and words."""
    here = _host(cloud, server)
    assert _migrate(cloud, server, who="demo").status == 403
    assert _migrate(cloud, server, "2.24").status == 400, "disk_over_commit is needed"
    assert _migrate(cloud, server, "2.25", disk_over_commit=False).status == 400
    assert _migrate(cloud, server, "2.25", force=True).status == 400
    assert _migrate(cloud, server, "2.30", force=True).status == 400, "no host"
    assert _migrate(cloud, server, "2.68", host="x", force=True).status == 400
    assert _migrate(cloud, server, block_migration="maybe").status == 400
    got = _migrate(cloud, server, host=here)
    assert got.status == 400 and "to current host" in str(got.json)
    got = _migrate(cloud, server, host="nowhere")
    assert got.status == 400 and "could not be found" in str(got.json)
    missing = "11111111-2222-3333-4444-555555555555"
    assert _migrate(cloud, missing).status == 404
    stop = {"os-stop": None}
    assert cloud.call("POST", f"{V}/servers/{server}/action", stop).status == 202
    assert cloud.settled(server).json["server"]["status"] == "SHUTOFF"
    got = _migrate(cloud, server)
    assert got.status == 409 and "Cannot 'os-migrateLive'" in str(got.json)
    assert _statuses(cloud, server) == []


def test_no_shared_storage(cloud: Whole, server: str) -> None:
    """block_migration false needs it: the migration fails, the server stays and says why."""
    before = _host(cloud, server)
    assert _migrate(cloud, server, block_migration=False).status == 202
    shown = cloud.settled(server).json["server"]
    assert (shown["status"], _host(cloud, server)) == ("ACTIVE", before)
    assert _statuses(cloud, server) == ["failed"]


def _running(cloud: Whole, server: str) -> dict[str, Any]:
    """Return a server's migration once it is under way."""

    def look() -> dict[str, Any] | None:
        got = cloud.call("GET", f"{V}/servers/{server}/migrations", who="admin", version="2.80")
        found: list[dict[str, Any]] = got.json["migrations"]
        return found[0] if found and found[0]["status"] == "running" else None

    return until(look, "it never ran")


def test_shown_and_aborted(cloud: Whole, slow: str) -> None:
    """source: compute API 2.23, 2.24, 2.59, 2.80."""
    before, path = _host(cloud, slow), f"{V}/servers/{slow}/migrations"
    assert _migrate(cloud, slow).status == 202
    move = _running(cloud, slow)
    shown = cloud.call("GET", f"{V}/servers/{slow}", who="admin").json["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("MIGRATING", "migrating")
    assert move["memory_total_bytes"] > 0 and move["source_compute"] == before
    one = cloud.call("GET", f"{path}/{move['id']}", who="admin", version="2.58").json["migration"]
    assert "uuid" not in one and one["server_uuid"] == slow
    one = cloud.call("GET", f"{path}/{move['id']}", who="admin", version="2.80").json["migration"]
    assert one["uuid"] == move["uuid"] and one["user_id"]
    assert cloud.call("GET", f"{path}/{move['id']}", who="demo", version="2.80").status in (
        403,
        404,
    )
    assert cloud.call("GET", f"{path}/99", who="admin", version="2.80").status == 404
    assert cloud.call("DELETE", f"{path}/{move['id']}", who="admin", version="2.23").status == 404
    got = cloud.call("DELETE", f"{path}/{move['id']}", who="admin", version="2.24")
    assert got.status == 202, got
    assert cloud.settled(slow).json["server"]["status"] == "ACTIVE"
    assert _host(cloud, slow) == before and _statuses(cloud, slow) == ["cancelled"]
    got = cloud.call("GET", f"{path}/{move['id']}", who="admin", version="2.80")
    assert got.status == 404 and "is not in progress" in str(got.json)
    assert cloud.call("DELETE", f"{path}/{move['id']}", who="admin", version="2.65").status == 409


def test_forced_to_complete(cloud: Whole, slow: str) -> None:
    """source: compute API 2.22."""
    before, path = _host(cloud, slow), f"{V}/servers/{slow}/migrations"
    assert _migrate(cloud, slow).status == 202
    move = _running(cloud, slow)
    force = {"force_complete": None}
    url = f"{path}/{move['id']}/action"
    assert cloud.call("POST", url, force, who="admin", version="2.21").status == 404
    got = cloud.call("POST", url, force, who="admin", version="2.22")
    assert got.status == 202, got
    cloud.settled(slow)
    assert _host(cloud, slow) != before and _statuses(cloud, slow) == ["completed"]


def test_another_operation_waits_its_turn_or_is_refused(cloud: Whole, slow: str) -> None:
    """R10: one at a time; a second migration is refused in Nova's words."""
    assert _migrate(cloud, slow).status == 202
    move = _running(cloud, slow)
    got = _migrate(cloud, slow)
    assert got.status == 409 and "task_state migrating" in str(got.json)
    url = f"{V}/servers/{slow}/migrations/{move['id']}"
    assert cloud.call("DELETE", url, who="admin", version="2.65").status == 202
    cloud.settled(slow)


def test_nothing_is_left(cloud: Whole) -> None:
    """The audit has nothing to say after all of that."""
    cloud.at_rest()
    assert cloud.audit() == []
