"""Remote consoles over real websockets, against a whole cloud with simulated guests (S18, S28, S29)."""

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.consoles import opened, read, refused
from tests.whole import Answer, Whole, running

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    made = cloud.server()
    yield made
    cloud.gone(made)


def _ask(cloud: Whole, server: str, protocol: str, type_: str, **more: Any) -> Answer:
    body = {"remote_console": {"protocol": protocol, "type": type_}}
    more.setdefault("version", "2.104")
    return cloud.call("POST", f"{V}/servers/{server}/remote-consoles", body, **more)


def _url(cloud: Whole, server: str, type_: str) -> str:
    got = _ask(cloud, server, {"novnc": "vnc"}.get(type_, type_), type_)
    assert got.status == 200, got
    console = got.json["remote_console"]
    assert console["type"] == type_
    return str(console["url"])


def _get(url: str, path: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", path)
    got = connection.getresponse()
    out = got.status, got.read(), dict(got.getheaders())
    connection.close()
    return out


def test_a_serial_console_carries_both_ways(cloud: Whole, server: str) -> None:
    with opened(_url(cloud, server, "serial")) as ws:
        assert read(ws, 11) == b"one login: "
        ws.send(b"hello\r")
        assert read(ws, 7) == b"hello\r\n"


def test_a_display_speaks_rfb(cloud: Whole, server: str) -> None:
    with opened(_url(cloud, server, "novnc")) as ws:
        assert read(ws, 12) == b"RFB 003.008\n"


def test_a_token_opens_once(cloud: Whole, server: str) -> None:
    url = _url(cloud, server, "serial")
    with opened(url) as ws:
        read(ws, 1)
    assert refused(url) == 403
    assert refused(url.partition("?")[0] + "?token=guess") == 403


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
def test_a_foreign_page_opens_nothing(cloud: Whole, server: str, origin: str | None) -> None:
    """S29; the token is not spent by it."""
    url = _url(cloud, server, "serial")
    assert refused(url, origin) == 403
    with opened(url, origin=cloud.url) as ws:
        assert read(ws, 1)


def test_a_token_dies_with_the_run_of_the_guest(cloud: Whole, server: str) -> None:
    """S28: stopped, and started again, the token of before opens nothing; a new one does."""
    path = f"{V}/servers/{server}/action"
    before = _url(cloud, server, "serial")
    cloud.call("POST", path, {"os-stop": None})
    cloud.settled(server)
    assert refused(before) >= 400
    assert _ask(cloud, server, "vnc", "novnc").status == 409
    again = _url_after_start(cloud, server, path)
    assert refused(before) == 403
    with opened(again) as ws:
        assert read(ws, 1)


def _url_after_start(cloud: Whole, server: str, path: str) -> str:
    cloud.call("POST", path, {"os-start": None})
    cloud.settled(server)
    old = _url(cloud, server, "serial")
    cloud.call("POST", path, {"reboot": {"type": "HARD"}})
    cloud.settled(server)
    assert refused(old) >= 400
    return _url(cloud, server, "serial")


def test_a_token_dies_with_the_server(cloud: Whole) -> None:
    made = cloud.server("short")
    url = _url(cloud, made, "serial")
    cloud.gone(made)
    assert refused(url) == 403


def test_what_is_refused(cloud: Whole, server: str) -> None:
    assert _ask(cloud, server, "vnc", "novnc", who="other").status == 404
    assert _ask(cloud, server, "vnc", "novnc", who="reader").status == 403
    assert _ask(cloud, server, "spice", "spice-html5").status == 400
    assert _ask(cloud, server, "vnc", "serial").status == 400
    assert _ask(cloud, server, "mks", "webmks", version="2.7").status == 400
    assert _ask(cloud, server, "nothing", "novnc").status == 400


def test_until_2_5_there_are_actions(cloud: Whole, server: str) -> None:
    path = f"{V}/servers/{server}/action"
    got = cloud.call("POST", path, {"os-getVNCConsole": {"type": "novnc"}}, version="2.1")
    assert got.status == 200 and "vnc_lite.html" in got.json["console"]["url"]
    got = cloud.call("POST", path, {"os-getSerialConsole": {"type": "serial"}}, version="2.5")
    assert got.status == 200 and got.json["console"]["url"].startswith("ws://")
    old = {"os-getVNCConsole": {"type": "xvpvnc"}}
    assert cloud.call("POST", path, old, version="2.1").status == 400
    assert cloud.call("POST", path, {"os-getVNCConsole": {"type": "novnc"}}).status == 200
    assert cloud.call("POST", path, old, version="2.6").status in (400, 404)


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//evil.example/x", "/core/../../x", "/"],
)
def test_no_path_leads_out(cloud: Whole, server: str, path: str) -> None:
    """S18: names come from a list; anything else is not found, and nothing redirects."""
    status, body, headers = _get(_url(cloud, server, "novnc"), path)
    assert status == 404 and b"root:" not in body and "Location" not in headers
