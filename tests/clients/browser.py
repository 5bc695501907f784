"""A real headless browser, as far as a test needs one: open a page, ask it for the value of an expression."""

import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium")
GUARD_S = 60.0
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0"),
)

_LOADED = """performance.getEntriesByType('resource')
  .map(e => e.name.split('/').pop() + ' ' + e.responseStatus + ' ' + Math.round(e.duration)).join(', ')"""


class Page:
    """One page, spoken to by the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command; return its result."""
        mine = next(self._ids)
        self._connection.send(json.dumps({"id": mine, "method": method, "params": params}))
        while True:
            got = json.loads(self._connection.recv(timeout=GUARD_S))
            if got.get("id") == mine:
                assert "error" not in got, got
                return got["result"]

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is worth in the page."""
        got = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return got["result"].get("value")

    def until(self, expression: str, wanted: Any) -> None:
        """Wait until an expression has a value."""
        end = time.monotonic() + GUARD_S
        while (found := self.value(expression)) != wanted:
            assert time.monotonic() < end, (
                f"{expression} is {found!r}; loaded: {self.value(_LOADED)}"
            )
            time.sleep(0.05)


@contextmanager
def page(url: str) -> Iterator[Page]:
    """Open a page in a browser of its own."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_socket_of(Path(profile), url), proxy=None, max_size=None) as connection:
                yield Page(connection)
        finally:
            browser.terminate()
            browser.wait(30)


def _socket_of(profile: Path, url: str) -> str:
    """Return the address of the page's DevTools."""
    end = time.monotonic() + GUARD_S
    while time.monotonic() < end:
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                pages = json.loads(answer.read())
            return str(next(p["webSocketDebuggerUrl"] for p in pages if p["url"] == url))
        except (OSError, StopIteration, IndexError):
            time.sleep(0.05)
    raise AssertionError("the browser never opened the page")
