"""Actions and parts of a server that the API has and this cloud does not offer yet: 404, 403, then a clear 501."""

from typing import Any

from kilonova.api.compute.rules import ADMIN, MEMBER, READER
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, not_yet, versioned
from kilonova.common.errors import Gone
from kilonova.http.request import Request
from kilonova.http.routing import Handler, Route

_ACTION = "/servers/{server_id}/action"
# action -> (what the answer says, policy rule, default role, first minor, last minor)
ACTIONS: dict[str, tuple[str, str, str, int, int | None]] = {
    "injectNetworkInfo": (
        "Injecting network information into a guest",
        "os-admin-actions:inject_network_info",
        ADMIN,
        1,
        None,
    ),
    "os-getSPICEConsole": ("A SPICE console", "os-remote-consoles", MEMBER, 1, 5),
}
_S = "/servers/{server_id}"
# (what, method, path, rule, role, first minor)
PARTS: tuple[tuple[str, str, str, str, str, int], ...] = (
    ("Sharing directories", "GET", "/shares", "os-server-shares:index", READER, 97),
    ("Sharing directories", "POST", "/shares", "os-server-shares:create", MEMBER, 97),
    ("Sharing directories", "GET", "/shares/{share_id}", "os-server-shares:show", READER, 97),
    ("Sharing directories", "DELETE", "/shares/{share_id}", "os-server-shares:delete", MEMBER, 97),
)


def _refuse(what: str, rule: str) -> Handler:
    refuse = not_yet(what)

    def handler(req: Request) -> None:
        found(req, R + rule)
        refuse(req)

    handler.__doc__ = f"Answer 501: {what} is not offered yet."
    return handler


def gone(req: Request) -> None:
    """Answer 410: Nova gave this action up."""
    found(req, R + "servers:gone")
    raise Gone("This resource is no longer available. No forwarding address is given.")


def _routes() -> list[Route]:
    rows: list[Route] = []
    errors = (400, 403, 404, 501)
    for name, (what, rule, _, since, until) in ACTIONS.items():
        rows += versioned(
            "POST",
            _ACTION,
            _refuse(what, rule),
            R + rule,
            since=since,
            until=until,
            action=name,
            success=202,
            errors=errors,
        )
    for name in ("resetNetwork", "os-getRDPConsole"):
        until = 5 if name == "os-getRDPConsole" else None
        rows += versioned(
            "POST",
            _ACTION,
            gone if until is None else _refuse("An RDP console", "os-remote-consoles"),
            R + ("servers:gone" if until is None else "os-remote-consoles"),
            until=until,
            action=name,
            success=202,
            errors=(403, 404, 410, 501),
        )
    for what, method, path, rule, _, since in PARTS:
        rows += versioned(
            method, _S + path, _refuse(what, rule), R + rule, since=since, errors=errors
        )
    return rows


ROUTES = _routes()
RULES: dict[str, Any] = {
    **{R + rule: role for _, rule, role, _, _ in ACTIONS.values()},
    **{R + rule: role for _, _, _, rule, role, _ in PARTS},
    R + "servers:gone": MEMBER,
}
