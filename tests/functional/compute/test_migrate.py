"""The action migrate over HTTP, against a whole cloud of two hosts, and what os-migrations says of it."""

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
    made = cloud.server(tags=["a"], config_drive=True, networks="auto")
    yield made
    cloud.gone(made)


def _host(cloud: Whole, server: str) -> str:
    shown = cloud.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _act(cloud: Whole, server: str, action: str, body: Any = None, **more: Any) -> Answer:
    more = {"who": "admin", **more}
    return cloud.call("POST", f"{V}/servers/{server}/action", {action: body}, **more)


def _others(cloud: Whole, server: str) -> list[str]:
    listed = cloud.call("GET", f"{V}/os-services?binary=nova-compute", who="admin").json
    return sorted({s["host"] for s in listed["services"]} - {_host(cloud, server)})


def _moves(cloud: Whole, server: str, version: str = "2.80") -> list[dict[str, Any]]:
    path = f"{V}/os-migrations?instance_uuid={server}"
    listed: list[dict[str, Any]] = cloud.call("GET", path, who="admin", version=version).json[
        "migrations"
    ]
    return listed


def _cannot_leave(cloud: Whole, host: str) -> None:
    """A host that keeps what was left there stays in the cloud."""
    path = f"{V}/os-services"
    listed = cloud.call("GET", f"{path}?host={host}", who="admin", version="2.53")
    (service,) = [s["id"] for s in listed.json["services"] if s["binary"] == "nova-compute"]
    refused = cloud.call("DELETE", f"{path}/{service}", who="admin", version="2.53")
    assert refused.status == 409
    assert "Unable to delete compute service" in str(refused.json)


@pytest.mark.parametrize(("end", "stays"), [("confirmResize", False), ("revertResize", True)])
def test_migrate(cloud: Whole, server: str, end: str, stays: bool) -> None:
    """Another host, the same server; confirmed it is there, reverted it is back."""
    source = _host(cloud, server)
    before = cloud.call("GET", f"{V}/servers/{server}", version="2.52").json["server"]
    assert _act(cloud, server, "migrate").status == 202
    shown = cloud.settled(server).json["server"]
    there = _host(cloud, server)
    assert shown["status"] == "VERIFY_RESIZE" and there != source
    (move,) = _moves(cloud, server)
    assert (move["status"], move["migration_type"]) == ("finished", "migration")
    assert (move["source_compute"], move["dest_compute"]) == (source, there)
    assert (move["source_node"], move["dest_node"]) == (source, there)
    assert cloud.audit() == [], "what the source keeps is no stranger"
    _cannot_leave(cloud, source)
    assert _act(cloud, server, end).status in (202, 204)
    shown = cloud.settled(server).json["server"]
    assert (shown["status"], _host(cloud, server)) == ("ACTIVE", source if stays else there)
    after = cloud.call("GET", f"{V}/servers/{server}", version="2.52").json["server"]
    for same in ("addresses", "tags", "flavor", "config_drive", "hostId" if stays else "id"):
        assert after[same] == before[same]
    assert [m["status"] for m in _moves(cloud, server)] == ["reverted" if stays else "confirmed"]
    actions = cloud.call("GET", f"{V}/servers/{server}/os-instance-actions").json
    assert [a["action"] for a in actions["instanceActions"]][:2] == [end, "migrate"]
    assert cloud.audit() == []


def test_to_a_host_that_is_named(cloud: Whole, server: str) -> None:
    """2.56 on; before it the body means nothing."""
    wanted = _others(cloud, server)[-1]
    assert _act(cloud, server, "migrate", {"host": wanted}, version="2.56").status == 202
    cloud.settled(server)
    assert _host(cloud, server) == wanted
    assert _act(cloud, server, "confirmResize").status == 204
    cloud.settled(server)
    assert _act(cloud, server, "migrate", {"host": "nowhere"}, version="2.55").status == 202
    assert cloud.settled(server).json["server"]["status"] == "VERIFY_RESIZE"


def test_what_is_refused(cloud: Whole, server: str) -> None:
    """In Nova's words, and with nothing begun."""
    here = _host(cloud, server)
    same = _act(cloud, server, "migrate", {"host": here}, version="2.56")
    assert same.status == 400
    assert "Cannot migrate to the host where the server exists." in str(same.json)
    none = _act(cloud, server, "migrate", {"host": "nowhere"}, version="2.56")
    assert none.status == 400 and "Compute host nowhere could not be found." in str(none.json)
    for bad in ({"host": ""}, {"host": None}, {"hosts": "x"}, "x", {"host": here, "force": True}):
        assert _act(cloud, server, "migrate", bad, version="2.56").status == 400
    assert _act(cloud, server, "migrate", who="demo").status == 403
    assert _moves(cloud, server) == []
    assert _act(cloud, server, "pause").status == 202
    cloud.settled(server)
    paused = _act(cloud, server, "migrate")
    assert paused.status == 409
    assert "Cannot 'migrate' instance" in str(paused.json) and "vm_state paused" in str(paused.json)


def test_hosts_that_cannot(cloud: Whole, server: str) -> None:
    """All others are disabled: it stays where it is, with a fault and a failed action."""
    source = _host(cloud, server)
    listed = cloud.call("GET", f"{V}/os-services?binary=nova-compute", who="admin", version="2.53")
    others = [s["id"] for s in listed.json["services"] if s["host"] != source]
    path = f"{V}/os-services/"
    for one in others:
        body = {"status": "disabled"}
        assert cloud.call("PUT", path + one, body, who="admin", version="2.53").status == 200
    try:
        assert _act(cloud, server, "migrate").status == 202
        until(lambda: _moves(cloud, server)[0]["status"] == "error" or None)
        shown = cloud.settled(server).json["server"]
        assert (shown["status"], _host(cloud, server)) == ("ACTIVE", source)
    finally:
        for one in others:
            cloud.call("PUT", path + one, {"status": "enabled"}, who="admin", version="2.53")
    assert cloud.audit() == []


def _in_group(cloud: Whole, group: str) -> str:
    server = {"name": "m", "flavorRef": "42", "imageRef": cloud.image(), "networks": "none"}
    body = {"server": server, "os:scheduler_hints": {"group": group}}
    got = cloud.call("POST", f"{V}/servers", body, version="2.90")
    assert got.status == 202, got
    made = str(got.json["server"]["id"])
    cloud.settled(made)
    return made


def test_a_group_is_asked_again(cloud: Whole) -> None:
    """Anti-affinity of three on three hosts: no host is free, so nobody moves; without one of them somebody does."""
    group = {"name": "apart", "policies": ["anti-affinity"]}
    made = cloud.call("POST", f"{V}/os-server-groups", {"server_group": group}).json["server_group"]
    mine = [_in_group(cloud, made["id"]) for _ in range(3)]
    assert len({_host(cloud, s) for s in mine}) == 3
    assert _act(cloud, mine[0], "migrate").status == 202
    until(lambda: _moves(cloud, mine[0])[0]["status"] == "error" or None)
    cloud.settled(mine[0])
    free = _host(cloud, mine[2])
    cloud.gone(mine[2])
    assert _act(cloud, mine[0], "migrate").status == 202
    assert cloud.settled(mine[0]).json["server"]["status"] == "VERIFY_RESIZE"
    assert _host(cloud, mine[0]) == free
    for one in mine[:2]:
        cloud.gone(one)
