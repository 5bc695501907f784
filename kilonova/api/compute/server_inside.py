"""changePassword, trigger_crash_dump: what is done to the system in a guest; restore of a soft-deleted server."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import found, placed, seen
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import Unavailable
from kilonova.http.request import Request
from kilonova.objects import query as q
from kilonova.operations import (
    guest_orders,
    server_clear_password,
    server_crash_dump,
    server_password,
    server_restore,
)
from kilonova.operations.ask import ask

_PASSWORD, _DUMP = R + "os-admin-password", R + "servers:trigger_crash_dump"
_POSTED = R + "os-server-password:"
_RESTORE = R + "os-deferred-delete:restore"


def change_password(req: Request) -> None:
    """Set the administrator's password in a running guest."""
    password = req.body["changePassword"]["adminPass"]
    server_password.start(req.cloud, req.ctx, found(req, _PASSWORD), password)


def posted(req: Request) -> Any:
    """Show the password that the guest posted, encrypted for its owner's key; "" when there is none."""
    row = seen(req, _POSTED + "show")
    if row["host"] is None:
        left = guest_orders.system_of(row).belongings
        return {"password": "" if left is None else left.password}
    answer = ask(req.cloud, placed(row), q.PasswordQuery(server_id=row["uuid"]))
    if isinstance(answer, q.PostedPassword):
        return {"password": answer.text}
    raise Unavailable("The host gave no password.")


def clear(req: Request) -> None:
    """Forget the password that the guest posted."""
    server_clear_password.start(req.cloud, req.ctx, found(req, _POSTED + "clear"))


def crash_dump(req: Request) -> None:
    """Give a guest an NMI, for which it may write a crash dump."""
    server_crash_dump.start(req.cloud, req.ctx, found(req, _DUMP))


def restore(req: Request) -> None:
    """Bring a soft-deleted server back."""
    server_restore.start(req.cloud, req.ctx, found(req, _RESTORE))


_PASSWORD_BODY: Json = {
    "type": "object",
    "properties": {"adminPass": {"type": "string", "maxLength": 255}},
    "required": ["adminPass"],
    "additionalProperties": False,
}
_A = "/servers/{server_id}/action"
_P = "/servers/{server_id}/os-server-password"
_E = (403, 404, 409, 503)
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
    *versioned("GET", _P, posted, _POSTED + "show", queries=NO_QUERY, errors=_E, answer=a.PASSWORD),
    *versioned("DELETE", _P, clear, _POSTED + "clear", success=204, errors=_E),
]
RULES = {
    _PASSWORD: MEMBER,
    _DUMP: MEMBER,
    _RESTORE: MEMBER,
    _POSTED + "show": READER,
    _POSTED + "clear": MEMBER,
}
