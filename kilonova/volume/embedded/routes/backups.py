"""/backups: create, list, show, change, delete, restore."""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json
from kilonova.volume.embedded import backing, listing, view
from kilonova.volume.embedded.backing import NewBackup
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
from kilonova.volume.embedded.schema import backup
from kilonova.volume.embedded.store import backups, snapshots, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = backup.c
NOUN = listing.Noun(
    backup,
    "backups",
    texts={"name": _c.name, "status": _c.status, "volume_id": _c.volume_id, "id": _c.id},
    jsons={"metadata": _c.metadata},
    sorts={
        "name": _c.name,
        "status": _c.status,
        "volume_id": _c.volume_id,
        "size": _c.size_gib,
        "updated_at": _c.updated_at,
    },
)
_NULL_ID: Json = {"anyOf": [{"type": "null"}, ID]}
_BODY = body_of(
    "backup",
    {
        "volume_id": ID,
        "container": {"type": ["string", "null"], "maxLength": 255},
        "description": TEXT,
        "incremental": {"anyOf": [{"type": "null"}, FLAG]},
        "force": {"anyOf": [{"type": "null"}, FLAG]},
        "name": NAME,
        "snapshot_id": _NULL_ID,
        "metadata": METADATA,
        "availability_zone": TEXT,
    },
    ["volume_id"],
)
_UPDATE = body_of("backup", {"name": NAME, "description": TEXT, "metadata": METADATA})
_RESTORE = body_of("restore", {"volume_id": _NULL_ID, "name": NAME})
_RESET = action_of("os-reset_status", {"status": {"enum": ["available", "error"]}}, ["status"])
_A = "volume_extension:backup_admin_actions:"


class BackupRoutes:
    """Handlers of backups."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        base, one = "/backups", "/backups/{backup_id}"
        act, errors = one + "/action", (400, 403, 404, 413)
        return [
            *both("POST", base, self.create, "backup:create", 202, errors, body=_BODY),
            *both("GET", base, self.index, "backup:get_all", errors=(400,)),
            *both("GET", base + "/detail", self.detail, "backup:get_all", errors=(400,)),
            *both("GET", one, self.show, "backup:get", errors=(404,)),
            *both("PUT", one, self.update, "backup:update", errors=(400, 403, 404), since=V(3, 9), body=_UPDATE),
            *both("DELETE", one, self.delete, "backup:delete", 202, (400, 403, 404)),
            *both("POST", one + "/restore", self.restore, "backup:restore", 202, errors, body=_RESTORE),
            *both("POST", act, self.reset, _A + "reset_status", 202, (404,), body=_RESET, action="os-reset_status"),
            *both("POST", act, self.force_delete, _A + "force_delete", 202, (404,), action="os-force_delete"),
        ]  # fmt: skip

    def find(self, tx: Tx, req: Request, rule: str = "backup:get") -> Row:
        """Return the backup of the path; 404 unless it may be seen, 403 unless ``rule`` allows."""
        row = visible(tx, req, "backup", backups.find, req.params["backup_id"], "backup:get")
        req.authorize(rule, target(row))
        return row

    def create(self, req: Request) -> dict[str, Any]:
        """Back a volume up, or a snapshot of it."""
        body = req.body["backup"]

        def write(tx: Tx) -> Row:
            given, kept = body["volume_id"], body.get("snapshot_id")
            volume = visible(tx, req, "volume", volumes.find, given, "volume:get")
            if kept is not None:
                visible(tx, req, "snapshot", snapshots.find, kept, "volume:get_snapshot")
            req.authorize("backup:create", target(volume))
            new = NewBackup(
                volume["id"],
                (body.get("name") or "").strip(),
                body.get("description"),
                pairs_of(body.get("metadata")) if req.version >= V(3, 43) else {},
                truth(body.get("force") or False),
                kept,
                truth(body.get("incremental") or False),
            )
            return backing.create_in(tx, req.ctx, self.of, new)

        return {"backup": view.backup_brief(req, self.of.db.write(write))}

    def index(self, req: Request) -> dict[str, Any]:
        """List the caller's backups, briefly."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN)
            return listing.answer(NOUN, found, [view.backup_brief(req, r) for r in found.rows])

        return self.of.db.read(read)

    def detail(self, req: Request) -> dict[str, Any]:
        """List the caller's backups, in full."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN)
            parents = backups.parents(tx, [r["id"] for r in found.rows])
            items = [view.backup(req, r, parent=r["id"] in parents) for r in found.rows]
            return listing.answer(NOUN, found, items)

        return self.of.db.read(read)

    def show(self, req: Request) -> dict[str, Any]:
        """Show a backup."""

        def read(tx: Tx) -> dict[str, Any]:
            row = self.find(tx, req)
            return view.backup(req, row, parent=bool(backups.parents(tx, [row["id"]])))

        return {"backup": self.of.db.read(read)}

    def update(self, req: Request) -> dict[str, Any]:
        """Change a backup's name, description or metadata."""
        body = req.body["backup"]
        changes: dict[str, Any] = {k: body[k] for k in ("name", "description") if k in body}
        if "name" in changes:
            changes["name"] = (changes["name"] or "").strip()
        if "metadata" in body and req.version >= V(3, 43):
            changes["metadata"] = view.packed(pairs_of(body["metadata"]))
        if not changes:
            raise BadRequest("Must specify a valid parameter to update.")

        def write(tx: Tx) -> Row:
            row = self.find(tx, req, "backup:update")
            backups.change(tx, row["id"], self.of.clock.now(), **changes)
            return backups.get(tx, row["id"])

        return {"backup": view.backup_brief(req, self.of.db.write(write))}

    def delete(self, req: Request) -> None:
        """Delete a backup."""

        def write(tx: Tx) -> None:
            row = self.find(tx, req, "backup:delete")
            if row["status"] not in backing.DELETABLE:
                raise BadRequest("Invalid backup: Backup status must be available or error")
            backing.check_delete(tx, row)
            backing.delete_in(tx, req.ctx, self.of, row)

        self.of.db.write(write)

    def restore(self, req: Request) -> dict[str, Any]:
        """Restore a backup into a volume, or into a new one."""
        body = req.body["restore"]

        def write(tx: Tx) -> Row:
            row = self.find(tx, req, "backup:restore")
            return backing.restore_in(
                tx, req.ctx, self.of, row, body.get("volume_id"), (body.get("name") or "").strip()
            )

        row = self.of.db.write(write)
        return {
            "restore": {
                "backup_id": req.params["backup_id"],
                "volume_id": row["id"],
                "volume_name": row["name"],
            }
        }

    def reset(self, req: Request) -> None:
        """Write another status."""
        status = req.body["os-reset_status"]["status"]

        def write(tx: Tx) -> None:
            row = self.find(tx, req, _A + "reset_status")
            backups.change(tx, row["id"], self.of.clock.now(), status=status)

        self.of.db.write(write)

    def force_delete(self, req: Request) -> None:
        """Delete a backup whatever its status."""

        def write(tx: Tx) -> None:
            row = self.find(tx, req, _A + "force_delete")
            backing.check_delete(tx, row)
            backing.delete_in(tx, req.ctx, self.of, row)

        self.of.db.write(write)
