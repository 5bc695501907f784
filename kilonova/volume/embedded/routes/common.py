"""What every noun's routes use: paths with and without a project, errors in the API's statuses, visible rows."""

from collections.abc import Callable, Sequence
from typing import Any

from kilonova.common.errors import BadRequest, QuotaExceeded
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import Microversion, V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.volume.embedded.faults import OverLimit, missing

LOW, HIGH = V(3, 0), V(3, 70)
PROJECTLESS = V(3, 67)
TEXT: Json = {"type": ["string", "null"], "maxLength": 255}
NAME: Json = {"type": ["string", "null"], "minLength": 0, "maxLength": 255}
ID: Json = {"type": "string", "format": "uuid"}
FLAG: Json = {
    "type": ["boolean", "string"],
    "enum": [True, False, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t",
             "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"],
}  # fmt: skip
METADATA: Json = {
    "type": ["object", "null"],
    "propertyNames": {"type": "string", "minLength": 1, "maxLength": 255},
    "additionalProperties": {"type": ["string", "null"], "maxLength": 255},
    "maxProperties": 128,
}
SIZE: Json = {
    "type": ["integer", "string"],
    "pattern": "^[1-9][0-9]{0,8}$",
    "minimum": 1,
    "maximum": 2147483647,
}
_TRUE = {"true", "1", "on", "yes", "y", "t"}


def truth(value: object) -> bool:
    """Read a FLAG."""
    return value is True or str(value).lower() in _TRUE


def body_of(
    name: str, properties: Json, required: Sequence[str] = (), *, more: bool = False
) -> Schema:
    """Return the schema of ``{name: {...}}``. more: other properties are let pass, as old microversions do."""
    inner: Json = {"type": "object", "properties": properties, "required": list(required)}
    if not more:
        inner["additionalProperties"] = False
    return Schema({"type": "object", "properties": {name: inner}, "required": [name]})


def action_of(name: str, properties: Json | None = None, required: Sequence[str] = ()) -> Schema:
    """Return the schema of an action's body; properties None: an object or null, whatever is in it."""
    if properties is None:
        return Schema({"type": "object", "properties": {name: {}}, "required": [name]})
    return body_of(name, properties, required)


def pairs_of(given: dict[str, Any] | None) -> dict[str, str]:
    """Read METADATA."""
    return {str(k): "" if v is None else str(v) for k, v in (given or {}).items()}


Handler = Callable[[Request], Any]


def both(
    method: str,
    path: str,
    handler: Handler,
    policy: str,
    success: int = 200,
    errors: tuple[int, ...] = (),
    *,
    since: Microversion = LOW,
    until: Microversion | None = None,
    body: Schema | None = None,
    action: str | None = None,
) -> list[Route]:
    """Return one endpoint's rows: below the project's id, and from 3.67 on without it."""

    def served(req: Request) -> Any:
        return _serve(handler, req)

    served.__doc__ = handler.__doc__
    rows = [
        Route(
            method,
            "/v3/{project_id}" + path,
            served,
            policy,
            success,
            errors,
            since,
            until,
            body,
            action=action,
        )
    ]
    first = since if since >= PROJECTLESS else PROJECTLESS
    if until is None or until >= first:
        rows.append(
            Route(
                method,
                "/v3" + path,
                served,
                policy,
                success,
                errors,
                first,
                until,
                body,
                action=action,
            )
        )
    return rows


def _serve(handler: Handler, req: Request) -> Any:
    named = req.params.get("project_id")
    if (
        named is not None
        and named != req.ctx.project_id
        and not req.ctx.is_admin
        and "service" not in req.ctx.roles
    ):
        raise BadRequest("Malformed request url")
    try:
        return handler(req)
    except QuotaExceeded as exc:
        raise OverLimit(exc.message, **exc.facts) from exc


def target(row: Row) -> dict[str, object]:
    """Return a row as a policy target."""
    return {"project_id": row["project_id"]}


def visible(
    tx: Tx, req: Request, noun: str, find: Callable[[Tx, str], Row | None], given: str, rule: str
) -> Row:
    """Return a row that the caller may look at by ``rule``; the same 404 for a missing and a foreign one."""
    row = find(tx, given.lower() if len(given) == 36 else given)
    if row is None or not req.may(rule, target(row)):
        raise missing(noun, given)
    return row
