"""Migrations. No server of this cloud moves yet: the lists are empty, in the form that the version has."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.servers.finding import seen
from kilonova.api.compute.shared import COUNT, MOMENT, TEXT, R, many, one, query, versioned
from kilonova.common.clock import parse_iso
from kilonova.common.errors import BadRequest, NotFound
from kilonova.http.microversion import V
from kilonova.http.request import Request

_RULE, _OF = R + "os-migrations:", R + "servers:migrations:"


def index(req: Request) -> Any:
    """List migrations; those of other projects than the caller's only to admins."""
    project = req.query.get("project_id") if req.version >= V(2, 80) else None
    if project is None or project != req.ctx.project_id:
        req.authorize(_RULE + "index:all_projects")
    if req.version >= V(2, 66):
        _check_times(req)
    if req.version >= V(2, 59) and req.query.get("marker") is not None:
        raise BadRequest(f"Marker {req.query.get('marker')} could not be found.")
    return {"migrations": []}


def _check_times(req: Request) -> None:
    since, before = req.query.get("changes-since"), req.query.get("changes-before")
    if since and before and parse_iso(before) < parse_iso(since):
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")


def of_server(req: Request) -> Any:
    """List the migrations of a server that are under way (from 2.23)."""
    seen(req, _OF + "index")
    return {"migrations": []}


def _missing(req: Request) -> None:
    raise NotFound(
        f"In-progress live migration {req.params['migration_id']} is not found for server "
        f"{req.params['server_id']}."
    )


def show(req: Request) -> None:
    """Show a migration that is under way: there is none."""
    seen(req, _OF + "show")
    _missing(req)


def cancel(req: Request) -> None:
    """Cancel a live migration: there is none."""
    seen(req, _OF + "delete")
    _missing(req)


def complete(req: Request) -> None:
    """Force a live migration to complete: there is none."""
    seen(req, _OF + "force_complete")
    _missing(req)


_Q1 = {
    name: many(TEXT)
    for name in (
        "hidden",
        "host",
        "instance_uuid",
        "source_compute",
        "status",
        "migration_type",
    )
}
_Q59 = {**_Q1, "limit": one(COUNT), "marker": one(TEXT), "changes-since": one(MOMENT)}
_Q66 = {**_Q59, "changes-before": one(MOMENT)}
_Q80 = {**_Q66, "user_id": one(TEXT), "project_id": one(TEXT)}
_LIST = {
    1: query(_Q1),
    59: query(_Q59, strict=True),
    66: query(_Q66, strict=True),
    80: query(_Q80, strict=True),
}
_ALL = "/servers/{server_id}/migrations"
_ONE = _ALL + "/{migration_id}"
MANAGER = "rule:project_manager_or_admin"
ROUTES = [
    *versioned("GET", "/os-migrations", index, _RULE + "index", queries=_LIST, answer=a.MIGRATIONS),
    *versioned(
        "GET",
        _ALL,
        of_server,
        _OF + "index",
        since=23,
        queries={102: query(strict=True)},
        answer=a.SERVER_MIGRATIONS,
    ),
    *versioned(
        "GET",
        _ONE,
        show,
        _OF + "show",
        since=23,
        queries={102: query(strict=True)},
        answer=a.SERVER_MIGRATION,
    ),
    *versioned("DELETE", _ONE, cancel, _OF + "delete", since=24, success=202),
    *versioned(
        "POST",
        _ONE + "/action",
        complete,
        _OF + "force_complete",
        since=22,
        success=202,
        bodies={
            1: {
                "type": "object",
                "properties": {"force_complete": {"type": "null"}},
                "required": ["force_complete"],
                "additionalProperties": False,
            }
        },
        action="force_complete",
    ),
]
RULES = {
    _RULE + "index": MANAGER,
    _RULE + "index:all_projects": ADMIN,
    _RULE + "index:host": ADMIN,
    _OF + "index": MANAGER,
    _OF + "index:host": ADMIN,
    _OF + "show": ADMIN,
    _OF + "force_complete": MANAGER,
    _OF + "delete": MANAGER,
}
