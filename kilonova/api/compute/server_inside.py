"""changePassword, trigger_crash_dump: what is done to the system in a guest; restore of a soft-deleted server."""

from typing import Any

from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.http.request import Request
from kilonova.operations import power, server_crash_dump, server_password, server_restore

_PASSWORD, _DUMP = R + "os-admin-password", R + "servers:trigger_crash_dump"
_RESTORE = R + "os-deferred-delete:restore"


def change_password(req: Request) -> None:
    """Set the administrator's password in a running guest."""
    password = req.body["changePassword"]["adminPass"]
    server_password.start(req.cloud, req.ctx, found(req, _PASSWORD), password)


def crash_dump(req: Request) -> None:
    """Give a guest an NMI, for which it may write a crash dump."""
    server_crash_dump.start(req.cloud, req.ctx, found(req, _DUMP))


def restore(req: Request) -> None:
    """Bring a soft-deleted server back."""
    power.start(req.cloud, req.ctx, server_restore.SAGA, found(req, _RESTORE))


_PASSWORD_BODY: Json = {
    "type": "object",
    "properties": {"adminPass": {"type": "string", "maxLength": 255}},
    "required": ["adminPass"],
    "additionalProperties": False,
}
_A = "/servers/{server_id}/action"
_C: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *versioned(
        "POST",
        _A,
        change_password,
        _PASSWORD,
        bodies={1: wrap("changePassword", _PASSWORD_BODY)},
        action="changePassword",
        secret=True,
        **_C,
    ),
    *versioned(
        "POST",
        _A,
        crash_dump,
        _DUMP,
        bodies={17: wrap("trigger_crash_dump", {"type": "null"})},
        action="trigger_crash_dump",
        since=17,
        **_C,
    ),
    *versioned(
        "POST", _A, restore, _RESTORE, bodies={1: wrap("restore", {})}, action="restore", **_C
    ),
]
RULES = {_PASSWORD: MEMBER, _DUMP: MEMBER, _RESTORE: MEMBER}
