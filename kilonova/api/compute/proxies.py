"""What Nova passes on to other services until 2.35, what it gave up, and what this cloud has not built.

Proxies answer 501 up to their last microversion and 404 after it: images, networks and volumes have APIs of their own.
What Nova gave up altogether answers 410 at every version, as Nova does.
"""

from kilonova.api.compute.rules import ADMIN, ANY, MEMBER, READER
from kilonova.api.compute.shared import R, not_yet, versioned
from kilonova.common.errors import Gone, NotImplementedHere
from kilonova.http.request import Request
from kilonova.http.routing import Handler, Route

_LAST = 35  # the last microversion with proxies
_SERVICE = "rule:service_or_admin"

# what the answer says, path, {method: policy rule}; all until 2.35
_PROXIED: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("images", "/images", {"GET": "images"}),
    ("images", "/images/detail", {"GET": "images"}),
    ("images", "/images/{image_id}", {"GET": "images", "DELETE": "images"}),
    ("networks", "/os-networks", {"GET": "os-networks:list"}),
    ("networks", "/os-networks/{id}", {"GET": "os-networks:show"}),
    ("networks", "/os-tenant-networks", {"GET": "os-tenant-networks:list"}),
    ("networks", "/os-tenant-networks/{id}", {"GET": "os-tenant-networks:show"}),
    (
        "floating IPs",
        "/os-floating-ips",
        {"GET": "os-floating-ips:list", "POST": "os-floating-ips:create"},
    ),
    (
        "floating IPs",
        "/os-floating-ips/{id}",
        {"GET": "os-floating-ips:show", "DELETE": "os-floating-ips:delete"},
    ),
    ("floating IPs", "/os-floating-ip-pools", {"GET": "os-floating-ip-pools"}),
    (
        "security groups",
        "/os-security-groups",
        {"GET": "os-security-groups:get", "POST": "os-security-groups:create"},
    ),
    (
        "security groups",
        "/os-security-groups/{id}",
        {
            "GET": "os-security-groups:show",
            "PUT": "os-security-groups:update",
            "DELETE": "os-security-groups:delete",
        },
    ),
    (
        "security groups",
        "/os-security-group-rules",
        {"POST": "os-security-groups:rule:create"},
    ),
    (
        "security groups",
        "/os-security-group-rules/{id}",
        {"DELETE": "os-security-groups:rule:delete"},
    ),
    ("volumes", "/os-volumes", {"GET": "os-volumes:list", "POST": "os-volumes:create"}),
    ("volumes", "/os-volumes/detail", {"GET": "os-volumes:detail"}),
    ("volumes", "/os-volumes/{id}", {"GET": "os-volumes:show", "DELETE": "os-volumes:delete"}),
    (
        "volumes",
        "/os-snapshots",
        {"GET": "os-volumes:snapshots:list", "POST": "os-volumes:snapshots:create"},
    ),
    ("volumes", "/os-snapshots/detail", {"GET": "os-volumes:snapshots:detail"}),
    (
        "volumes",
        "/os-snapshots/{id}",
        {"GET": "os-volumes:snapshots:show", "DELETE": "os-volumes:snapshots:delete"},
    ),
    ("bare metal nodes", "/os-baremetal-nodes", {"GET": "os-baremetal-nodes:list"}),
    ("bare metal nodes", "/os-baremetal-nodes/{id}", {"GET": "os-baremetal-nodes:show"}),
)
_IMAGE_METADATA = (
    ("/images/{image_id}/metadata", ("GET", "POST", "PUT")),
    ("/images/{image_id}/metadata/{key}", ("GET", "PUT", "DELETE")),
)

