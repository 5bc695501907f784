"""Who may do what: each route × {nobody, expired, other project, reader, service, member, admin} (S19, S22, S23).

The table is the golden file beside this one; a route that is missing from it fails. What must hold whatever the file
says is checked besides. When the change is meant: KILONOVA_GOLDEN=write .venv/bin/python -m pytest <this file>
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.http.microversion import V
from kilonova.http.policy import PUBLIC
from kilonova.http.routing import Route
from kilonova.http.service import Service
from tests.security.roles_world import MISSING, World, minimal, unlimited
from tests.whole import Answer, Whole, running

GOLDEN = Path(__file__).with_name("roles.golden.txt")
WHO = ("nobody", "expired", "other", "reader", "service", "member", "admin")
PEOPLE = {"member": "demo"}
SERVICES = ("compute", "identity", "image", "network", "placement", "kilonova", "volume")
RAW = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
OWNED = {  # the last place of a path that stands for something of project demo
    "compute": {"server_id", "group_id"},
    "image": {"image_id"},
    "kilonova": {"operation_id"},
    "network": {"id"},
    "volume": {"volume_id", "snapshot_id", "attachment_id", "backup_id", "transfer_id"},
}
READER_MAY = {  # a reader changes only what is its user's own
    "compute POST /v2.1/os-keypairs",
    "compute DELETE /v2.1/os-keypairs/{name}",
    "identity POST /v3/auth/tokens",
    "identity DELETE /v3/auth/tokens",
    "volume POST /v3/volumes/{volume_id}/action#os-show_image_metadata",  # looks
}

SERVICE_MAY = (
    "placement ",
    "network ",
    "compute POST /v2.1/os-server-external-events",
    "volume DELETE /v3/attachments/{attachment_id}",
    "volume PUT /v3/attachments/{attachment_id}",
    "volume POST /v3/attachments",
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as made:
        for who in ("other", "reader", "service"):
            made.token(who)
        unlimited(made)
        yield made


def _expired(whole: Whole) -> str:
    identity = whole.cloud.identity
    payload = identity.keys.open(whole.login("admin"))
    past = identity.clock.now() - 60
    return identity.keys.seal(
        msgspec.structs.replace(payload, issued_at=past - 3600, expires_at=past)
    )


class Table:
    """Asks one route as everybody."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.world = World(whole)
        self.expired = _expired(whole)

    def ask(self, service: Service, route: Route, who: str, path: str) -> Answer:
        body, headers = self._body(service, route)
        if route.path == "/v3/auth/tokens" and route.method != "POST":
            headers["X-Subject-Token"] = self.whole.login("demo")
        if service.microversions is not None:
            at = service.microversions.high if route.until is None else route.until
            headers["OpenStack-API-Version"] = f"{service.microversions.kind} {at}"
        name = PEOPLE.get(who, who)
        token = self.expired if who == "expired" else None
        return self.whole.call(
            route.method,
            path,
            body,
            who=None if who in ("nobody", "expired") else name,
            token=token,
            headers=headers,
        )

    def path(self, service: Service, route: Route) -> str:
        return self.world.path(service.name, route.path)

    def _body(self, service: Service, route: Route) -> tuple[Any, dict[str, str]]:
        where = f"{service.name} {route.method} {route.path}"
        if route.stream:
            return b"\0" * 512, dict(RAW)
        n, other = self.world.next(), self.whole.project("other")
        server = {"name": "t", "flavorRef": "42", "imageRef": self.whole.image()}
        special: dict[str, Any] = {
            "compute POST /v2.1/servers": {"server": {**server, "networks": "none"}},
            "kilonova POST /v1/explain": {"server": {**server, "networks": "none"}},
            "image POST /v2/images": {"name": f"i{n}"},
            "image POST /v2/images/{image_id}/members": {"member": other},
            "image PUT /v2/images/{image_id}/members/{member_id}": {"status": "accepted"},
            "image POST /v2/images/{image_id}/import": {"method": {"name": "glance-direct"}},
            "placement PUT /resource_providers/{uuid}/aggregates": {
                "aggregates": [],
                "resource_provider_generation": 0,
            },
        }
        if where in special:
            return special[where], {}
        if where == "image PATCH /v2/images/{image_id}":
            return b'[{"op": "replace", "path": "/name", "value": "y"}]', dict(PATCH)
        if route.body is not None:
            return minimal(route.body.document), {}
        if route.action is not None:
            return {route.action: None}, {}
        return ({} if route.method in ("POST", "PUT", "PATCH") else None), {}

    def row(self, service: Service, route: Route) -> dict[str, int]:
        """Return who -> status."""
        out = {}
        for who in WHO:
            path = self.path(service, route)
            got = self.ask(service, route, who, path)
            out[who] = got.status
            if who == "other":
                self._foreign_like_missing(service, route, path, got)
            if got.status < 300 and route.method != "GET":
                self.world.spent()
                if "quota" in route.path:
                    unlimited(self.whole)
        return out

    def _foreign_like_missing(self, service: Service, route: Route, path: str, got: Answer) -> None:
        """S19: what is somebody else's and what is not there are answered alike."""
        places = [p[1:-1] for p in route.path.split("/") if p.startswith("{")]
        mine = OWNED.get(service.name, set())
        if not places or places[0] not in mine or "/agents/" in path or "availabilities" in path:
            return
        at = next(i for i, p in enumerate(route.path.split("/")) if p.startswith("{"))
        parts = path.split("/")
        foreign = parts[at + 1]
        parts[at + 1] = MISSING
        missing = self.ask(service, route, "other", "/".join(parts))
        assert got.status == missing.status, (service.name, route, got, missing)
        assert got.status in (400, 403, 404, 410, 501), (service.name, route, got)
        assert _words(got, foreign) == _words(missing, MISSING), (service.name, route)


