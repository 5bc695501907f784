"""Consoles as their pages open them: a websocket by the URL that the API gave."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.client import until


@contextmanager
def opened(url: str, origin: str | None = "own") -> Iterator[ClientConnection]:
    """Open what a console URL leads to, as its page would."""
    parts = urlsplit(url)
    path = f"/?{parts.query}"
    if parts.path:
        path = "/" + unquote(parse_qs(parts.query).get("path", [path.lstrip("/")])[0])
    own = f"http://{parts.netloc}" if origin == "own" else origin
    with connect(f"ws://{parts.netloc}{path}", origin=own, proxy=None) as ws:  # type: ignore[arg-type]
        yield ws


def refused(url: str, origin: str | None = "own") -> int:
    """Return the status with which a console URL is refused."""
    with pytest.raises(InvalidStatus) as told, opened(url, origin):
        pass
    return int(told.value.response.status_code)


def read(ws: ClientConnection, size: int, timeout_s: float = 20.0) -> bytes:
    """Return at least ``size`` bytes."""
    found = b""
    while len(found) < size:
        piece = ws.recv(timeout=timeout_s)
        found += piece if isinstance(piece, bytes) else piece.encode()
    return found


def log_in_prompt(port: ClientConnection) -> None:
    """Press Return on a real guest's serial port until it asks who logs in."""
    heard = b""

    def login() -> bool:
        nonlocal heard
        port.send(b"\r")
        piece = port.recv(timeout=30)
        heard += piece if isinstance(piece, bytes) else piece.encode()
        return b"login:" in heard

    until(login, "a login prompt on the serial port", 60)
