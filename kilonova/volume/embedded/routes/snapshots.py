"""/snapshots: create, list, show, change, delete, metadata, administrators' actions."""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.volume.embedded import listing, snapshotting, view
from kilonova.volume.embedded.routes.common import (
    FLAG,
    ID,
    METADATA,
    NAME,
    TEXT,
    action_of,
    body_of,
    both,
    pairs_of,
    target,
    truth,
    visible,
)
from kilonova.volume.embedded.routes.pairs import Pairs
from kilonova.volume.embedded.schema import snapshot
from kilonova.volume.embedded.snapshotting import NewSnapshot
from kilonova.volume.embedded.store import snapshots, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = snapshot.c
NOUN = listing.Noun(
    snapshot,
    "snapshots",
    texts={
        "name": _c.name,
        "status": _c.status,
        "volume_id": _c.volume_id,
        "id": _c.id,
        "user_id": _c.user_id,
    },
    jsons={"metadata": _c.metadata},
    sorts={
        "name": _c.name,
        "display_name": _c.name,
        "status": _c.status,
        "volume_id": _c.volume_id,
        "updated_at": _c.updated_at,
    },
)
_NAMES = {"name": NAME, "description": TEXT, "display_name": NAME, "display_description": TEXT}
_BODY = body_of(
    "snapshot",
    {
        **_NAMES,
        "volume_id": {"anyOf": [{"type": "null"}, ID]},
        "force": {"anyOf": [{"type": "null"}, FLAG]},
        "metadata": METADATA,
    },
    ["volume_id"],
    more=True,
)
_UPDATE = body_of("snapshot", _NAMES, more=True)
_RESET = action_of(
    "os-reset_status",
    {"status": {"enum": ["available", "error", "creating", "deleting", "error_deleting"]}},
    ["status"],
)


class SnapshotRoutes:
    """Handlers of snapshots."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        base, one = "/snapshots", "/snapshots/{snapshot_id}"
        act = one + "/action"
        reset = "volume_extension:snapshot_admin_actions:reset_status"
        force = "volume_extension:snapshot_admin_actions:force_delete"
        pairs = Pairs(self.of, self.find, snapshots.change, "metadata").at(
            one,
            "volume:get_snapshot_metadata",
            "volume:update_snapshot_metadata",
            "volume:delete_snapshot_metadata",
        )
        return [
            *both("POST", base, self.create, "volume:create_snapshot", 202, (400, 403, 404, 413), body=_BODY),
            *both("GET", base, self.index, "volume:get_all_snapshots", errors=(400,)),
            *both("GET", base + "/detail", self.detail, "volume:get_all_snapshots", errors=(400,)),
            *both("GET", one, self.show, "volume:get_snapshot", errors=(404,)),
            *both("PUT", one, self.update, "volume:update_snapshot", errors=(400, 403, 404), body=_UPDATE),
            *both("DELETE", one, self.delete, "volume:delete_snapshot", 202, (400, 403, 404)),
            *both("POST", act, self.reset, reset, 202, (400, 404), body=_RESET, action="os-reset_status"),
            *both("POST", act, self.force_delete, force, 202, (404,), action="os-force_delete"),
            *pairs.routes(),
        ]  # fmt: skip

    def find(self, tx: Tx, req: Request, rule: str = "volume:get_snapshot") -> Row:
        """Return the snapshot of the path; 404 unless it may be seen, 403 unless ``rule`` allows."""
        given = req.params["snapshot_id"]
        row = visible(tx, req, "snapshot", snapshots.find, given, "volume:get_snapshot")
        req.authorize(rule, target(row))
        return row

    def create(self, req: Request) -> dict[str, Any]:
        """Keep a volume as it is now."""
        body = req.body["snapshot"]
        force = truth(body.get("force", False))
        if req.version >= V(3, 66):
            if "force" in body and not force:
                raise BadRequest(
                    "Invalid value for 'force'. The 'force' parameter is no longer valid: a snapshot of a volume "
                    "that is in use needs none."
                )
            force = True

        def write(tx: Tx) -> Row:
            given = body["volume_id"] or ""
            volume = visible(tx, req, "volume", volumes.find, given, "volume:get")
            req.authorize("volume:create_snapshot", target(volume))
            new = NewSnapshot(
                volume["id"],
                (body.get("name") or body.get("display_name") or "").strip(),
                body.get("description") or body.get("display_description"),
                pairs_of(body.get("metadata")),
                force,
                req.ctx.user_id or "",
            )
            return snapshotting.create_in(tx, req.ctx, self.of, new)

        return {"snapshot": view.plain_snapshot(view.snapshot(req, self.of.db.write(write)))}

    def index(self, req: Request) -> dict[str, Any]:
        """List the caller's snapshots."""
        return self._list(req, full=False)

    def detail(self, req: Request) -> dict[str, Any]:
        """List the caller's snapshots, in full."""
        return self._list(req, full=True)

    def _list(self, req: Request, *, full: bool) -> dict[str, Any]:
        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN)
            items = [view.snapshot(req, r, full=full) for r in found.rows]
            return listing.answer(NOUN, found, items)

        return self.of.db.read(read)

    def show(self, req: Request) -> dict[str, Any]:
        """Show a snapshot."""
        return {"snapshot": view.snapshot(req, self.of.db.read(lambda tx: self.find(tx, req)))}

    def update(self, req: Request) -> dict[str, Any]:
        """Change a snapshot's name or description."""
        body = req.body["snapshot"]
        changes: dict[str, Any] = {}
        if "name" in body or "display_name" in body:
            changes["name"] = (body.get("name", body.get("display_name")) or "").strip()
        if "description" in body or "display_description" in body:
            changes["description"] = body.get("description", body.get("display_description"))
        if not changes:
            raise BadRequest("Invalid input received: name or description must be given.")

        def write(tx: Tx) -> Row:
            row = self.find(tx, req, "volume:update_snapshot")
            snapshots.change(tx, row["id"], self.of.clock.now(), **changes)
            return snapshots.get(tx, row["id"])

        return {"snapshot": view.plain_snapshot(view.snapshot(req, self.of.db.write(write)))}

    def delete(self, req: Request) -> None:
        """Delete a snapshot."""

        def write(tx: Tx) -> None:
            row = self.find(tx, req, "volume:delete_snapshot")
            snapshotting.check_delete(row)
            snapshotting.delete_in(tx, req.ctx, self.of, row)

        self.of.db.write(write)

    def force_delete(self, req: Request) -> None:
        """Delete a snapshot whatever its status."""

        def write(tx: Tx) -> None:
            rule = "volume_extension:snapshot_admin_actions:force_delete"
            snapshotting.delete_in(tx, req.ctx, self.of, self.find(tx, req, rule))

        self.of.db.write(write)

    def reset(self, req: Request) -> None:
        """Write another status."""
        status = req.body["os-reset_status"]["status"]

        def write(tx: Tx) -> None:
            row = self.find(tx, req, "volume_extension:snapshot_admin_actions:reset_status")
            snapshots.change(tx, row["id"], self.of.clock.now(), status=status)

        self.of.db.write(write)
