"""A whole simulated cloud in this process, the people who use it, and a plain HTTP client for it.

People: ``admin``; ``demo`` (member) and ``reader`` of project demo; ``other``, a member of project other; ``service``.
"""

import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova.server import first_content
from kilonova.server.cloud import Cloud
from kilonova.server.plan import Plan
from tests.answers import Exchange, decoded, verify

PASSWORD = "correct-horse-battery-7"
ROLES = {
    "reader": ("demo", "reader"),
    "other": ("other", "member"),
    "service": ("other", "service"),
}
GUARD_S = 30.0


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


class Whole:
    """A running cloud; ``call`` speaks HTTP with it, as one of the people or as nobody."""

    def __init__(self, directory: Path, **plan: Any) -> None:
        self.cloud = Cloud(Plan(state_dir=directory, port=0, **plan))
        self.cloud.start()
        self.content = first_content.ensure(self.cloud, None)
        self._speak(self.cloud.url, directory / "passwords.json")

    def _speak(self, url: str, passwords: Path) -> None:
        self.url = url
        self._local = threading.local()
        self._tokens: dict[str, str] = {}
        self.passwords = json.loads(passwords.read_text())

    def close(self) -> None:
        """Stop the cloud."""
        self.cloud.stop()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = "demo",
        token: str | None = None,
        version: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request. version: of compute. body: bytes as they are, else JSON. who None: without a token."""
        sent = dict(headers or {})
        if token is None and who is not None:
            token = self.token(who)
        if token is not None:
            sent["X-Auth-Token"] = token
        if version is not None:
            kind = "placement" if path.startswith("/placement") else "compute"
            sent["OpenStack-API-Version"] = f"{kind} {version}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        for last in (False, True):
            connection = self._connection()
            try:
                connection.request(method, path, data, sent)
                got = connection.getresponse()
                answered = {k.lower(): v for k, v in got.getheaders()}
                out = Answer(got.status, answered, got.read())
                break
            except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError):
                connection.close()
                self._local.connection = None
                if last:
                    raise
        verify(Exchange(method, path, decoded(data), out.status, out.headers, out.raw))
        return out

    def _connection(self) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if made is None:
            made = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
            self._local.connection = made
        return made

    def hang_up(self) -> None:
        """Close this thread's connection."""
        made = getattr(self._local, "connection", None)
        if made is not None:
            made.close()
            self._local.connection = None

    def token(self, who: str) -> str:
        """Return a token of one of the people, made once."""
        if who not in self._tokens:
            self._tokens[who] = self.login(who)
        return self._tokens[who]

    def login(self, who: str) -> str:
        """Return a new token; the person is made first if need be."""
        if who in ROLES:
            self._make(who)
        project = ROLES[who][0] if who in ROLES else who
        password = PASSWORD if who in ROLES else self.passwords[who]
        user = {"name": who, "domain": {"id": "default"}, "password": password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": project, "domain": {"id": "default"}}},
        }
        got = self.call("POST", "/identity/v3/auth/tokens", {"auth": auth}, who=None)
        assert got.status == 201, got
        return got.headers["x-subject-token"]

    def _make(self, who: str) -> None:
        project, role = ROLES[who]
        wanted = {"user": {"name": who, "password": PASSWORD}}
        made = self.call("POST", "/identity/v3/users", wanted, who="admin")
        if made.status == 409:
            return
        assert made.status == 201, made
        self.call("POST", "/identity/v3/projects", {"project": {"name": project}}, who="admin")
        projects = self.call("GET", f"/identity/v3/projects?name={project}", who="admin")
        roles = self.call("GET", f"/identity/v3/roles?name={role}", who="admin")
        project_id, role_id = projects.json["projects"][0]["id"], roles.json["roles"][0]["id"]
        user_id = made.json["user"]["id"]
        path = f"/identity/v3/projects/{project_id}/users/{user_id}/roles/{role_id}"
        assert self.call("PUT", path, who="admin").status == 204

    def project(self, name: str) -> str:
        """Return a project's id."""
        found = self.call("GET", f"/identity/v3/projects?name={name}", who="admin")
        return str(found.json["projects"][0]["id"])

    def image(self) -> str:
        """Return the id of the image that every cloud has."""
        found = self.call("GET", "/image/v2/images?name=tiny-linux")
        return str(found.json["images"][0]["id"])

    def server(self, name: str = "one", *, who: str = "demo", **more: Any) -> str:
        """Make a server, wait until it is built; return its id."""
        body = {"name": name, "flavorRef": "42", "imageRef": self.image(), "networks": "none"}
        got = self.call(
            "POST", "/compute/v2.1/servers", {"server": {**body, **more}}, who=who, version="2.90"
        )
        assert got.status == 202, got
        server_id = str(got.json["server"]["id"])
        self.settled(server_id, who=who)
        return server_id

    def settled(self, server_id: str, *, who: str = "admin") -> Answer:
        """Wait until nothing is going on with a server; return its last answer."""

        def look() -> Answer | None:
            got = self.call("GET", f"/compute/v2.1/servers/{server_id}", who=who)
            shown = got.json.get("server")
            busy = shown and (shown["status"] == "BUILD" or shown["OS-EXT-STS:task_state"])
            return None if busy else got

        return until(look)

    def gone(self, server_id: str) -> None:
        """Delete a server and wait until it is gone."""
        self.call("DELETE", f"/compute/v2.1/servers/{server_id}", who="admin")
        path = f"/compute/v2.1/servers/{server_id}"
        until(lambda: self.call("GET", path, who="admin").status == 404 or None)


@dataclass
class Known:
    """The ids that a cloud elsewhere has for the first projects and users."""

    projects: dict[str, str]
    users: dict[str, str]


class Elsewhere(Whole):
    """A cloud that runs already, by its address; its passwords are in a file that ``kilonova up`` wrote."""

    def __init__(self, url: str, passwords: Path) -> None:
        self._speak(url.rstrip("/"), passwords)
        found = self.call("GET", "/identity/v3/users", who="admin").json["users"]
        people = {u["name"]: u["id"] for u in found}
        projects = {name: self.project(name) for name in ("admin", "demo")}
        self.content: Any = Known(projects, people)

    def close(self) -> None:
        """It goes on."""


def until(look: Callable[[], Any], what: str = "it never came") -> Any:
    """Return the first answer of ``look`` that is not None."""
    deadline = time.monotonic() + GUARD_S
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError(what)


@contextmanager
def running(**plan: Any) -> Iterator[Whole]:
    """A cloud of its own, gone with the block."""
    with tempfile.TemporaryDirectory(prefix="kilonova-test-") as directory:
        whole = Whole(Path(directory) / "state", **plan)
        try:
            yield whole
        finally:
            whole.hang_up()
            whole.close()
