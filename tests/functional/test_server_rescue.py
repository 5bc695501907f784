"""rescue and unrescue over HTTP, on a whole simulated cloud."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Whole, running

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as cloud:
        yield cloud


def act(whole: Whole, server: str, body: dict[str, Any], **more: Any) -> Any:
    return whole.call("POST", f"{S}/{server}/action", body, version="2.87", **more)


def status(whole: Whole, server: str) -> str:
    return str(whole.settled(server).json["server"]["status"])


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_rescued_and_back(whole: Whole, stopped: bool) -> None:
    server = whole.server()
    if stopped:
        act(whole, server, {"os-stop": None})
        assert status(whole, server) == "SHUTOFF"
    got = act(whole, server, {"rescue": {"rescue_image_ref": whole.image(), "adminPass": "pw-1"}})
    assert (got.status, got.json) == (200, {"adminPass": "pw-1"})
    assert status(whole, server) == "RESCUE"
    assert act(whole, server, {"os-stop": None}).status == 409
    assert act(whole, server, {"rescue": None}).status == 409
    assert act(whole, server, {"unrescue": None}).status == 202
    assert status(whole, server) == "ACTIVE"
    assert act(whole, server, {"unrescue": None}).status == 409
    whole.gone(server)


def test_its_own_image_without_one_named(whole: Whole) -> None:
    server = whole.server()
    got = act(whole, server, {"rescue": None})
    assert got.status == 200 and len(got.json["adminPass"]) > 8
    assert status(whole, server) == "RESCUE"
    whole.gone(server)


def test_what_is_refused(whole: Whole) -> None:
    server = whole.server()
    for body in ({"rescue_image_ref": "x"}, {"adminPass": 1}, {"x": 1}):
        assert act(whole, server, {"rescue": body}).status == 400
    missing = {"rescue_image_ref": "00000000-0000-4000-8000-000000000000"}
    assert act(whole, server, {"rescue": missing}).status == 400
    assert act(whole, server, {"rescue": None}, who="other").status == 404
    assert act(whole, server, {"rescue": None}, who="reader").status == 403
    assert status(whole, server) == "ACTIVE"
    whole.gone(server)
