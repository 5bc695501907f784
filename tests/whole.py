"""A whole simulated cloud in this process, and the people who use it.

People: ``admin``; ``demo`` (member), ``reader`` and ``manager`` of project demo; ``other``, a member of project other;
``service``.
Speak with it as one of them by ``whole.call(…, who="reader")``, or by a client of one: ``whole.demo.boot("web")``.

@pytest.fixture(scope="module")
def whole():
    with running(hosts=2) as made:
        yield made
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kilonova.reconcile import audit
from kilonova.saga import journal
from kilonova.server import first_content
from kilonova.server.cloud import Cloud
from kilonova.server.plan import Plan
from tests import databases, places
from tests.client import LATEST, Answer, Client, Wire, until
from tests.ledger import Ledger, ledger

__all__ = ["LATEST", "Answer", "Client", "Whole", "running", "until"]
PASSWORD = "correct-horse-battery-7"
ROLES = {
    "reader": ("demo", "reader"),
    "manager": ("demo", "manager"),
    "other": ("other", "member"),
    "service": ("other", "service"),
}


class Whole:
    """A running cloud; ``call`` speaks HTTP with it, as one of the people or as nobody."""

    def __init__(self, directory: Path, **plan: Any) -> None:
        plan.setdefault("databases", databases.of_cloud(directory))
        self.plan = Plan(state_dir=directory, port=0, **plan)
        self.cloud = Cloud(self.plan)
        try:
            self.cloud.start()
            self.content = first_content.ensure(self.cloud, None)
        except BaseException:
            self.cloud.stop()
            raise
        self.services = self.cloud.services
        self._speak(self.cloud.url, directory / "passwords.json")

    def _speak(self, url: str, passwords: Path) -> None:
        self.url = url
        self._wire = Wire(url, keep=True)
        self._tokens: dict[str, str] = {}
        self.passwords = json.loads(passwords.read_text())

    def close(self) -> None:
        """Stop the cloud; its directory stays."""
        self.hang_up()
        self.cloud.stop()

    def hang_up(self) -> None:
        """Close this thread's connection."""
        self._wire.hang_up()

    # -- who asks

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
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        return self._wire.send(method, path, body, sent)

    @cached_property
    def admin(self) -> Client:
        """A client of admin's."""
        return self.client("admin", self.passwords["admin"], "admin")

    @cached_property
    def demo(self) -> Client:
        """A client of demo's."""
        return self.client("demo", self.passwords["demo"], "demo")

    def client(self, user: str, password: str, project: str, version: str = LATEST) -> Client:
        """Return a client with a token of its own for a project."""
        got = self._log_in(user, password, project)
        made = got.json["token"]["project"]["id"]
        return Client(self.url, got.headers["x-subject-token"], made, version)

    def _log_in(self, user: str, password: str, project: str) -> Answer:
        domain = {"id": "default"}
        who = {"name": user, "domain": domain, "password": password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": who}},
            "scope": {"project": {"name": project, "domain": domain}},
        }
        got = self.call("POST", "/identity/v3/auth/tokens", {"auth": auth}, who=None)
        assert got.status == 201, got
        return got

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
        return self._log_in(who, password, project).headers["x-subject-token"]

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
        until(lambda: self.call("GET", path, who="admin").status == 404)

    # -- what stands

    def at_rest(self) -> None:
        """Wait until no operation is live and no message is under way."""

        def live(tx: Any) -> Any:
            return journal.list_(tx, live=True, limit=1)

        databases = self.cloud.engine.databases.values()
        until(lambda: not any(db.read(live) for db in databases), "the end of all operations")
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
        self.hang_up()


@contextlib.contextmanager
def running(directory: Path | None = None, **plan: Any) -> Iterator[Whole]:
    """A cloud of its own, stopped with the block; without a directory it is gone too."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(places.place("whole")) / "state"
        whole = Whole(directory, **plan)
        stack.callback(whole.close)
        yield whole
