"""Soft delete and restore, changePassword, trigger_crash_dump over HTTP, on whole simulated clouds."""

from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.common.config import Settings
from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """A cloud in which what is deleted can be restored for a day."""
    with running(settings=Settings(reclaim_instance_interval_s=86400)) as cloud:
        yield cloud


def act(whole: Whole, server: str, body: dict[str, Any], version: str = "2.17", **more: Any) -> int:
    return int(whole.call("POST", f"{S}/{server}/action", body, version=version, **more).status)


def status(whole: Whole, server: str) -> str:
    return str(whole.settled(server).json["server"]["status"])


def listed(whole: Whole, query: str = "", **more: Any) -> list[str]:
    return [s["id"] for s in whole.call("GET", f"{S}{query}", **more).json["servers"]]


def test_deleted_restored_and_deleted_for_good(whole: Whole) -> None:
    server = whole.server()
    assert act(whole, server, {"restore": None}) == 409
    assert whole.call("DELETE", f"{S}/{server}").status == 204
    assert status(whole, server) == "SOFT_DELETED"
    assert whole.call("DELETE", f"{S}/{server}").status == 204
    assert server not in listed(whole)
    assert server in listed(whole, "?status=SOFT_DELETED")
    assert act(whole, server, {"os-start": None}) == 409
    assert act(whole, server, {"restore": None}) == 202
    assert status(whole, server) == "ACTIVE"
    assert server in listed(whole)
    whole.call("DELETE", f"{S}/{server}")
    assert status(whole, server) == "SOFT_DELETED"
    assert act(whole, server, {"forceDelete": None}) == 202
    until(lambda: whole.call("GET", f"{S}/{server}").status == 404 or None)


def test_a_soft_deleted_server_is_not_counted(whole: Whole) -> None:
    """As in Nova: its quota is free at once, and a restore asks whether there is room again."""
    path = f"/compute/v2.1/os-quota-sets/{whole.project('demo')}"

    def used() -> tuple[int, int]:
        found = whole.call("GET", f"{path}/detail").json["quota_set"]
        return found["instances"]["in_use"], found["cores"]["in_use"]

    before = used()
    server = whole.server()
    assert used() == (before[0] + 1, before[1] + 1)
    whole.call("DELETE", f"{S}/{server}")
    assert (status(whole, server), used()) == ("SOFT_DELETED", before)
    limit = {"quota_set": {"instances": before[0]}}
    assert whole.call("PUT", path, limit, who="admin").status == 200
    got = whole.call("POST", f"{S}/{server}/action", {"restore": None})
    assert got.status == 403 and "Quota exceeded for instances: Requested 1" in got.raw.decode()
    assert (status(whole, server), used()) == ("SOFT_DELETED", before)
    limit = {"quota_set": {"instances": before[0] + 1}}
    assert whole.call("PUT", path, limit, who="admin").status == 200
    assert act(whole, server, {"restore": None}) == 202
    assert (status(whole, server), used()) == ("ACTIVE", (before[0] + 1, before[1] + 1))
    assert act(whole, server, {"forceDelete": None}) == 202
    until(lambda: used() == before or None)
    assert whole.call("DELETE", path, who="admin").status == 202


def test_reclaimed_after_a_time() -> None:
    with running(settings=Settings(reclaim_instance_interval_s=0.001)) as cloud:
        server = cloud.server()
        cloud.call("DELETE", f"{S}/{server}")
        until(lambda: cloud.call("GET", f"{S}/{server}").status == 404 or None)


def test_a_password_needs_an_agent(whole: Whole) -> None:
    plain = whole.server()
    new = {"changePassword": {"adminPass": "s3cret-pw-9"}}
    assert act(whole, plain, new) == 409
    image = {
        "name": "agent",
        "disk_format": "raw",
        "container_format": "bare",
        "hw_qemu_guest_agent": "yes",
        "os_admin_user": "guest",
    }
    made = whole.call("POST", "/image/v2/images", image).json["id"]
    head = {"Content-Type": "application/octet-stream"}
    path = f"/image/v2/images/{made}/file"
    assert whole.call("PUT", path, bytes(4096), headers=head).status == 204
    server = whole.server("agent", imageRef=made)
    assert act(whole, server, new) == 202
    assert status(whole, server) == "ACTIVE"
    log = whole.call("POST", f"{S}/{server}/action", {"os-getConsoleOutput": {}}).json["output"]
    assert "guest: password of guest set" in log
    for body in ({}, {"adminPass": 5}, {"adminPass": "x" * 256}):
        got = whole.call("POST", f"{S}/{server}/action", {"changePassword": body})
        assert got.status == 400 and b"xxx" not in got.raw
    act(whole, server, {"os-stop": None})
    assert status(whole, server) == "SHUTOFF"
    assert act(whole, server, new) == 409


def test_what_the_guest_posted(whole: Whole) -> None:
    """Simulated guests post nothing; that it can be asked for and cleared."""
    server = whole.server()
    path = f"{S}/{server}/os-server-password"
    assert whole.call("GET", path).json == {"password": ""}
    assert whole.call("DELETE", path, who="reader").status == 403
    assert whole.call("DELETE", path).status == 204
    assert status(whole, server) == "ACTIVE"


def test_a_crash_dump(whole: Whole) -> None:
    server = whole.server()
    assert act(whole, server, {"trigger_crash_dump": None}, "2.16") == 404
    assert act(whole, server, {"trigger_crash_dump": None}) == 202
    assert status(whole, server) == "ACTIVE"
    log = whole.call("POST", f"{S}/{server}/action", {"os-getConsoleOutput": {}}).json["output"]
    assert "guest: NMI received" in log
