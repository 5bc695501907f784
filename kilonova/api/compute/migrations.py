"""Migrations: every move of a server, newest first. Those that can be steered: server_live.py."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.json import decode

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.shared import (
    COUNT,
    MAX_LIMIT,
    MOMENT,
    TEXT,
    R,
    limit_of,
    links,
    many,
    next_link,
    one,
    query,
    versioned,
)
from kilonova.cells.asking import CellDown
from kilonova.common.clock import iso_micro, parse_iso
from kilonova.common.errors import BadRequest
from kilonova.db import migrations
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request

_RULE = R + "os-migrations:"


def index(req: Request) -> Any:
    """List migrations; those of other projects than the caller's only to admins."""
    project = req.query.get("project_id") if req.version >= V(2, 80) else None
    if project is None or project != req.ctx.project_id:
        req.authorize(_RULE + "index:all_projects")
    if req.version >= V(2, 66):
        _check_times(req)
    asked = _filters(req)
    limit = limit_of(req) or MAX_LIMIT
    after = _after(req)
    answers, _ = req.cloud.lists.ask_cells(
        lambda tx: migrations.listed(tx, asked, limit + 1, after)
    )
    rows = sorted(
        _each_once(req, answers).values(), key=lambda r: (r["created_at"], r["uuid"]), reverse=True
    )
    out: dict[str, Any] = {"migrations": [_view(req, r) for r in rows[:limit]]}
    if req.version >= V(2, 59) and len(rows) > limit:
        out["migrations_links"] = next_link(req, "/os-migrations", rows[limit - 1]["uuid"])
    return out


def _each_once(req: Request, answers: Mapping[str, Sequence[Row]]) -> dict[str, Row]:
    """Return migration -> its record: of one to another cell, which has one in both, the newer; else the source's."""
    found: dict[str, tuple[float, bool, Row]] = {}
    for cell, part in answers.items():
        for row in part:
            source = req.cloud.hosts.find(row["source_host"])
            here = (row["updated_at"], source is not None and source.cell == cell, row)
            other = found.get(row["uuid"])
            if other is None or here[:2] > other[:2]:
                found[row["uuid"]] = here
    return {uuid: row for uuid, (_, _, row) in found.items()}


def _filters(req: Request) -> dict[str, Any]:
    """Return what the query asks for, by column."""
    q = req.query
    found: dict[str, Any] = {}
    for name, column in _COLUMN.items():
        value = q.get(name)
        if value is not None:
            found[column] = value
    if q.get("hidden") is not None:
        found["hidden"] = int(str(q.get("hidden")).lower() in ("1", "t", "true", "on", "y", "yes"))
    if q.get("status") is not None:
        found["status"] = q.all("status")
    for name, key in (("changes-since", "since"), ("changes-before", "before")):
        value = q.get(name)
        if value is not None and req.version >= V(2, 59 if key == "since" else 66):
            found[key] = parse_iso(value)
    return found


def _after(req: Request) -> tuple[float, str] | None:
    """Return the place of the marker in the list. BadRequest when there is no such migration; CellDown."""
    marker = req.query.get("marker") if req.version >= V(2, 59) else None
    if marker is None:
        return None
    answers, silent = req.cloud.lists.ask_cells(lambda tx: migrations.find(tx, marker))
    for row in answers.values():
        if row is not None:
            return row["created_at"], row["uuid"]
    if silent:
        raise CellDown(", ".join(silent))
    raise BadRequest(f"Marker {marker} could not be found.")


def _view(req: Request, row: Row) -> dict[str, Any]:
    hosts = req.may(_RULE + "index:host")
    out = {
        "id": row["id"],
        "status": row["status"],
        "instance_uuid": row["server"],
        "source_compute": row["source_host"] if hosts else None,
        "source_node": row["source_node"] if hosts else None,
        "dest_host": None,
        "dest_compute": row["dest_host"] if hosts else None,
        "dest_node": row["dest_node"] if hosts else None,
        "old_instance_type_id": _number_of(row["old_flavor"]),
        "new_instance_type_id": _number_of(row["new_flavor"]),
        "created_at": iso_micro(row["created_at"]),
        "updated_at": iso_micro(row["updated_at"]),
    }
    if req.version >= V(2, 23):
        out["migration_type"] = row["kind"]
        if row["kind"] == "live-migration" and row["status"] in migrations.LIVE:
            out["links"] = links(req, f"servers/{row['server']}/migrations/{row['id']}")
    if req.version >= V(2, 59):
        out["uuid"] = row["uuid"]
    if req.version >= V(2, 80):
        out["user_id"], out["project_id"] = row["user_id"], row["project_id"]
    if row["cross_cell"]:
        out["cross_cell_move"] = True
    return out


def _number_of(flavor: str) -> int:
    """Return a number that stands for a flavor: the API has one here, flavors of this cloud have none."""
    return zlib.crc32(decode(flavor)["flavorid"].encode()) & 0x7FFFFFFF


def _check_times(req: Request) -> None:
    since, before = req.query.get("changes-since"), req.query.get("changes-before")
    if since and before and parse_iso(before) < parse_iso(since):
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")


_COLUMN = {
    "host": "host",
    "instance_uuid": "server",
    "source_compute": "source_host",
    "migration_type": "kind",
    "user_id": "user_id",
    "project_id": "project_id",
}
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
MANAGER = "rule:project_manager_or_admin"
ROUTES = versioned(
    "GET", "/os-migrations", index, _RULE + "index", queries=_LIST, answer=a.MIGRATIONS
)
RULES = {
    _RULE + "index": MANAGER,
    _RULE + "index:all_projects": ADMIN,
    _RULE + "index:host": ADMIN,
}
