"""rebuild over HTTP with its options at their microversions, on a whole simulated cloud."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Whole, running

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as cloud:
        yield cloud


def rebuild(whole: Whole, server: str, version: str = "2.94", **asked: Any) -> Any:
    who = asked.pop("who", "demo")
    body = {"rebuild": {"imageRef": whole.image(), **asked}}
    return whole.call("POST", f"{S}/{server}/action", body, version=version, who=who)


def show(whole: Whole, server: str) -> dict[str, Any]:
    whole.settled(server)
    got = whole.call("GET", f"{S}/{server}", version="2.94", who="admin").json["server"]
    return dict(got)


def test_everything_that_can_change(whole: Whole) -> None:
    key = {"keypair": {"name": "rebuild-key", "public_key": KEY}}
    whole.call("POST", "/compute/v2.1/os-keypairs", key)
    server = whole.server("before", networks="auto", metadata={"old": "1"})
    before = show(whole, server)
    data = base64.b64encode(b"hello").decode()
    got = rebuild(
        whole,
        server,
        name="after",
        description="d",
        hostname="after.example",
        metadata={"new": "2"},
        key_name="rebuild-key",
        user_data=data,
        accessIPv4="192.0.2.1",
        adminPass="pw-1",
        preserve_ephemeral=False,
    )
    assert got.status == 202, got
    told = got.json["server"]
    assert (told["name"], told["adminPass"], told["user_data"]) == ("after", "pw-1", data)
    assert got.headers["location"].endswith(f"/servers/{server}")
    now = show(whole, server)
    assert (now["status"], now["name"], now["description"]) == ("ACTIVE", "after", "d")
    assert (now["metadata"], now["key_name"]) == ({"new": "2"}, "rebuild-key")
    assert now["accessIPv4"] == "192.0.2.1"
    assert now["OS-EXT-SRV-ATTR:hostname"] == "after.example"
    assert now["OS-EXT-SRV-ATTR:user_data"] == data
    assert (now["addresses"], now["hostId"]) == (before["addresses"], before["hostId"])
    rebuild(whole, server, key_name=None, user_data=None, description=None)
    now = show(whole, server)
    assert (now["key_name"], now["description"], now["OS-EXT-SRV-ATTR:user_data"]) == (None,) * 3
    whole.gone(server)


@pytest.mark.parametrize("version", ["2.1", "2.19", "2.54", "2.57", "2.63", "2.75", "2.104"])
def test_answers_at_their_versions(whole: Whole, version: str) -> None:
    """The answer's fields are held against what the route declares (tests/answers.py)."""
    server = whole.server()
    assert rebuild(whole, server, version).status == 202
    whole.settled(server)
    whole.gone(server)


def test_a_stopped_server_stays_stopped(whole: Whole) -> None:
    server = whole.server()
    whole.call("POST", f"{S}/{server}/action", {"os-stop": None})
    whole.settled(server)
    assert rebuild(whole, server).status == 202
    assert show(whole, server)["status"] == "SHUTOFF"
    whole.gone(server)


def test_what_is_refused(whole: Whole) -> None:
    server = whole.server()
    missing = "00000000-0000-4000-8000-000000000000"
    assert rebuild(whole, server, imageRef=missing).status == 400
    assert rebuild(whole, server, key_name="nobody").status == 400
    assert rebuild(whole, server, "2.53", key_name="x").status == 400
    assert rebuild(whole, server, "2.56", user_data="eA==").status == 400
    assert rebuild(whole, server, "2.18", description="x").status == 400
    assert rebuild(whole, server, "2.89", hostname="xy").status == 400
    assert rebuild(whole, server, "2.93", hostname="a.b").status == 400
    assert rebuild(whole, server, personality=[]).status == 400
    assert rebuild(whole, server, metadata={f"k{n}": "v" for n in range(200)}).status == 403
    assert rebuild(whole, server, who="other").status == 404
    assert rebuild(whole, server, who="reader").status == 403
    whole.call("POST", f"{S}/{server}/action", {"pause": None})
    whole.settled(server)
    assert rebuild(whole, server).status == 409
    whole.gone(server)


KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl walk@example"
)
