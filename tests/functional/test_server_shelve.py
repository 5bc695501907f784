"""shelve, shelveOffload and unshelve over HTTP, on whole simulated clouds."""

from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.common.config import Settings
from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def keeping() -> Iterator[Whole]:
    """A cloud whose shelved servers stay on their host until they are told to go."""
    with running(settings=Settings(shelved_offload_time_s=-1)) as cloud:
        yield cloud


def act(whole: Whole, server: str, body: dict[str, Any], version: str = "2.91", **more: Any) -> int:
    return int(whole.call("POST", f"{S}/{server}/action", body, version=version, **more).status)


def show(whole: Whole, server: str) -> dict[str, Any]:
    whole.settled(server)
    got = whole.call("GET", f"{S}/{server}", version="2.96", who="admin").json["server"]
    return dict(got)


def images(whole: Whole, name: str) -> int:
    return len(whole.call("GET", f"/image/v2/images?name={name}").json["images"])


def test_there_and_back(whole: Whole) -> None:
    server = whole.server("web", networks="auto")
    before = show(whole, server)
    assert act(whole, server, {"shelve": None}) == 202
    away = show(whole, server)
    assert (away["status"], away["OS-EXT-SRV-ATTR:host"]) == ("SHELVED_OFFLOADED", None)
    assert away["addresses"] == before["addresses"]
    assert images(whole, "web-shelved") == 1
    for body in ({"shelve": None}, {"os-start": None}, {"createImage": {"name": "x"}}):
        assert act(whole, server, body) == 409
    assert act(whole, server, {"unshelve": None}) == 202
    back = show(whole, server)
    assert (back["status"], back["addresses"]) == ("ACTIVE", before["addresses"])
    assert back["OS-EXT-SRV-ATTR:host"] is not None
    assert images(whole, "web-shelved") == 0
    whole.gone(server)


def test_on_a_host_and_in_a_zone(whole: Whole) -> None:
    server = whole.server()
    act(whole, server, {"shelve": None})
    whole.settled(server)
    host = {"host": "cell1-host3"}
    assert act(whole, server, {"unshelve": host}) == 403
    assert act(whole, server, {"unshelve": {"host": "nowhere"}}, who="admin") == 400
    assert act(whole, server, {"unshelve": {"availability_zone": "mars"}}) == 400
    assert act(whole, server, {"unshelve": {"availability_zone": None}}, "2.77") == 400
    assert (
        act(whole, server, {"unshelve": {**host, "availability_zone": "nova"}}, who="admin") == 202
    )
    back = show(whole, server)
    assert (back["OS-EXT-SRV-ATTR:host"], back["pinned_availability_zone"]) == (
        "cell1-host3",
        "nova",
    )
    act(whole, server, {"shelve": None})
    whole.settled(server)
    assert act(whole, server, {"unshelve": {"availability_zone": None}}) == 202
    assert show(whole, server)["pinned_availability_zone"] is None
    whole.gone(server)


def test_kept_on_its_host_until_told_to_go(keeping: Whole) -> None:
    server = keeping.server("kept")
    assert act(keeping, server, {"shelveOffload": None}, who="admin") == 409
    act(keeping, server, {"shelve": None})
    shown = show(keeping, server)
    assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("SHELVED", 4)
    assert act(keeping, server, {"unshelve": {"availability_zone": "nova"}}) == 409
    assert act(keeping, server, {"shelveOffload": None}) == 403
    assert act(keeping, server, {"shelveOffload": None}, who="admin") == 202
    assert show(keeping, server)["status"] == "SHELVED_OFFLOADED"
    keeping.gone(server)
    until(lambda: images(keeping, "kept-shelved") == 0 or None)


def test_it_leaves_after_a_time() -> None:
    with running(settings=Settings(shelved_offload_time_s=0.001)) as cloud:
        server = cloud.server()
        act(cloud, server, {"shelve": None})
        until(lambda: show(cloud, server)["status"] == "SHELVED_OFFLOADED" or None)
