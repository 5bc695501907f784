"""The actions resize, confirmResize and revertResize."""

from typing import Any

from kilonova.api.compute.rules import ADMIN, MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.changing import keep_disk_config
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, action
from kilonova.http.request import Request
from kilonova.operations import (
    confirm_resize,
    cross_cell,
    resizing,
    revert_resize,
    server_resize,
    server_resize_cross_cell,
)
from kilonova.operations.accept import Found

_ACTION = "/servers/{server_id}/action"
_RULE = R + "servers:"


def resize(req: Request) -> None:
    """Give a server another flavor."""
    server = found(req, _RULE + "resize")
    asked = req.body["resize"]
    flavor_id = str(asked["flavorRef"])
    if not may_leave_cell(req, server) or not _across(req, server, flavor_id):
        server_resize.start(req.cloud, req.ctx, server, flavor_id)
    keep_disk_config(req, server, asked)


def may_leave_cell(req: Request, server: Found, rule: str = cross_cell.POLICY) -> bool:
    """Tell whether the caller may have a server moved to another cell, by this rule, and there is one."""
    owner = {"project_id": server.mapping["project_id"], "user_id": server.mapping["user_id"]}
    return len(req.cloud.real_cells()) > 1 and req.may(rule, owner)


def _across(req: Request, server: Found, flavor_id: str) -> bool:
    """Accept a resize into another cell; False when the scheduler would rather have it in its own."""
    if server.row is None:
        return False
    old = resizing.flavor_of(server.row["flavor"])
    new = server_resize.wanted_flavor(req.cloud, req.ctx, flavor_id, old)
    return server_resize_cross_cell.start(req.cloud, req.ctx, server, flavor=new) is not None


def confirm(req: Request) -> None:
    """Make a resize final."""
    confirm_resize.start(req.cloud, req.ctx, found(req, _RULE + "confirm_resize"))


def revert(req: Request) -> None:
    """Make a server what it was before its resize."""
    revert_resize.start(req.cloud, req.ctx, found(req, _RULE + "revert_resize"))


_RESIZE: Json = {
    "type": "object",
    "properties": {
        "flavorRef": {"type": ["string", "integer"], "minLength": 1},
        "OS-DCF:diskConfig": {"type": "string", "enum": ["AUTO", "MANUAL"]},
    },
    "required": ["flavorRef"],
    "additionalProperties": False,
}


def _nothing(name: str) -> Json:
    """Nova takes any value here: Tempest sends {}."""
    return wrap(name, {})


_E: dict[str, Any] = {"errors": (400, 403, 404, 409, 503)}
ROUTES = [
    *action(
        _ACTION, "resize", resize, _RULE + "resize", wrap("resize", _RESIZE), success=202, **_E
    ),
    *action(
        _ACTION,
        "confirmResize",
        confirm,
        _RULE + "confirm_resize",
        _nothing("confirmResize"),
        success=204,
        **_E,
    ),
    *action(
        _ACTION,
        "revertResize",
        revert,
        _RULE + "revert_resize",
        _nothing("revertResize"),
        success=202,
        **_E,
    ),
]
RULES = {
    **{_RULE + n: MEMBER for n in ("resize", "confirm_resize", "revert_resize")},
    cross_cell.POLICY: ADMIN,
}
