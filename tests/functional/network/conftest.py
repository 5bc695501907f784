"""A whole network API on a temporary directory, with callers made of headers: ``X-Auth-Token: project:role``."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from kilonova.bus.interface import Handler
from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.common.errors import Unauthorized
from kilonova.http.app import Application
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.seed import seed
from kilonova.network.embedded.service import service
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Applied, Change
from kilonova.objects.port import NetworkEvent
from tests import databases

IMPLIED = {
    "admin": ("admin", "manager", "member", "reader"),
    "member": ("member", "reader"),
    "reader": ("reader",),
}
ADMIN, DEMO, OTHER = "a" * 32, "d" * 32, "e" * 32
NAMES = {"admin": ADMIN, "demo": DEMO, "other": OTHER}


def context(who: str) -> Context:
    """Read ``project:role``."""
    project, _, role = who.partition(":")
    return Context(
        request_id="req-1",
        user_id="u-" + project,
        project_id=NAMES.get(project, project),
        roles=IMPLIED[role],
    )


def authenticate(token: str | None, service_token: str | None, request_id: str) -> Context:
    if not token or ":" not in token:
        raise Unauthorized("The request you have made requires authentication.")
    return context(token)


class WordedBus:
    """A bus that delivers at once in the caller's thread, and keeps what was published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.handlers: list[tuple[str, Handler]] = []
        self.lock = threading.Lock()

    def publish(self, subject: str, body: bytes) -> None:
        with self.lock:
            self.sent.append((subject, body))
        for pattern, handler in list(self.handlers):
            if _fits(pattern, subject):
                handler(subject, body)

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> "_Ended":
        entry = (subject, handler)
        self.handlers.append(entry)
        return _Ended(lambda: self.handlers.remove(entry) if entry in self.handlers else None)

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        for pattern, handler in list(self.handlers):
            if _fits(pattern, subject):
                answer = handler(subject, body)
                assert answer is not None
                return answer
        raise AssertionError(f"nobody listens on {subject}")

    def deaf_s(self, last_s: float) -> float:
        return 0.0

    def close(self) -> None:
        self.handlers.clear()

    def changes(self, host: str) -> list[Change]:
        """Return what a host was told so far."""
        return [decode(b, Change) for s, b in self.sent if s == f"agent.{host}.state"]

    def documents(self, host: str, kind: str, thing: str) -> list[Any]:
        """Return every version of one document that a host was sent."""
        return [
            d
            for c in self.changes(host)
            for d in c.documents
            if type(d).__struct_config__.tag == kind and d.id == thing
        ]

    def removed(self, host: str) -> list[tuple[str, str]]:
        """Return (kind, id) of what a host was told to remove."""
        return [(k, i) for c in self.changes(host) for k, i, _ in c.removed]


class _Ended:
    def __init__(self, end: Callable[[], None]) -> None:
        self.close = end


def _fits(pattern: str, subject: str) -> bool:
    a, b = pattern.split("."), subject.split(".")
    return len(a) == len(b) and all(x in ("*", y) for x, y in zip(a, b, strict=True))


class Cloud:
    """The network service, its API and a recording bus; hosts h1 and h2 are alive."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.clock = ManualClock()
        self.database = databases.at(root / "network.sqlite", "network")
        self.bus = WordedBus()
        self.hosts = ["h1", "h2"]
        self.network = EmbeddedNetwork(
            self.database, self.bus, self.clock, lambda: list(self.hosts), **settings
        )
        self.events: list[NetworkEvent] = []
        self.network.on_event(self.events.append)
        self.network.start()
        self.app = Application(
            [service(self.network, "http://cloud:8774/network")],
            None,
            authenticate,
            "http://cloud:8774",
        )
        self.http = falcon.testing.TestClient(self.app.wsgi)

    def seed(self) -> None:
        """Make public, private and the router."""
        seed(self.network, ADMIN, DEMO)

    def call(
        self, method: str, path: str, who: str = "demo:member", body: Any = None
    ) -> falcon.testing.Result:
        """Make one request below /network/v2.0."""
        path, _, query = path.partition("?")
        return self.http.simulate_request(
            method,
            "/network/v2.0" + path,
            headers={"X-Auth-Token": who, "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body).encode(),
            query_string=query,
        )

    def ok(self, method: str, path: str, who: str = "demo:member", body: Any = None) -> Any:
        """Make one request that must succeed; return its JSON."""
        result = self.call(method, path, who, body)
        assert result.status_code in (200, 201, 204), f"{method} {path}: {result.text}"
        return result.json if result.content else None

    def make(self, kind: str, who: str = "demo:member", **fields: Any) -> dict[str, Any]:
        """Create a resource; underscores of names like ``router__external`` become colons."""
        plural = {
            "security_group": "security-groups",
            "security_group_rule": "security-group-rules",
        }
        path = "/" + plural.get(kind, kind + "s")
        body = {kind: {k.replace("__", ":"): v for k, v in fields.items()}}
        made: dict[str, Any] = self.ok("POST", path, who, body)[kind]
        return made

    def applied(self, host: str) -> None:
        """Report everything that a host was told as in force."""
        items = tuple(
            (str(type(d).__struct_config__.tag), d.id, d.generation, None)
            for c in self.bus.changes(host)
            for d in c.documents
        )
        self.bus.publish(f"network.report.{host}", encode(Applied(host=host, items=items)))

    def close(self) -> None:
        self.network.stop()
        self.database.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.close()


@pytest.fixture
def seeded(cloud: Cloud) -> Cloud:
    cloud.seed()
    return cloud
