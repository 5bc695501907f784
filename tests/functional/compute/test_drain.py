"""Draining a host over HTTP, against a whole cloud: the plan, the drain, how far it is, and who may."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Answer, Whole, running, until

V, D = "/compute/v2.1", "/kilonova/v1/hosts"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running(hosts=3) as made:
        yield made


def _host(cloud: Whole, server: str) -> str:
    shown = cloud.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _drain(cloud: Whole, host: str, who: str = "admin", **asked: Any) -> Answer:
    return cloud.call("POST", f"{D}/{host}/drain", asked, who=who)


def _services(cloud: Whole) -> dict[str, dict[str, Any]]:
    path = f"{V}/os-services?binary=nova-compute"
    listed = cloud.call("GET", path, who="admin", version="2.53").json["services"]
    return {s["host"]: s for s in listed}


def test_a_host_is_drained(cloud: Whole) -> None:
    """First looked at, then done; the drain is an operation like any other, and the audit finds nothing."""
    mine = [cloud.server(f"s{k}", networks="auto") for k in range(6)]
    host = _host(cloud, mine[0])
    here = {s for s in mine if _host(cloud, s) == host}
    stopped = mine[0]
    assert cloud.call("POST", f"{V}/servers/{stopped}/action", {"os-stop": None}).status == 202
    cloud.settled(stopped)
    planned = _drain(cloud, host, dry_run=True)
    assert planned.status == 202 and planned.json["drain"]["operation"] is None
    tasks = {t["server"]: t for t in planned.json["drain"]["servers"]}
    assert set(tasks) == here and tasks[stopped]["way"] == "cold"
    assert all(t["to"] not in (None, host) for t in tasks.values())
    assert _services(cloud)[host]["status"] == "enabled"
    assert cloud.call("GET", f"{D}/{host}/drain", who="admin").status == 404

    got = _drain(cloud, host, reason="new memory", at_once=2)
    assert got.status == 202

    def ended() -> Any:
        shown = cloud.call("GET", f"{D}/{host}/drain", who="admin").json["drain"]
        assert shown["operation"] == got.json["drain"]["operation"]
        return shown if shown["state"] == "done" else None

    shown = until(ended)
    assert (shown["moved"], shown["servers"]) == (len(here), [])
    service = _services(cloud)[host]
    assert (service["status"], service["disabled_reason"]) == ("disabled", "new memory")
    for server in here:
        status = "SHUTOFF" if server == stopped else "ACTIVE"
        assert cloud.settled(server).json["server"]["status"] == status
        assert _host(cloud, server) != host
    operation = cloud.call("GET", f"/kilonova/v1/operations/{shown['operation']}", who="admin")
    assert operation.json["operation"]["kind"] == "host_drain"
    assert cloud.audit() == []
    path = f"{V}/os-services/{service['id']}"
    cloud.call("PUT", path, {"status": "enabled"}, who="admin", version="2.53")
    for server in mine:
        cloud.gone(server)


def test_who_may_and_what_is_refused(cloud: Whole) -> None:
    """Admins; a host that is there; a body that says something."""
    host = sorted(_services(cloud))[0]
    assert _drain(cloud, host, who="demo").status == 403
    assert cloud.call("GET", f"{D}/{host}/drain", who="demo").status == 403
    assert _drain(cloud, "nowhere").status == 404
    assert _drain(cloud, "nowhere", dry_run=True).status == 404
    for bad in ({"at_once": 0}, {"cold": "yes"}, {"x": 1}, {"reason": ""}):
        assert cloud.call("POST", f"{D}/{host}/drain", bad, who="admin").status == 400
