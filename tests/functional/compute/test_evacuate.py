"""The action evacuate over HTTP, against a whole cloud whose host is forced down and comes back."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


def _host(cloud: Whole, server: str) -> str:
    shown = cloud.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _force(cloud: Whole, host: str, down: bool) -> None:
    found = cloud.call("GET", f"{V}/os-services?host={host}", who="admin", version="2.53")
    service = found.json["services"][0]["id"]
    body = {"forced_down": down}
    got = cloud.call("PUT", f"{V}/os-services/{service}", body, who="admin", version="2.53")
    assert got.status == 200, got


def _evacuate(cloud: Whole, server: str, version: str, who: str = "admin", **asked: Any) -> Answer:
    path, body = f"{V}/servers/{server}/action", {"evacuate": asked}
    return cloud.call("POST", path, body, who=who, version=version)


@pytest.mark.parametrize(
    ("version", "asked", "answers", "status"),
    [
        ("2.1", {"onSharedStorage": False}, True, "ACTIVE"),
        ("2.13", {"onSharedStorage": False, "adminPass": "given-1"}, True, "ACTIVE"),
        ("2.14", {}, False, "ACTIVE"),
        ("2.67", {}, False, "ACTIVE"),
        ("2.95", {}, False, "SHUTOFF"),
    ],
)
def test_a_server_leaves_a_dead_host(
    cloud: Whole, version: str, asked: dict[str, Any], answers: bool, status: str
) -> None:
    server = cloud.server("rescued")
    host = _host(cloud, server)
    _force(cloud, host, True)
    try:
        got = _evacuate(cloud, server, version, **asked)
        assert got.status == 200, got
        assert bool(got.json and got.json.get("adminPass")) is answers
        shown = cloud.settled(server).json["server"]
        assert (shown["status"], _host(cloud, server) != host) == (status, True)
        moves = cloud.call("GET", f"{V}/os-migrations?instance_uuid={server}", who="admin").json
        assert [m["status"] for m in moves["migrations"]] == ["done"]
    finally:
        _force(cloud, host, False)
    until(lambda: _clean(cloud) or None, "the host never cleaned up")
    cloud.gone(server)


def _clean(cloud: Whole) -> bool:
    found = cloud.call("GET", "/kilonova/v1/audit", who="admin").json["findings"]
    return not [f for f in found if f["kind"] in ("cleanup_waiting", "guest_elsewhere")]


def test_what_is_refused(cloud: Whole) -> None:
    server = cloud.server("stays")
    host = _host(cloud, server)
    assert _evacuate(cloud, server, "2.14", who="demo").status == 403
    assert "still in use" in str(_evacuate(cloud, server, "2.14").json)
    assert _evacuate(cloud, server, "2.14", onSharedStorage=False).status == 400
    assert _evacuate(cloud, server, "2.1").status == 400
    assert _evacuate(cloud, server, "2.68", host="x", force=True).status == 400
    _force(cloud, host, True)
    try:
        assert "can't be the same" in str(_evacuate(cloud, server, "2.14", host=host).json)
        assert _evacuate(cloud, server, "2.14", host="no-such-host").status == 400
        assert _evacuate(cloud, server, "2.1", onSharedStorage=True).status == 400
        assert _evacuate(cloud, server, "2.30", force=True).status == 400
    finally:
        _force(cloud, host, False)
    cloud.gone(server)
