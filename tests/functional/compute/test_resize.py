"""resize, confirmResize, revertResize and os-migrations over HTTP, against a whole cloud."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"
NANO, TINY, SMALL = "42", "1", "2"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    made = cloud.server()
    yield made
    cloud.gone(made)


def _act(cloud: Whole, server: str, action: str, body: Any = None, **more: Any) -> Answer:
    return cloud.call("POST", f"{V}/servers/{server}/action", {action: body}, **more)


def _resize(cloud: Whole, server: str, flavor: str, **more: Any) -> Answer:
    return _act(cloud, server, "resize", {"flavorRef": flavor}, **more)


def _shown(cloud: Whole, server: str) -> dict[str, Any]:
    shown: dict[str, Any] = cloud.settled(server).json["server"]
    return shown


def _flavors(cloud: Whole) -> dict[str, str]:
    listed = cloud.call("GET", f"{V}/flavors/detail").json["flavors"]
    return {f["name"]: f["id"] for f in listed}


def _used(cloud: Whole) -> tuple[int, int]:
    limits = cloud.call("GET", f"{V}/limits").json["limits"]["absolute"]
    return limits["totalCoresUsed"], limits["totalRAMUsed"]


def test_resize_then_confirm(cloud: Whole, server: str) -> None:
    flavors = _flavors(cloud)
    before = _used(cloud)
    assert _resize(cloud, server, flavors["m1.medium"]).status == 202
    shown = _shown(cloud, server)
    assert (shown["status"], shown["flavor"]["id"]) == ("VERIFY_RESIZE", flavors["m1.medium"])
    assert _used(cloud) == (before[0] + 1, before[1] + 4096 - 128)
    assert _act(cloud, server, "os-stop").status == 409
    moves = cloud.call("GET", f"{V}/os-migrations?instance_uuid={server}", who="admin").json
    assert [m["status"] for m in moves["migrations"]] == ["finished"]
    assert _act(cloud, server, "confirmResize").status == 204
    shown = _shown(cloud, server)
    assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", flavors["m1.medium"])
    assert _act(cloud, server, "confirmResize").status == 409
    actions = cloud.call("GET", f"{V}/servers/{server}/os-instance-actions").json
    done = [a["action"] for a in actions["instanceActions"]]
    assert done[:2] == ["confirmResize", "resize"]


def test_resize_then_revert(cloud: Whole, server: str) -> None:
    flavors = _flavors(cloud)
    before = _used(cloud)
    assert _resize(cloud, server, flavors["m1.small"]).status == 202
    assert _shown(cloud, server)["status"] == "VERIFY_RESIZE"
    assert _act(cloud, server, "revertResize").status == 202
    shown = _shown(cloud, server)
    assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", flavors["m1.nano"])
    assert _used(cloud) == before
    got = cloud.call("GET", f"{V}/os-migrations", who="admin", version="2.80")
    mine = [m for m in got.json["migrations"] if m["instance_uuid"] == server]
    assert [(m["status"], m["migration_type"]) for m in mine] == [("reverted", "resize")]
    assert mine[0]["project_id"] == cloud.project("demo")


def test_what_is_refused(cloud: Whole, server: str) -> None:
    flavors = _flavors(cloud)
    assert _resize(cloud, server, flavors["m1.nano"]).status == 400
    assert "could not be found" in str(_resize(cloud, server, "no-such").json)
    assert _act(cloud, server, "revertResize").status == 409
    assert _resize(cloud, server, flavors["m1.small"], who="other").status == 404
    assert _resize(cloud, server, flavors["m1.small"], who="reader").status == 403
    assert _act(cloud, server, "resize", {"flavorRef": "2", "x": 1}).status == 400
    assert _act(cloud, server, "resize", {}).status == 400


def test_a_full_quota_refuses_the_growth(cloud: Whole, server: str) -> None:
    flavors, project = _flavors(cloud), cloud.project("demo")
    path = f"{V}/os-quota-sets/{project}"
    cores, _ = _used(cloud)
    cloud.call("PUT", path, {"quota_set": {"cores": cores}}, who="admin")
    try:
        got = _resize(cloud, server, flavors["m1.medium"])
        assert got.status == 403 and "Quota exceeded for cores" in str(got.json)
        assert _used(cloud)[0] == cores
        assert _resize(cloud, server, flavors["m1.small"]).status == 202, (
            "no more cores than before"
        )
    finally:
        cloud.call("DELETE", path, who="admin")
    assert _shown(cloud, server)["status"] == "VERIFY_RESIZE"


def test_no_host_has_room(cloud: Whole, server: str) -> None:
    """The server stays as it was, with a fault that says why."""
    body = {"flavor": {"name": "huge", "ram": 1 << 20, "vcpus": 1, "disk": 1, "id": "huge"}}
    assert cloud.call("POST", f"{V}/flavors", body, who="admin").status == 200
    quota = {"quota_set": {"ram": -1}}
    cloud.call("PUT", f"{V}/os-quota-sets/{cloud.project('demo')}", quota, who="admin")
    assert _resize(cloud, server, "huge").status == 202

    def ended() -> Any:
        listed = cloud.call("GET", f"{V}/servers/{server}/os-instance-actions").json
        first = listed["instanceActions"][0]
        return first if first["message"] else None

    assert until(ended)["message"] == "Error"
    shown = _shown(cloud, server)
    assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", _flavors(cloud)["m1.nano"])
    cloud.call("DELETE", f"{V}/flavors/huge", who="admin")


def test_migrations_are_paged(cloud: Whole, server: str) -> None:
    flavors = _flavors(cloud)
    for _ in range(2):
        assert _resize(cloud, server, flavors["m1.small"]).status == 202
        _shown(cloud, server)
        assert _act(cloud, server, "revertResize").status == 202
        _shown(cloud, server)
    first = cloud.call("GET", f"{V}/os-migrations?limit=1", who="admin", version="2.59").json
    assert len(first["migrations"]) == 1 and first["migrations_links"]
    marker = first["migrations"][0]["uuid"]
    rest = cloud.call(
        "GET", f"{V}/os-migrations?marker={marker}", who="admin", version="2.59"
    ).json["migrations"]
    assert marker not in {m["uuid"] for m in rest} and len(rest) >= 1
    bad = cloud.call("GET", f"{V}/os-migrations?marker=no", who="admin", version="2.59")
    assert bad.status == 400
