"""shelve, shelveOffload and unshelve: put a server away, and bring it back, in a zone or on a host if one is named."""

from typing import Any

from kilonova.api.compute.rules import ADMIN, MEMBER
from kilonova.api.compute.schemas.common import NAME, Json, wrap
from kilonova.api.compute.server_resize import may_leave_cell
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import (
    server_shelve,
    server_shelve_offload,
    server_unshelve,
    server_unshelve_cross_cell,
)

_RULE = R + "os-shelve:"


def shelve(req: Request) -> None:
    """Put a server away."""
    server_shelve.start(req.cloud, req.ctx, found(req, _RULE + "shelve"))


def offload(req: Request) -> None:
    """Take a shelved server off its host."""
    server_shelve_offload.start(req.cloud, req.ctx, found(req, _RULE + "shelve_offload"))


def unshelve(req: Request) -> None:
    """Bring a shelved server back; from 2.77 in a zone, from 2.91 on a host, or pinned to no zone any more."""
    server = found(req, _RULE + "unshelve")
    asked = (req.body["unshelve"] or {}) if req.version >= V(2, 77) else {}
    host = asked.get("host")
    if host is not None:
        req.authorize(_RULE + "unshelve_to_host")
    zone = asked.get("availability_zone")
    unpin = "availability_zone" in asked and zone is None
    if may_leave_cell(req, server):
        away = server_unshelve_cross_cell.start(
            req.cloud, req.ctx, server, zone=zone, unpin=unpin, host=host
        )
        if away is not None:
            return
    server_unshelve.start(req.cloud, req.ctx, server, zone=zone, unpin=unpin, host=host)


_U77: Json = wrap(
    "unshelve",
    {
        "type": ["object", "null"],
        "properties": {"availability_zone": NAME},
        "required": ["availability_zone"],
        "additionalProperties": False,
    },
)
_U91: Json = wrap(
    "unshelve",
    {
        "type": ["object", "null"],
        "properties": {
            "availability_zone": {**NAME, "type": ["string", "null"]},
            "host": {"type": "string", "minLength": 1, "maxLength": 255},
        },
        "additionalProperties": False,
    },
)
_A = "/servers/{server_id}/action"
_C: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *versioned(
        "POST",
        _A,
        shelve,
        _RULE + "shelve",
        bodies={1: wrap("shelve", {})},
        action="shelve",
        **_C,
    ),
    *versioned(
        "POST",
        _A,
        offload,
        _RULE + "shelve_offload",
        bodies={1: wrap("shelveOffload", {})},
        action="shelveOffload",
        **_C,
    ),
    *versioned(
        "POST",
        _A,
        unshelve,
        _RULE + "unshelve",
        bodies={1: wrap("unshelve", {}), 77: _U77, 91: _U91},
        action="unshelve",
        **_C,
    ),
]
RULES = {
    _RULE + "shelve": MEMBER,
    _RULE + "unshelve": MEMBER,
    _RULE + "shelve_offload": ADMIN,
    _RULE + "unshelve_to_host": ADMIN,
}
