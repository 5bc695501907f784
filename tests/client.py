"""One user of a running cloud, over plain HTTP: no client library of anybody, so that every byte is ours to choose."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.answers import Exchange, decoded, verify

GUARD_S = 30.0
LATEST = "2.104"


def until(look: Callable[[], Any], what: str = "it", guard_s: float = GUARD_S) -> Any:
    """Look again and again until the answer is true; return it."""
    end = time.monotonic() + guard_s
    while not (found := look()):
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Answer:
    """One answer. json is None where the body is none."""

    status: int
    headers: dict[str, str]
    raw: bytes
    json: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.raw and "json" in self.headers.get("content-type", ""):
            self.json = json.loads(self.raw)

    def __repr__(self) -> str:
        return f"{self.status} {self.raw[:400]!r}"

    @property
    def message(self) -> str:
        """The message of a refusal, whichever API it is from."""
        if not isinstance(self.json, dict):
            return self.raw.decode(errors="replace")
        if "errors" in self.json:
            return str(self.json["errors"][0].get("detail"))
        inner = next(iter(self.json.values()), "")
        return str(inner.get("message", inner)) if isinstance(inner, dict) else str(inner)


class Wire:
    """HTTP with one cloud; every answer is held against the cloud's own description.

    keep: each thread keeps its connection, and closes it by ``hang_up``; else each request has its own.
    """

    def __init__(self, url: str, *, keep: bool = False) -> None:
        self.url = url
        self._keep = keep
        self._local = threading.local()

    def send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        """Send one request. body: bytes as they are, None for none, else JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = dict(headers)
        if data is not None and not isinstance(body, bytes):
            sent.setdefault("Content-Type", "application/json")
        try:
            out = self._send(method, path, data, sent)
        except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError):
            if not self.hang_up():
                raise
            out = self._send(method, path, data, sent)  # the kept connection had ended
        finally:
            if not self._keep:
                self.hang_up()
        verify(Exchange(method, path, decoded(data), out.status, out.headers, out.raw))
        return out

    def _send(self, method: str, path: str, data: bytes | None, sent: dict[str, str]) -> Answer:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
            self._local.connection = connection
            self._local.fresh = True
        connection.request(method, path, data, sent)
        got = connection.getresponse()
        self._local.fresh = False
        return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())

    def hang_up(self) -> bool:
        """Close this thread's connection; tell whether it had carried an answer."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            return False
        connection.close()
        self._local.connection = None
        return not self._local.fresh


class Client:
    """One user with one token. Safe from several threads."""

    def __init__(
        self, url: str, token: str | None, project: str | None, version: str = LATEST
    ) -> None:
        self.url = url
        self.token = token
        self.project = project
        self.version = version
        self._wire = Wire(url)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        version: str | None = None,
    ) -> Answer:
        """Send one request; path begins at the cloud's root ("/compute/v2.1/servers")."""
        sent = {
            "Accept": "application/json",
            "X-OpenStack-Nova-API-Version": version or self.version,
        }
        if self.token is not None:
            sent["X-Auth-Token"] = self.token
        return self._wire.send(method, path, body, {**sent, **(headers or {})})

    def get(self, path: str, **kw: Any) -> Any:
        """GET that must work; return its body."""
        return self._good(self.call("GET", path, **kw))

    def post(self, path: str, body: Any = None, **kw: Any) -> Any:
        """POST that must work; return its body."""
        return self._good(self.call("POST", path, body, **kw))

    def put(self, path: str, body: Any = None, **kw: Any) -> Any:
        """PUT that must work; return its body."""
        return self._good(self.call("PUT", path, body, **kw))

    def delete(self, path: str, **kw: Any) -> None:
        """DELETE that must work."""
        self._good(self.call("DELETE", path, **kw))

    def _good(self, answer: Answer) -> Any:
        assert answer.status < 300, f"{answer.status}: {answer.message}"
        return answer.json

    # -- servers

    def first(self, path: str, name: str) -> str:
        """Return the id of what has a name in a list (/image/v2/images, /compute/v2.1/flavors …)."""
        things = next(v for v in self.get(path).values() if isinstance(v, list))
        found: str = next(t["id"] for t in things if t["name"] == name)
        return found

    def server_body(self, name: str = "s", **more: Any) -> dict[str, Any]:
        """Return the body of POST /servers: tiny-linux, m1.nano, the private network."""
        body = {
            "name": name,
            "imageRef": self.first("/image/v2/images", "tiny-linux"),
            "flavorRef": self.first("/compute/v2.1/flavors", "m1.nano"),
            "networks": [{"uuid": self.first("/network/v2.0/networks", "private")}],
        }
        body.update(more)
        return {"server": {k: v for k, v in body.items() if v is not None}}

    def boot(self, name: str = "s", **more: Any) -> str:
        """Create a server; return its id once it is accepted."""
        made: str = self.post("/compute/v2.1/servers", self.server_body(name, **more))["server"][
            "id"
        ]
        return made

    def show(self, server: str) -> dict[str, Any]:
        """Return a server."""
        shown: dict[str, Any] = self.get(f"/compute/v2.1/servers/{server}")["server"]
        return shown

    def act(self, server: str, action: Mapping[str, Any], **kw: Any) -> Answer:
        """POST an action."""
        return self.call("POST", f"/compute/v2.1/servers/{server}/action", dict(action), **kw)

    def wait(self, server: str, status: str) -> dict[str, Any]:
        """Wait until a server has a status and nothing is done to it."""

        def look() -> dict[str, Any] | None:
            shown = self.show(server)
            if shown["status"] == "ERROR" and status != "ERROR":
                raise AssertionError(f"server in ERROR: {shown.get('fault')}")
            rest = shown["OS-EXT-STS:task_state"] is None
            return shown if shown["status"] == status and rest else None

        found: dict[str, Any] = until(look, f"{status} of {server}")
        return found

    def gone(self, server: str) -> None:
        """Wait until a server is gone."""
        until(
            lambda: self.call("GET", f"/compute/v2.1/servers/{server}").status == 404,
            f"end of {server}",
        )