def _words(answer: Answer, known: str) -> str:
    text = answer.raw.decode().replace(known, "ID")
    rid = answer.headers.get("x-openstack-request-id", "")
    return text.replace(rid, "RID") if rid else text


def _key(service: Service, route: Route) -> str:
    action = f"#{route.action}" if route.action else ""
    return f"{service.name} {route.method} {route.path}{action}"


def _newest(service: Service) -> dict[str, Route]:
    """Each route once, in its newest form."""
    out: dict[str, Route] = {}
    for route in service.routes:
        if service.name == "volume" and route.path.startswith("/v3/{project_id}"):
            continue  # the older form of a path that is there without the project too: the same handler and rule
        key = _key(service, route)
        known = out.get(key)
        if known is None or (known.until is not None and route.since >= known.since):
            out[key] = route
    return out


def _services(whole: Whole) -> dict[str, Service]:
    return {s.name: s for s in whole.cloud.application.services}


def _golden() -> dict[str, dict[str, int]]:
    out = {}
    for line in GOLDEN.read_text().splitlines():
        if line and not line.startswith("#"):
            *key, numbers = line.rsplit("  ", 1)
            out[key[0].strip()] = dict(zip(WHO, (int(n) for n in numbers.split()), strict=True))
    return out


def _write(rows: dict[str, dict[str, int]]) -> None:
    known = _golden() if GOLDEN.exists() else {}
    names = {k.split()[0] for k in rows}
    kept = {k: v for k, v in known.items() if k.split()[0] not in names}
    lines = [f"# route  {' '.join(WHO)}"]
    for key, row in sorted({**kept, **rows}.items()):
        lines.append(f"{key}  {' '.join(str(row[w]) for w in WHO)}")
    GOLDEN.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", SERVICES)
def test_the_roles_table(whole: Whole, name: str) -> None:
    """S19, S22"""
    service, table = _services(whole)[name], Table(whole)
    routes = _newest(service)
    rows = {key: table.row(service, route) for key, route in routes.items()}
    for key, row in rows.items():
        route = routes[key]
        if route.policy == PUBLIC:
            continue
        assert row["nobody"] == row["expired"] == 401, key
        if route.method != "GET" and key not in READER_MAY:
            assert row["reader"] >= 300, key
            assert row["service"] >= 300 or key.startswith(SERVICE_MAY), (key, row)
        assert 500 not in row.values(), (key, row)
    if os.environ.get("KILONOVA_GOLDEN") == "write":
        _write(rows)
    golden = {k: v for k, v in _golden().items() if k.split()[0] == name}
    assert rows.keys() == golden.keys(), set(rows) ^ set(golden)
    changed = [
        f"{key} as {who}: {golden[key][who]} -> {status}"
        for key, row in rows.items()
        for who, status in row.items()
        if status != golden[key][who]
    ]
    assert changed == []


def test_a_system_without_the_policy_denies() -> None:
    """S22: a rule that does not exist is denied, to the admin too."""
    from kilonova.common.context import Context
    from kilonova.http.policy import Policy

    admin = Context(request_id="req-1", roles=("admin",), system_scope="all")
    assert not Policy({}).allows(admin, "no:such:rule", {})
    assert V(2, 1) < V(2, 2)