# path -> methods
_GONE: dict[str, tuple[str, ...]] = {
    "/os-agents": ("GET", "POST"),
    "/os-agents/{id}": ("PUT", "DELETE"),
    "/os-cells": ("GET", "POST"),
    "/os-cells/capacities": ("GET",),
    "/os-cells/detail": ("GET",),
    "/os-cells/info": ("GET",),
    "/os-cells/sync_instances": ("POST",),
    "/os-cells/{id}": ("GET", "PUT", "DELETE"),
    "/os-cells/{id}/capacities": ("GET",),
    "/os-certificates": ("POST",),
    "/os-certificates/{id}": ("GET",),
    "/os-cloudpipe": ("GET", "POST"),
    "/os-cloudpipe/{id}": ("PUT",),
    "/os-fixed-ips/{id}": ("GET",),
    "/os-fixed-ips/{id}/action": ("POST",),
    "/os-floating-ip-dns": ("GET",),
    "/os-floating-ip-dns/{id}": ("PUT", "DELETE"),
    "/os-floating-ip-dns/{id}/entries/{name}": ("GET", "PUT", "DELETE"),
    "/os-floating-ips-bulk": ("GET", "POST"),
    "/os-floating-ips-bulk/{id}": ("GET", "PUT"),
    "/os-fping": ("GET",),
    "/os-fping/{id}": ("GET",),
    "/os-networks": ("POST",),
    "/os-networks/add": ("POST",),
    "/os-networks/{id}": ("DELETE",),
    "/os-networks/{id}/action": ("POST",),
    "/os-security-group-default-rules": ("GET", "POST"),
    "/os-security-group-default-rules/{id}": ("GET", "DELETE"),
    "/os-tenant-networks": ("POST",),
    "/os-tenant-networks/{id}": ("DELETE",),
    "/servers/{server_id}/consoles": ("GET", "POST"),
    "/servers/{server_id}/consoles/{id}": ("GET", "DELETE"),
    "/servers/{server_id}/os-virtual-interfaces": ("GET",),
}

# what the answer says, method, path, rule, first minor
_UNBUILT: tuple[tuple[str, str, str, str, int], ...] = (
    (
        "Assisted volume snapshots",
        "POST",
        "/os-assisted-volume-snapshots",
        "os-assisted-volume-snapshots:create",
        1,
    ),
    (
        "Assisted volume snapshots",
        "DELETE",
        "/os-assisted-volume-snapshots/{id}",
        "os-assisted-volume-snapshots:delete",
        1,
    ),
    ("Console tokens", "GET", "/os-console-auth-tokens/{id}", "os-console-auth-tokens", 1),
)


def gone(req: Request) -> None:
    """Answer 410: Nova gave this up, at every microversion."""
    raise Gone("This resource is no longer available. No forwarding address is given.")


def _proxied(what: str) -> Handler:
    def handler(req: Request) -> None:
        raise NotImplementedHere(
            f"The compute API's proxy for {what} is not offered by this cloud; use their own API."
        )

    handler.__doc__ = f"Answer 501: {what} have an API of their own."
    return handler


def _routes() -> list[Route]:
    rows: list[Route] = []
    for what, path, methods in _PROXIED:
        handler = _proxied(what)
        for method, rule in methods.items():
            rows += versioned(method, path, handler, R + rule, until=_LAST, errors=(403, 501))
    handler = _proxied("image metadata")
    for path, names in _IMAGE_METADATA:
        for method in names:
            rows += versioned(method, path, handler, R + "images", until=38, errors=(403, 501))
    for path, methods_ in _GONE.items():
        for method in methods_:
            rows += versioned(method, path, gone, R + "gone", errors=(410,))
    for what, method, path, rule, since in _UNBUILT:
        rows += versioned(method, path, not_yet(what), R + rule, since=since, errors=(403, 501))
    return rows


ROUTES = _routes()
_READ = (":list", ":show", ":get", ":detail")


def _role(rule: str) -> str:
    if rule in ("images", "os-floating-ip-pools"):
        return ANY
    if "baremetal" in rule:
        return ADMIN
    return READER if rule.endswith(_READ) else MEMBER


RULES = {R + rule: _role(rule) for _, _, m in _PROXIED for rule in m.values()} | {
    R + "gone": ANY,
    R + "os-assisted-volume-snapshots:create": _SERVICE,
    R + "os-assisted-volume-snapshots:delete": _SERVICE,
    R + "os-console-auth-tokens": ADMIN,
}
