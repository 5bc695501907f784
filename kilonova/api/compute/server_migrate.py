"""The action migrate: a server gets to another host, off meanwhile; from 2.56 on to one that is named."""

from typing import Any

from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.server_resize import may_leave_cell
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import server_migrate, server_resize_cross_cell

_RULE = R + "os-migrate-server:migrate"


def migrate(req: Request) -> None:
    """Accept it; the server waits to be confirmed afterwards, as after a resize."""
    server = found(req, _RULE)
    asked = (req.body["migrate"] or {}) if req.version >= V(2, 56) else {}
    host = asked.get("host")
    if host is not None:
        req.authorize(_RULE + ":host")
    if may_leave_cell(req, server):
        moved = server_resize_cross_cell.start(req.cloud, req.ctx, server, host=host)
        if moved is not None:
            return
    server_migrate.start(req.cloud, req.ctx, server, host=host)


_C56: Json = wrap(
    "migrate",
    {
        "type": ["object", "null"],
        "properties": {"host": {"type": "string", "minLength": 1, "maxLength": 255}},
        "additionalProperties": False,
    },
)
_C: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = versioned(
    "POST",
    "/servers/{server_id}/action",
    migrate,
    _RULE,
    bodies={1: wrap("migrate", {}), 56: _C56},
    action="migrate",
    **_C,
)
RULES = {_RULE: "rule:project_manager_or_admin", _RULE + ":host": ADMIN}
