"""A whole cloud in this process, with simulated hosts, on a directory of its own; and a plain client for its HTTP APIs.

@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cloud") / "state") as x:
        yield x

def test_it(cloud):
    server = cloud.demo.boot("web")
    cloud.demo.wait(server, "ACTIVE")
"""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova.common.config import Settings
from kilonova.reconcile import audit
from kilonova.saga.faults import Faults
from kilonova.server import first_content, state
from kilonova.server.cloud import Cloud
from kilonova.server.plan import Plan
from tests import answers
from tests.answers import Exchange, verify
from tests.ledger import Ledger, ledger

GUARD_S = 30.0
LATEST = "2.104"


def eventually(condition: Callable[[], Any], what: str = "it", guard_s: float = GUARD_S) -> Any:
    """Look again and again until a condition holds; return what it returned."""
    end = time.monotonic() + guard_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Reply:
    """One answer. body: decoded JSON, None when it has none."""

    status: int
    headers: Mapping[str, str]
    body: Any
    text: bytes = field(repr=False)

    @property
    def message(self) -> str:
        """The message of a refusal, whichever API it is from."""
        if not isinstance(self.body, dict):
            return self.text.decode(errors="replace")
        if "errors" in self.body:
            return str(self.body["errors"][0].get("detail"))
        inner = next(iter(self.body.values()), "")
        return str(inner.get("message", inner)) if isinstance(inner, dict) else str(inner)


class Client:
    """One user with one token. Safe from several threads: each request has its own connection."""

    def __init__(
        self, url: str, token: str | None, project: str | None, version: str = LATEST
    ) -> None:
        self.url = url
        self.token = token
        self.project = project
        self.version = version

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        version: str | None = None,
    ) -> Reply:
        """Send one request; path begins at the cloud's root ("/compute/v2.1/servers")."""
        at = urlsplit(self.url)
        sent = {
            "Accept": "application/json",
            "X-OpenStack-Nova-API-Version": version or self.version,
        }
        if self.token is not None:
            sent["X-Auth-Token"] = self.token
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        decoded = None
        if text and "json" in (answer.getheader("Content-Type") or ""):
            decoded = json.loads(text)
        answered = {k.lower(): v for k, v in answer.getheaders()}
        verify(Exchange(method, path, answers.decoded(data), answer.status, answered, text))
        return Reply(answer.status, answered, decoded, text)

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

    def _good(self, reply: Reply) -> Any:
        assert reply.status < 300, f"{reply.status}: {reply.message}"
        return reply.body

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

    def act(self, server: str, action: Mapping[str, Any], **kw: Any) -> Reply:
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

        found: dict[str, Any] = eventually(look, f"{status} of {server}")
        return found

    def gone(self, server: str) -> None:
        """Wait until a server is gone."""
        eventually(
            lambda: self.call("GET", f"/compute/v2.1/servers/{server}").status == 404,
            f"end of {server}",
        )


class RunningCloud:
    """A started Cloud with clients of its first users. ``cloud`` is the Cloud itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cloud = Cloud(plan)

    def start(self) -> None:
        """Start it, make the first content, log in."""
        self.cloud.start()
        first_content.ensure(self.cloud, None)
        self.url = self.cloud.url
        self.services = self.cloud.services
        passwords = state.read_json(self.plan.state_dir / state.PASSWORDS) or {}
        self.passwords: dict[str, str] = passwords
        self.admin = self.login("admin", passwords["admin"], "admin")
        self.demo = self.login("demo", passwords["demo"], "demo")

    def login(self, user: str, password: str, project: str, version: str = LATEST) -> Client:
        """Return a client with a token for a project."""
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {"name": user, "domain": {"id": "default"}, "password": password}
                    },
                },
                "scope": {"project": {"name": project, "domain": {"id": "default"}}},
            }
        }
        reply = Client(self.url, None, None).call("POST", "/identity/v3/auth/tokens", body)
        assert reply.status == 201, reply.message
        return Client(
            self.url,
            reply.headers["x-subject-token"],
            reply.body["token"]["project"]["id"],
            version,
        )

    def at_rest(self) -> None:
        """Wait until no operation is live and no message is under way."""
        databases = self.cloud.engine.databases.values()
        from kilonova.saga import journal

        eventually(
            lambda: (
                not any(
                    db.read(lambda tx: journal.list_(tx, live=True, limit=1)) for db in databases
                )
            ),
            "the end of all operations",
        )
        drain = getattr(self.cloud.bus, "drain", None)
        if drain is not None:
            drain()

    def ledger(self) -> Ledger:
        """Count everything that stands, once the cloud is at rest and the audit has come to its end."""
        self.at_rest()
        found = ledger(self.services, self.cloud.fleet.world, self.cloud.fleet.agents)
        found["tap"] = sum(len(n.plugged) for n in self.cloud.fleet.networks.values())
        return +found

    def audit(self) -> list[dict[str, Any]]:
        """Return what the audit finds."""
        return audit.run(self.services)

    def stop(self) -> None:
        """Stop it; its directory stays."""
        self.cloud.stop()


@contextlib.contextmanager
def running(
    state_dir: Path,
    *,
    hosts: int = 2,
    cells: int = 1,
    faults: Faults | None = None,
    settings: Settings | None = None,
    **plan: Any,
) -> Iterator[RunningCloud]:
    """Start a cloud, stop it at the end."""
    made = Plan(
        state_dir=state_dir,
        driver="fake",
        hosts=hosts,
        cells=cells,
        port=0,
        faults=faults,
        settings=settings or Settings(heartbeat_s=1.0),
        **plan,
    )
    x = RunningCloud(made)
    try:
        x.start()
        yield x
    finally:
        x.stop()
