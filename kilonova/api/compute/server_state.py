"""os-resetState, for admins: it exists for clients that call it; an operation that works on a server settles it."""

from typing import Any

from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, action
from kilonova.common.errors import Conflict
from kilonova.http.request import Request
from kilonova.operations.accept import wrong_state
from kilonova.operations.records import reset_state

_RULE = R + "os-admin-actions:reset_state"


def reset(req: Request) -> None:
    """Say that a server is ACTIVE or ERROR; its guest is left as it is, and so is an operation that works on it."""
    server, state = found(req, _RULE), req.body["os-resetState"]["state"]
    if server.row is None:
        raise wrong_state(server.id, "reset_state", None)
    if state == "active" and server.row["host"] is None:
        raise Conflict(f"Instance {server.id} has no host: it cannot be active")
    reset_state(req.cloud, server, state)


_BODY: Json = {
    "type": "object",
    "properties": {"state": {"type": "string", "enum": ["active", "error"]}},
    "required": ["state"],
    "additionalProperties": False,
}
_C: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = action(
    "/servers/{server_id}/action", "os-resetState", reset, _RULE, wrap("os-resetState", _BODY), **_C
)
RULES = {_RULE: ADMIN}
