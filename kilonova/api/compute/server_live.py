"""Live migration: the action os-migrateLive, and a server's migrations under way: list, show, abort, complete."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.common import BOOLEAN, Json, true, wrap
from kilonova.api.compute.server_resize import may_leave_cell
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, query, versioned
from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.schema import extend
from kilonova.objects.live_orders import LiveProgress
from kilonova.operations import live_migrate, live_migrate_cross_cell, live_moves, live_steering
from kilonova.scheduler.select import NoValidHost

_MIGRATE = R + "os-migrate-server:migrate_live"
_OF = R + "servers:migrations:"
_MANAGER = "rule:project_manager_or_admin"
_LOOK_S = 2.0


def migrate(req: Request) -> None:
    """Accept it. Before 2.34 the caller hears at once when no host would do; from then on the migration says so."""
    asked = req.body["os-migrateLive"]
    server = found(req, _MIGRATE)
    host = asked.get("host")
    if host is not None:
        req.authorize(_MIGRATE + ":host")
    force = true(asked.get("force", False))
    if force and host is None:
        raise BadRequest("Can't force to a non-provided destination")
    if req.version < V(2, 30):
        force = host is not None
    wish = asked["block_migration"]
    how: dict[str, Any] = {"host": host, "force": force}
    how["block"] = None if wish == "auto" else true(wish)
    if may_leave_cell(req, server, live_migrate_cross_cell.POLICY):
        moved = live_migrate_cross_cell.start(req.cloud, req.ctx, server, **how)
        if moved is not None:
            return
    try:
        live_migrate.start(req.cloud, req.ctx, server, **how, dry=req.version < V(2, 34))
    except NoValidHost as exc:
        raise BadRequest(exc.message) from exc


def index(req: Request) -> Any:
    """List the live migrations of a server that are under way."""
    server = found(req, _OF + "index")
    rows = live_steering.listed(req.cloud, server)
    return {"migrations": [_view(req, r) for r in rows]}


def show(req: Request) -> Any:
    """Show one that is under way, and how far it is."""
    server = found(req, _OF + "show")
    return {"migration": _view(req, live_steering.under_way(req.cloud, server, _number(req)))}


def abort(req: Request) -> None:
    """End one; from 2.65 on also one that has not begun to send memory."""
    server = found(req, _OF + "delete")
    live_steering.abort(req.cloud, server, _number(req), early=req.version >= V(2, 65))


def complete(req: Request) -> None:
    """Have one end soon."""
    server = found(req, _OF + "force_complete")
    live_steering.force_complete(req.cloud, server, _number(req))


def _number(req: Request) -> str:
    return str(req.params["migration_id"])


def _view(req: Request, row: Row) -> dict[str, Any]:
    hosts = req.may(_OF + "index:host")
    p = _progress(req, row)
    out = {
        "id": row["id"],
        "status": row["status"],
        "server_uuid": row["server"],
        "source_compute": row["source_host"] if hosts else None,
        "source_node": row["source_node"] if hosts else None,
        "dest_host": None,
        "dest_compute": row["dest_host"] if hosts else None,
        "dest_node": row["dest_node"] if hosts else None,
        "memory_total_bytes": p.memory_total,
        "memory_processed_bytes": p.memory_processed,
        "memory_remaining_bytes": p.memory_remaining,
        "disk_total_bytes": p.disk_total,
        "disk_processed_bytes": p.disk_processed,
        "disk_remaining_bytes": p.disk_remaining,
        "created_at": iso_micro(row["created_at"]),
        "updated_at": iso_micro(row["updated_at"]),
    }
    if req.version >= V(2, 59):
        out["uuid"] = row["uuid"]
    if req.version >= V(2, 80):
        out["user_id"], out["project_id"] = row["user_id"], row["project_id"]
    return out


def _progress(req: Request, row: Row) -> LiveProgress:
    """Ask the source; all noughts when it is not under way yet, or does not say."""
    if row["status"] != "running":
        return LiveProgress()
    move = live_moves.look(req.cloud, row["source_host"], row["server"], _LOOK_S)
    return LiveProgress() if move is None else move.progress


_HOST: Json = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_AT: tuple[str, ...] = ("properties", "os-migrateLive")
_C1: Json = wrap(
    "os-migrateLive",
    {
        "type": "object",
        "properties": {"host": _HOST, "block_migration": BOOLEAN, "disk_over_commit": BOOLEAN},
        "required": ["host", "block_migration", "disk_over_commit"],
        "additionalProperties": False,
    },
)
_C25: Json = wrap(
    "os-migrateLive",
    {
        "type": "object",
        "properties": {
            "host": _HOST,
            "block_migration": {"enum": ["auto", *BOOLEAN["enum"]]},
        },
        "required": ["host", "block_migration"],
        "additionalProperties": False,
    },
)
_C30 = extend(_C25, at=_AT, properties={"force": BOOLEAN})
_ALL = "/servers/{server_id}/migrations"
_ONE = _ALL + "/{migration_id}"
_E: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *versioned(
        "POST",
        "/servers/{server_id}/action",
        migrate,
        _MIGRATE,
        bodies={1: _C1, 25: _C25, 30: _C30, 68: _C25},
        removed={25: ("/os-migrateLive/disk_over_commit",), 68: ("/os-migrateLive/force",)},
        action="os-migrateLive",
        **_E,
    ),
    *versioned(
        "GET",
        _ALL,
        index,
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
    *versioned("DELETE", _ONE, abort, _OF + "delete", since=24, **_E),
    *versioned(
        "POST",
        _ONE + "/action",
        complete,
        _OF + "force_complete",
        since=22,
        bodies={
            1: {
                "type": "object",
                "properties": {"force_complete": {"type": "null"}},
                "required": ["force_complete"],
                "additionalProperties": False,
            }
        },
        action="force_complete",
        **_E,
    ),
]
RULES = {
    _MIGRATE: _MANAGER,
    _MIGRATE + ":host": ADMIN,
    live_migrate_cross_cell.POLICY: ADMIN,
    _OF + "index": _MANAGER,
    _OF + "index:host": ADMIN,
    _OF + "show": ADMIN,
    _OF + "force_complete": _MANAGER,
    _OF + "delete": _MANAGER,
}
