"""Server groups: which servers shall share a host, and which shall not."""

from typing import Any

import msgspec

from kilonova.api.compute.answers import server_groups as a
from kilonova.api.compute.rules import ADMIN, MEMBER, READER
from kilonova.api.compute.schemas import server_groups as s
from kilonova.api.compute.shared import (
    COUNT,
    NO_QUERY,
    TEXT,
    R,
    many,
    offset_page,
    strict_from,
    versioned,
    whole,
)
from kilonova.common.errors import BadRequest, NotFound, QuotaExceeded
from kilonova.common.ids import new_uuid
from kilonova.db import quotas
from kilonova.db import server_groups as db
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import notices
from kilonova.operations.services import Services


def _shape(req: Request, row: Row, members: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"id": row["uuid"], "name": row["name"], "members": members}
    if req.version >= V(2, 64):
        out["policy"] = row["policy"]
        out["rules"] = msgspec.Raw(row["rules"].encode())
    else:
        out["policies"] = [row["policy"]]
        out["metadata"] = {}
    if req.version >= V(2, 13):
        out["project_id"] = row["project_id"]
        out["user_id"] = row["user_id"]
    return out


def _get(req: Request) -> Row:
    """Return the group of the path; NotFound alike for missing and foreign."""
    services: Services = req.cloud
    uuid = req.params["group_id"]
    row = services.world.read(lambda tx: db.find(tx, uuid))
    if row is None or not (row["project_id"] == req.ctx.project_id or req.ctx.is_admin):
        raise NotFound(f"Instance group {uuid} could not be found.")
    return row


def index(req: Request) -> Any:
    """List the project's groups; an admin may ask for all."""
    services: Services = req.cloud
    everyone = "all_projects" in req.query and req.ctx.is_admin
    if everyone:
        req.authorize(R + "os-server-groups:index:all_projects")
    project = None if everyone else req.project()

    def read(tx: Tx) -> list[tuple[Row, list[str]]]:
        rows = offset_page(req, db.list_(tx, project))
        return [(r, db.members(tx, r["uuid"])) for r in rows]

    found = services.world.read(read)
    return {"server_groups": [_shape(req, r, m) for r, m in found]}


def show(req: Request) -> Any:
    """Show one group with its servers."""
    services: Services = req.cloud
    row = _get(req)
    req.authorize(R + "os-server-groups:show", {"project_id": row["project_id"]})
    members = services.world.read(lambda tx: db.members(tx, row["uuid"]))
    return {"server_group": _shape(req, row, members)}


def create(req: Request) -> Any:
    """Make a group with one policy."""
    services: Services = req.cloud
    body, project = req.body["server_group"], req.project()
    policy = body["policy"] if req.version >= V(2, 64) else body["policies"][0]
    rules = {
        k: whole(v, f"server_group/rules/{k}", 1) for k, v in (body.get("rules") or {}).items()
    }
    if rules and policy != "anti-affinity":
        raise BadRequest("Only anti-affinity policy supports rules.")
    uuid = new_uuid()

    def put(tx: Tx) -> Row | None:
        limit = quotas.limits(tx, project, str(req.ctx.user_id))["server_groups"]
        if 0 <= limit <= quotas.groups_used(tx, project):
            raise QuotaExceeded("Quota exceeded, too many server groups.")
        db.add(
            tx,
            uuid=uuid,
            project_id=project,
            user_id=str(req.ctx.user_id),
            name=body["name"].strip(),
            policy=policy,
            rules=rules,
            now=services.now(),
        )
        row = db.find(tx, uuid)
        notices.server_group(tx, req.ctx, "server_group.create", row, services.now())
        return row

    return {"server_group": _shape(req, services.world.write(put), [])}


def delete(req: Request) -> None:
    """Delete a group; its servers go on without one."""
    services: Services = req.cloud
    row = _get(req)
    req.authorize(R + "os-server-groups:delete", {"project_id": row["project_id"]})

    def drop(tx: Tx) -> None:
        notices.server_group(tx, req.ctx, "server_group.delete", row, services.now())
        db.remove(tx, row["uuid"])

    services.world.write(drop)


_RULE = R + "os-server-groups:"
_LIST = {"all_projects": many(TEXT), "limit": many(COUNT), "offset": many(COUNT)}
_ONE = "/os-server-groups/{group_id}"
ROUTES = [
    *versioned(
        "GET",
        "/os-server-groups",
        index,
        _RULE + "index",
        queries=strict_from(75, _LIST),
        answer=a.LIST,
    ),
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.SHOW),
    *versioned(
        "POST",
        "/os-server-groups",
        create,
        _RULE + "create",
        bodies=s.CREATE,
        removed={64: ("/server_group/policies",)},
        errors=(400, 403, 409),
        answer=a.SHOW,
        idempotent="record",
    ),
    *versioned("DELETE", _ONE, delete, _RULE + "delete", success=204),
]
RULES = {
    _RULE + "index": READER,
    _RULE + "index:all_projects": ADMIN,
    _RULE + "show": READER,
    _RULE + "create": MEMBER,
    _RULE + "delete": MEMBER,
}
