"""A cloud's identity on a real database file, with a clock that we move, and a client that remembers nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from kilonova.common.clock import ManualClock
from kilonova.db.engine import Database
from kilonova.http.app import Application
from kilonova.identity.embedded import passwords
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.seed import Seeded, seed
from kilonova.identity.embedded.service import service
from tests import databases

URL = "http://cloud.example:8774"
CATALOG = [
    ("identity", "keystone", f"{URL}/identity"),
    ("compute", "nova", f"{URL}/compute/v2.1"),
    ("image", "glance", f"{URL}/image"),
    ("network", "neutron", f"{URL}/network"),
    ("placement", "placement", f"{URL}/placement"),
]
PASSWORDS = {"admin": "admin-secret", "demo": "demo-secret", "kilonova": "own-secret"}
Json = dict[str, Any]


@dataclass
class Cloud:
    """Everything a test touches."""

    identity: EmbeddedIdentity
    seeded: Seeded
    clock: ManualClock
    database: Database
    client: falcon.testing.TestClient

    def call(
        self, method: str, path: str, token: str | None = None, body: Any = None, **headers: str
    ) -> falcon.testing.Result:
        """Send one request to /identity/v3."""
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        if token is not None:
            given["X-Auth-Token"] = token
        path, _, query = path.partition("?")
        return self.client.simulate_request(
            method, "/identity/v3" + path, headers=given, json=body, query_string=query
        )

    def login(
        self, user: str = "demo", password: str | None = None, scope: Any = "demo", **more: Any
    ) -> falcon.testing.Result:
        """Ask for a token by password. scope: a project's name, any scope object, or None for none."""
        who = {"name": user, "domain": {"id": "default"}}
        who["password"] = PASSWORDS.get(user, "") if password is None else password
        auth: Json = {"identity": {"methods": ["password"], "password": {"user": who}}}
        if isinstance(scope, str) and scope != "unscoped":
            scope = {"project": {"name": scope, "domain": {"name": "Default"}}}
        if scope is not None:
            auth["scope"] = scope
        return self.call("POST", "/auth/tokens", body={"auth": auth | more})

    def token(self, *args: Any, **kw: Any) -> str:
        """Log in and return the token."""
        answer = self.login(*args, **kw)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def make(self, token: str, collection: str, noun: str, **attributes: Any) -> Json:
        """Create something and return it."""
        answer = self.call("POST", f"/{collection}", token, {noun: attributes})
        assert answer.status_code == 201, answer.text
        made: Json = answer.json[noun]
        return made


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    # A cheap cost for all but the tests of the cost itself.
    monkeypatch.setattr(passwords, "LOG2_N", 4)
    clock = ManualClock()
    database = databases.at(tmp_path / "identity.db", "identity")
    identity = EmbeddedIdentity(database, tmp_path / "keys", clock, CATALOG)
    seeded = seed(identity, PASSWORDS)
    app = Application([service(identity, URL)], None, identity.authenticate, URL)
    yield Cloud(identity, seeded, clock, database, falcon.testing.TestClient(app.wsgi))
    database.close()


@pytest.fixture
def admin(cloud: Cloud) -> str:
    """A token of admin on project admin."""
    return cloud.token("admin", scope="admin")


@pytest.fixture
def demo(cloud: Cloud) -> str:
    """A token of demo, a member of project demo."""
    return cloud.token("demo")
