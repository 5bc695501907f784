"""``kilonova console``: the console proxy as a process of its own, beside an api and agents. S18, S28, S29, R2."""

import http.client
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.client import until
from tests.consoles import opened, read, refused
from tests.nats import nats_server
from tests.processes.test_split import LONG_S, Split, V, gone, wait


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    with nats_server(), tempfile.TemporaryDirectory(prefix="kilonova-split-") as name:
        made = Split(Path(name) / "state", "--hosts", "2", "--database", "sqlite")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def server(split: Split) -> Iterator[str]:
    made = split.demo.boot("one")
    wait(split.demo, made, "ACTIVE")
    yield made
    split.demo.call("DELETE", f"{V}/{made}")
    gone(split.demo, made)


def _ask(split: Split, server: str, type_: str = "serial") -> Any:
    protocol = {"novnc": "vnc"}.get(type_, type_)
    body = {"remote_console": {"protocol": protocol, "type": type_}}
    return split.demo.call("POST", f"{V}/{server}/remote-consoles", body)


def _unless_away(got: Any) -> Any:
    return None if got.status == 503 else got


def _url(split: Split, server: str, type_: str = "serial") -> str:
    got = until(lambda: _unless_away(_ask(split, server, type_)), "the host answers", LONG_S)
    assert got.status == 200, got
    return str(got.json["remote_console"]["url"])


def _say(ws: ClientConnection, line: bytes) -> None:
    for _ in range(200):
        ws.send(line)


def test_both_consoles(split: Split, server: str) -> None:
    """The serial port hears and says; the display speaks RFB; many bytes come as they went."""
    with opened(_url(split, server)) as ws:
        assert read(ws, 11, LONG_S) == b"one login: "
        line = b"y" * 1000 + b"\r"
        threading.Thread(target=_say, args=(ws, line), daemon=True).start()
        echo = read(ws, 200 * 1002, LONG_S)
        assert echo == (b"y" * 1000 + b"\r\n") * 200
    with opened(_url(split, server, "novnc")) as ws:
        assert read(ws, 12, LONG_S) == b"RFB 003.008\n"


def test_a_token_opens_once_and_for_our_pages(split: Split, server: str) -> None:
    url = _url(split, server)
    for origin in (None, "http://evil.example", "null"):
        assert refused(url, origin) == 403
    with opened(url, split.url) as ws:
        assert read(ws, 1, LONG_S)
    assert refused(url) == 403
    assert refused(url.partition("?")[0] + "?token=guess") == 403


def test_a_token_dies_with_the_run_of_the_guest(split: Split, server: str) -> None:
    """S28: a reboot, and the end of the server; the token was made by one process and is taken by another."""
    url = _url(split, server)
    split.demo.act(server, {"reboot": {"type": "HARD"}})
    wait(split.demo, server, "ACTIVE")
    assert refused(url) == 409
    assert refused(url) == 403
    second = _url(split, server)
    split.demo.act(server, {"os-stop": None})
    wait(split.demo, server, "SHUTOFF")
    assert _ask(split, server).status == 409
    assert refused(second) == 409
    split.demo.act(server, {"os-start": None})
    wait(split.demo, server, "ACTIVE")
    third = _url(split, server)
    split.demo.delete(f"{V}/{server}")
    gone(split.demo, server)
    assert refused(third) == 403


def test_whoever_dies_consoles_come_back(split: Split, server: str) -> None:
    """R2: a token outlives the api and the proxy; a console ends with the proxy, or with the guest's agent."""
    for role in ("agent-cell1", "console"):
        with opened(_url(split, server)) as ws:
            assert read(ws, 1, LONG_S)
            before = split.kill(role)
            with pytest.raises(ConnectionClosed):
                while True:
                    ws.recv(timeout=LONG_S)
        _is_back(split, role, before)
    url = _url(split, server)
    for role in ("api", "nats", "agent-cell1", "console"):
        _is_back(split, role, split.kill(role))
    _try(url)


def _is_back(split: Split, role: str, before: int) -> None:
    until(lambda: split.pids().get(role) not in (None, before), role, LONG_S)
    until(lambda: _answers(split), "the API answers", LONG_S)


def _answers(split: Split) -> bool:
    try:
        return bool(split.demo.call("GET", "/readyz").status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _try(url: str) -> None:
    """Open a console as soon as the proxy, the bus and the host are there: what is away is not a wrong token."""

    def opens() -> bool:
        try:
            with opened(url) as ws:
                return bool(read(ws, 1, LONG_S))
        except OSError:
            return False
        except InvalidStatus as exc:
            assert exc.response.status_code == 503, exc.response
            return False

    until(opens, "the console", LONG_S)


def test_it_holds_nothing(split: Split) -> None:
    """S18, and: no database, no key, one question on the bus."""
    config = split.directory / "split" / "console.toml"
    for secret in ("sqlite", "postgresql", "secret", "account"):
        assert secret not in config.read_text()
    assert config.stat().st_mode & 0o077 == 0
    netloc = urlsplit(_page(config)).netloc
    for path in ("/../../etc/passwd", "/%2e%2e/etc/passwd", "//evil.example/x", "/"):
        connection = http.client.HTTPConnection(netloc, timeout=LONG_S)
        connection.request("GET", path)
        got = connection.getresponse()
        assert (got.status, got.getheader("Location"), b"root:" in got.read()) == (404, None, False)
        connection.close()


def _page(config: Path) -> str:
    import tomllib

    return str(tomllib.loads(config.read_text())["console_url"])
