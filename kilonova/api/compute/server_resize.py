"""The actions resize, confirmResize and revertResize."""

from typing import Any

from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.changing import keep_disk_config
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, action
from kilonova.http.request import Request
from kilonova.operations import confirm_resize, revert_resize, server_resize

_ACTION = "/servers/{server_id}/action"
_RULE = R + "servers:"


def resize(req: Request) -> None:
    """Give a server another flavor."""
    server = found(req, _RULE + "resize")
    asked = req.body["resize"]
    server_resize.start(req.cloud, req.ctx, server, str(asked["flavorRef"]))
    keep_disk_config(req, server, asked)


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


_E: dict[str, Any] = {"errors": (400, 403, 404, 409)}
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
RULES = {_RULE + n: MEMBER for n in ("resize", "confirm_resize", "revert_resize")}
