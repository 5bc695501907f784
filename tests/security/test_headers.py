"""Identity comes from the token alone: whatever else a request says about its sender is not heard (S23)."""

from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.http.app import forgeable
from tests.whole import Whole, running

FORGED = {
    "X-Roles": "admin",
    "X-Role": "admin",
    "X-User-Id": "ADMIN",
    "X-User": "ADMIN",
    "X-User-Name": "admin",
    "X-Project-Id": "PROJECT",
    "X-Project-Name": "admin",
    "X-Tenant-Id": "PROJECT",
    "X-Tenant-Name": "admin",
    "X-Tenant": "admin",
    "X-Domain-Id": "default",
    "X-Is-Admin": "True",
    "X-Is-Admin-Project": "True",
    "X-Identity-Status": "Confirmed",
    "X-Service-Roles": "service,admin",
    "X-Service-User-Id": "ADMIN",
    "X-Service-Project-Id": "PROJECT",
    "X-Service-Identity-Status": "Confirmed",
    "OpenStack-System-Scope": "all",
    "X-System-Scope": "all",
}
ADMIN_ONLY = (
    "/compute/v2.1/os-services",
    "/compute/v2.1/os-hypervisors",
    "/compute/v2.1/os-migrations",
    "/identity/v3/users",
    "/placement/resource_providers",
    "/kilonova/v1/audit",
    "/kilonova/v1/status",
    "/network/v2.0/quotas",
    "/network/v2.0/network-ip-availabilities",
    "/image/v2/tasks",
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as made:
        yield made


def _value(whole: Whole, text: str) -> str:
    known = {"ADMIN": whole.content.users["admin"], "PROJECT": whole.content.projects["admin"]}
    return known.get(text, text)


@pytest.mark.parametrize("header", FORGED)
def test_a_forged_identity_header_changes_nothing(whole: Whole, header: str) -> None:
    """S23"""
    forged = {header: _value(whole, FORGED[header])}
    _changes_nothing(whole, forged)
    _changes_nothing(whole, {header.lower(): forged[header]})


def test_all_forged_headers_at_once_change_nothing(whole: Whole) -> None:
    """S23"""
    _changes_nothing(whole, {k: _value(whole, v) for k, v in FORGED.items()})


def _changes_nothing(whole: Whole, forged: dict[str, str]) -> None:
    for path in ADMIN_ONLY:
        assert whole.call("GET", path, who="admin").status == 200, path
        assert whole.call("GET", path, headers=forged).status == 403, path
        assert whole.call("GET", path, who=None, headers=forged).status == 401, path
    mine = whole.server("mine", who="other")
    try:
        asked: tuple[tuple[str, str, Any], ...] = (
            ("GET", "", None),
            ("DELETE", "", None),
            ("POST", "/action", {"os-stop": None}),
        )
        for method, more, body in asked:
            path = f"/compute/v2.1/servers/{mine}{more}"
            got = whole.call(method, path, body, headers=forged)
            assert got.status == 404, (method, got)
        listed = whole.call("GET", "/compute/v2.1/servers?all_tenants=1", headers=forged)
        assert listed.status in (200, 403)
        assert mine not in listed.raw.decode()
    finally:
        whole.gone(mine)


def test_every_identity_header_of_the_field_is_stripped() -> None:
    """S23: the middleware's own header names, and those of its predecessors."""
    assert [h for h in FORGED if h.startswith("X-") and not forgeable(h.lower())] == []
    assert not forgeable("x-service-token") and not forgeable("x-auth-token")


def test_a_service_token_needs_the_role(whole: Whole) -> None:
    """S24: a second token makes nobody more than it is; one that is no token is refused."""
    path = "/compute/v2.1/os-services"
    member = {"X-Service-Token": whole.token("other")}
    assert whole.call("GET", path, headers=member).status == 403
    service = {"X-Service-Token": whole.token("service")}
    assert whole.call("GET", path, headers=service).status == 403
    assert whole.call("GET", path, headers={"X-Service-Token": "nonsense"}).status == 401


@pytest.mark.parametrize("service", ["compute", "identity", "image", "network", "placement"])
def test_nothing_is_read_before_the_token(whole: Whole, service: str) -> None:
    """S39: a body of nobody is not decoded, whatever it is."""
    paths = {
        "compute": "/compute/v2.1/servers",
        "identity": "/identity/v3/users",
        "image": "/image/v2/images",
        "network": "/network/v2.0/networks",
        "placement": "/placement/resource_providers",
    }
    for body in (b"{", b"[" * 100_000, b"\xff\xfe"):
        got = whole.call("POST", paths[service], body, who=None)
        assert got.status == 401, got
        assert whole.call("POST", paths[service], body, who="admin").status == 400
