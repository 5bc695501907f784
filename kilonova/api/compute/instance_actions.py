"""What was done to a server, by whom and how it went; from 2.21 on of deleted servers too, from 2.58 on in pages."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN, READER
from kilonova.api.compute.servers import reading
from kilonova.api.compute.shared import (
    COUNT,
    MOMENT,
    NO_QUERY,
    TEXT,
    R,
    limit_of,
    next_link,
    one,
    query,
    versioned,
)
from kilonova.api.compute.views.server import host_id
from kilonova.cells.filters import Rendered
from kilonova.common.clock import iso_micro, parse_iso
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db import action_list, actions, mappings, servers
from kilonova.db.engine import Database, Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services

_RULE = R + "os-instance-actions:"


def _server(req: Request, rule: str) -> tuple[Rendered, Database | None]:
    """Return a server, a deleted one too from 2.21 on, and the database of its actions (None: none yet)."""
    services: Services = req.cloud
    server_id = req.params["server_id"]
    try:
        row = reading.find(req, server_id)
        mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
        cell = None if mapping is None else mapping["cell"]
    except NotFound:
        deleted = _deleted(req, server_id) if req.version >= V(2, 21) else None
        if deleted is None:
            raise
        cell, row = deleted
    req.authorize(rule, {"project_id": row["project_id"]})
    return row, None if cell is None else services.cell(cell)


def _deleted(req: Request, server_id: str) -> tuple[str, Row] | None:
    """Return a deleted server that the caller may see, with its cell."""
    services: Services = req.cloud
    answers, _ = services.lists.ask_cells(lambda tx: servers.find(tx, server_id))
    for cell, row in answers.items():
        if row is None or row["hidden"] or not row["deleted"]:
            continue
        if row["project_id"] == req.ctx.project_id or req.ctx.is_admin:
            return cell, row
    return None


def _shape(req: Request, a: Row) -> dict[str, Any]:
    out = {
        "action": a["action"],
        "instance_uuid": a["server"],
        "request_id": a["request_id"],
        "user_id": a["user_id"],
        "project_id": a["project_id"],
        "start_time": iso_micro(a["started_at"]),
        "message": a["message"],
    }
    if req.version >= V(2, 58):
        out["updated_at"] = iso_micro(a["updated_at"])
    return out


def index(req: Request) -> Any:
    """List what was done to a server, newest first."""
    row, database = _server(req, _RULE + "list")
    server, paged = row["uuid"], req.version >= V(2, 58)
    if database is None:
        return {"instanceActions": []}
    if not paged:
        found = database.read(lambda tx: actions.of_server(tx, server))
        return {"instanceActions": [_shape(req, a) for a in found]}
    limit, marker = limit_of(req), req.query.get("marker")
    since, before = _times(req)

    def read(tx: Tx) -> list[Row]:
        last = None if marker is None else actions.by_request(tx, server, marker)
        if marker is not None and last is None:
            raise BadRequest(f"Marker {marker} could not be found.")
        return action_list.page(
            tx, server, limit=limit + 1, marker=last, since=since, before=before
        )

    found = database.read(read)
    part = found[:limit]
    out: dict[str, Any] = {"instanceActions": [_shape(req, a) for a in part]}
    if part and len(found) > limit:
        path = f"/servers/{server}/os-instance-actions"
        out["links"] = next_link(req, path, part[-1]["request_id"])
    return out


def _times(req: Request) -> tuple[float | None, float | None]:
    since, before = (
        None if text is None else parse_iso(text)
        for text in (req.query.get("changes-since"), req.query.get("changes-before"))
    )
    if since is not None and before is not None and before < since:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    return since, before


def show(req: Request) -> Any:
    """Show one action; its events to admins, from 2.51 on to the owner too."""
    row, database = _server(req, _RULE + "show")
    server, request_id = row["uuid"], req.params["request_id"]
    a = None
    if database is not None:
        a = database.read(lambda tx: actions.by_request(tx, server, request_id))
    if a is None or database is None:
        raise NotFound(f"Action {request_id} not found")
    out = _shape(req, a)
    target: dict[str, object] = {"project_id": row["project_id"]}
    admin = req.may(_RULE + "events", target)
    if admin or req.version >= V(2, 51):
        operation = a["operation"]
        found = database.read(lambda tx: actions.events_of(tx, operation))
        details = req.version >= V(2, 84) and req.may(_RULE + "events:details", target)
        project = a["project_id"] or row["project_id"]
        out["events"] = [_event(req, e, project, admin=admin, details=details) for e in found]
    return {"instanceAction": out}


def _event(req: Request, e: Row, project: str, *, admin: bool, details: bool) -> dict[str, Any]:
    out = {
        "event": e["event"],
        "start_time": iso_micro(e["started_at"]),
        "finish_time": None if e["finished_at"] is None else iso_micro(e["finished_at"]),
        "result": e["result"],
    }
    if admin:
        out["traceback"] = e["traceback"]
    if req.version >= V(2, 62):
        if admin:
            out["host"] = e["host"]
        out["hostId"] = host_id(e["host"], project)
    if details:
        out["details"] = e["details"]
    return out


_PAGE = {"limit": one(COUNT), "marker": one(TEXT), "changes-since": one(MOMENT)}
_LIST = {
    58: query(_PAGE, strict=True),
    66: query({**_PAGE, "changes-before": one(MOMENT)}, strict=True),
}
_ALL = "/servers/{server_id}/os-instance-actions"
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "list", queries=_LIST, answer=a.ACTIONS),
    *versioned(
        "GET", _ALL + "/{request_id}", show, _RULE + "show", queries=NO_QUERY, answer=a.ACTION
    ),
]
RULES = {
    _RULE + "list": READER,
    _RULE + "show": READER,
    _RULE + "events": ADMIN,
    _RULE + "events:details": ADMIN,
}
