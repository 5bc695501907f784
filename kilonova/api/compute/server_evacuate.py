"""The action evacuate: a server of a host that is down and fenced is made anew on another one."""

import secrets
from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.common import BOOLEAN, Json, wrap
from kilonova.api.compute.server_resize import may_leave_cell
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.schema import extend
from kilonova.operations import server_evacuate, server_evacuate_cross_cell

_RULE = R + "os-evacuate"


def evacuate(req: Request) -> Any:
    """Accept it. Local disks are made of the image again: what was on the dead host's disks is not there any more."""
    asked = req.body["evacuate"]
    server = found(req, _RULE)
    if str(asked.get("onSharedStorage", False)).lower() in ("1", "t", "true", "on", "y", "yes"):
        raise BadRequest("Invalid state of instance files on shared storage")
    host = asked.get("host")
    force = asked.get("force") in (True, "True", "true", 1, "1")
    if force and host is None:
        raise BadRequest("Can't force to a non-provided destination")
    before_29 = req.version < V(2, 29) and host is not None
    how: dict[str, Any] = {"host": host, "force": force or before_29}
    how["stay_off"] = req.version >= V(2, 95)
    away = None
    if may_leave_cell(req, server, server_evacuate_cross_cell.POLICY):
        away = server_evacuate_cross_cell.start(req.cloud, req.ctx, server, **how)
    if away is None:
        server_evacuate.start(req.cloud, req.ctx, server, **how)
    if req.version < V(2, 14):
        return {"adminPass": asked.get("adminPass") or secrets.token_urlsafe(9)}
    return None


_HOST: Json = {"type": "string", "minLength": 1, "maxLength": 255}
_E: tuple[str, ...] = ("properties", "evacuate")
_C14: Json = wrap(
    "evacuate",
    {
        "type": "object",
        "properties": {"host": _HOST, "adminPass": {"type": "string"}},
        "required": [],
        "additionalProperties": False,
    },
)
_C1 = extend(_C14, at=_E, properties={"onSharedStorage": BOOLEAN}, required=["onSharedStorage"])
_C29 = extend(_C14, at=_E, properties={"force": BOOLEAN})
_E14: dict[str, Any] = {"action": "evacuate", "errors": (400, 403, 404, 409)}
_ACTION = "/servers/{server_id}/action"
ROUTES = [
    *versioned(
        "POST",
        _ACTION,
        evacuate,
        _RULE,
        until=13,
        bodies={1: _C1},
        answer=a.ADMIN_PASSWORD,
        **_E14,
    ),
    *versioned(
        "POST",
        _ACTION,
        evacuate,
        _RULE,
        since=14,
        bodies={14: _C14, 29: _C29, 68: _C14},
        removed={14: ("/evacuate/onSharedStorage",), 68: ("/evacuate/force",)},
        **_E14,
    ),
]
RULES = {_RULE: ADMIN, server_evacuate_cross_cell.POLICY: ADMIN}
