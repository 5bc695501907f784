"""The Placement API over a real global database; tokens are ``project:role``."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import falcon.testing
import pytest

from kilonova.api import placement
from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.common.errors import Unauthorized
from kilonova.http.app import Application
from tests.scheduling import world

IMPLIED = {
    "admin": ("admin", "manager", "member", "reader"),
    "service": ("service",),
    "member": ("member", "reader"),
    "reader": ("reader",),
}


def authenticate(token: str | None, service_token: str | None, request_id: str) -> Context:
    """Read ``project:role``."""
    if not token or ":" not in token:
        raise Unauthorized("The request you have made requires authentication.")
    project, _, role = token.partition(":")
    return Context(request_id=request_id, user_id="u", project_id=project, roles=IMPLIED[role])


class Api:
    """Make requests; ``v`` is the minor microversion (None: no header)."""

    def __init__(self, path: Path) -> None:
        self.db = world(path)
        self.clock = ManualClock()
        cloud = SimpleNamespace(world=self.db, clock=self.clock)
        app = Application([placement.service()], cloud, authenticate, "http://cloud:8774")
        self.http = falcon.testing.TestClient(app.wsgi)

    def call(
        self, method: str, path: str, body: Any = None, v: int | None = 39, who: str = "p:admin"
    ) -> falcon.testing.Result:
        """Make one request."""
        headers = {"X-Auth-Token": who} if who else {}
        if v is not None:
            headers["OpenStack-API-Version"] = f"placement 1.{v}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        path, _, query = path.partition("?")
        return self.http.simulate_request(
            method, "/placement" + path, headers=headers, body=data, query_string=query
        )

    def provider(self, name: str, parent: str | None = None, **stock: int) -> str:
        """Make a provider with an inventory; return its uuid."""
        body = {"name": name} | ({"parent_provider_uuid": parent} if parent else {})
        made = self.call("POST", "/resource_providers", body)
        assert made.status_code == 200, made.text
        uuid: str = made.json["uuid"]
        if stock:
            self.stock(uuid, **stock)
        return uuid

    def generation(self, uuid: str) -> int:
        """Return a provider's generation."""
        return int(self.call("GET", f"/resource_providers/{uuid}").json["generation"])

    def stock(self, uuid: str, **stock: int) -> None:
        """Set a provider's inventory."""
        body = {
            "resource_provider_generation": self.generation(uuid),
            "inventories": {rc: {"total": n} for rc, n in stock.items()},
        }
        done = self.call("PUT", f"/resource_providers/{uuid}/inventories", body)
        assert done.status_code == 200, done.text

    def traits(self, uuid: str, *names: str) -> None:
        """Set a provider's traits."""
        for n in names:
            if n.startswith("CUSTOM_"):
                self.call("PUT", f"/traits/{n}")
        body = {"resource_provider_generation": self.generation(uuid), "traits": list(names)}
        assert self.call("PUT", f"/resource_providers/{uuid}/traits", body).status_code == 200

    def aggregates(self, uuid: str, *groups: str) -> None:
        """Set a provider's aggregates."""
        body = {"resource_provider_generation": self.generation(uuid), "aggregates": list(groups)}
        assert self.call("PUT", f"/resource_providers/{uuid}/aggregates", body).status_code == 200

    def allocate(self, consumer: str, amounts: dict[str, dict[str, int]], **more: Any) -> Any:
        """PUT allocations as the newest version has them; a new consumer unless told."""
        body = {
            "allocations": {p: {"resources": a} for p, a in amounts.items()},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
            **more,
        }
        return self.call("PUT", f"/allocations/{consumer}", body)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    yield made
    made.db.close()
