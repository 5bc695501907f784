"""/volumes: create, list, summary, show, change, delete."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import is_uuid
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.volume.embedded import listing, snapshotting, view
from kilonova.volume.embedded.creating import NewVolume
from kilonova.volume.embedded.faults import invalid_input, invalid_volume
from kilonova.volume.embedded.operations import asking
from kilonova.volume.embedded.routes.common import (
    ID,
    METADATA,
    NAME,
    SIZE,
    TEXT,
    body_of,
    both,
    pairs_of,
    target,
    truth,
    visible,
)
from kilonova.volume.embedded.schema import OF_ITS_OWN, volume, volume_type
from kilonova.volume.embedded.store import attachments, snapshots, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = volume.c
_TYPE = sa.select(volume_type.c.name).where(volume_type.c.id == _c.type_id).scalar_subquery()
NOUN = listing.Noun(
    volume,
    "volumes",
    texts={
        "name": _c.name,
        "status": _c.status,
        "availability_zone": _c.zone,
        "id": _c.id,
        "user_id": _c.user_id,
        "snapshot_id": _c.snapshot_id,
        "source_volid": _c.source_volid,
        "volume_type_id": _c.type_id,
        "volume_type_name": _TYPE,
        "description": _c.description,
        "host": _c.host,
        "size": _c.size_gib,
    },
    flags={"bootable": _c.bootable, "multiattach": _c.multiattach},
    jsons={"metadata": _c.metadata, "glance_metadata": _c.image},
    sorts={
        "name": _c.name,
        "display_name": _c.name,
        "status": _c.status,
        "size": _c.size_gib,
        "host": _c.host,
        "bootable": _c.bootable,
        "availability_zone": _c.zone,
        "updated_at": _c.updated_at,
        "user_id": _c.user_id,
        "project_id": _c.project_id,
        "volume_type_id": _c.type_id,
    },
)
_SEEN = [OF_ITS_OWN]
_NULL_ID = {"anyOf": [{"type": "null"}, ID]}
_BODY = body_of(
    "volume",
    {
        "name": NAME,
        "description": TEXT,
        "display_name": NAME,
        "display_description": TEXT,
        "size": {"anyOf": [{"type": "null"}, SIZE]},
        "volume_type": {"type": ["string", "null"], "maxLength": 255},
        "metadata": METADATA,
        "snapshot_id": _NULL_ID,
        "source_volid": _NULL_ID,
        "backup_id": _NULL_ID,
        "imageRef": {"type": ["string", "null"], "maxLength": 255},
        "image_id": {"type": ["string", "null"], "maxLength": 255},
        "availability_zone": {"type": ["string", "null"], "maxLength": 255},
        "multiattach": {},
        "group_id": _NULL_ID,
        "consistencygroup_id": _NULL_ID,
    },
    more=True,
)
_UPDATE = body_of(
    "volume",
    {
        "name": NAME,
        "description": TEXT,
        "display_name": NAME,
        "display_description": TEXT,
        "metadata": METADATA,
    },
    more=True,
)
DELETABLE = ("available", "error", "error_restoring", "error_extending", "error_managing")


class VolumeRoutes:
    """Handlers of volumes themselves."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        one = "/volumes/{volume_id}"
        return [
            *both(
                "POST",
                "/volumes",
                self.create,
                "volume:create",
                202,
                (400, 403, 404, 413),
                body=_BODY,
            ),
            *both("GET", "/volumes", self.index, "volume:get_all", errors=(400,)),
            *both("GET", "/volumes/detail", self.detail, "volume:get_all", errors=(400,)),
            *both("GET", "/volumes/summary", self.summary, "volume:get_all", since=V(3, 12)),
            *both("GET", one, self.show, "volume:get", errors=(404,)),
            *both("PUT", one, self.update, "volume:update", errors=(400, 403, 404), body=_UPDATE),
            *both("DELETE", one, self.delete, "volume:delete", 202, (400, 403, 404)),
        ]

    def find(self, tx: Tx, req: Request, rule: str = "volume:get") -> Row:
        """Return the volume of the path; 404 unless it may be seen, 403 unless ``rule`` allows."""
        row = visible(tx, req, "volume", volumes.find, req.params["volume_id"], "volume:get")
        req.authorize(rule, target(row))
        return row

    def body(self, tx: Tx, req: Request, rows: list[Row]) -> list[dict[str, Any]]:
        """Return volumes in full."""
        held = attachments.of_volumes(tx, [r["id"] for r in rows])
        names = {t: volumes.type_name(tx, t) for t in {r["type_id"] for r in rows}}
        return [view.volume(req, r, held.get(r["id"], []), names[r["type_id"]]) for r in rows]

    def create(self, req: Request) -> dict[str, Any]:
        """Make a volume: empty, or from an image, a snapshot, a volume or (3.47) a backup."""
        body = req.body["volume"]
        if truth(body.get("multiattach", False)):
            raise BadRequest(
                "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume "
                "types. Contact your administrator to create a multiattach enabled volume type and use it to create "
                "multiattach volumes."
            )
        if body.get("group_id") or body.get("consistencygroup_id"):
            raise invalid_input("This cloud has no volume groups.")
        image = body.get("imageRef") or body.get("image_id")
        if image and not is_uuid(str(image).rsplit("/", 1)[-1]):
            raise invalid_input(
                f"Invalid image identifier or unable to access requested image: {image:.64}"
            )
        sources = [body.get(k) for k in ("snapshot_id", "source_volid", "backup_id") if body.get(k)]
        if len(sources) + bool(image) > 1:
            raise invalid_input(
                "A volume is made from one source only: imageRef, snapshot_id, source_volid, backup_id."
            )
        backup = body.get("backup_id") if req.version >= V(3, 47) else None
        if body.get("size") is None and not (
            body.get("snapshot_id") or body.get("source_volid") or backup
        ):
            raise BadRequest("Invalid input received: 'size' is a required property.")
        new = NewVolume(
            project_id=req.project(),
            user_id=req.ctx.user_id or "",
            size_gib=None if body.get("size") is None else int(body["size"]),
            name=(body.get("name") or body.get("display_name") or "").strip(),
            description=body.get("description") or body.get("display_description"),
            image_id=str(image).rsplit("/", 1)[-1].lower() if image else None,
            snapshot_id=body.get("snapshot_id"),
            source_volid=body.get("source_volid"),
            backup_id=backup,
            volume_type=body.get("volume_type"),
            zone=body.get("availability_zone"),
            metadata=pairs_of(body.get("metadata")),
        )
        made = self.of.create(req.ctx, new)
        return {"volume": view.plain(self.of.db.read(lambda tx: self.body(tx, req, [made])[0]))}

    def index(self, req: Request) -> dict[str, Any]:
        """List the caller's volumes, briefly."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN, more=_SEEN)
            return listing.answer(NOUN, found, [view.volume_brief(req, r) for r in found.rows])

        return self.of.db.read(read)

    def detail(self, req: Request) -> dict[str, Any]:
        """List the caller's volumes, in full."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN, more=_SEEN)
            return listing.answer(NOUN, found, self.body(tx, req, found.rows))

        return self.of.db.read(read)

    def summary(self, req: Request) -> dict[str, Any]:
        """Count the caller's volumes and their size."""

        def read(tx: Tx) -> dict[str, Any]:
            statement = sa.select(_c.size_gib, _c.metadata).where(*_SEEN)
            if not listing.all_projects(req):
                statement = statement.where(_c.project_id == req.project())
            rows = tx.select(statement)
            out: dict[str, Any] = {
                "total_count": len(rows),
                "total_size": sum(r["size_gib"] for r in rows),
            }
            if req.version >= V(3, 36):
                merged: dict[str, list[str]] = {}
                for r in rows:
                    for k, v in msgspec.json.decode(r["metadata"]).items():
                        if v not in merged.setdefault(k, []):
                            merged[k].append(v)
                out["metadata"] = {k: sorted(values) for k, values in merged.items()}
            return {"volume-summary": out}

        return self.of.db.read(read)

    def show(self, req: Request) -> dict[str, Any]:
        """Show a volume."""
        return {"volume": self.of.db.read(lambda tx: self.body(tx, req, [self.find(tx, req)])[0])}

    def update(self, req: Request) -> dict[str, Any]:
        """Change a volume's name, description or metadata."""
        body = req.body["volume"]
        changes: dict[str, Any] = {}
        if "name" in body or "display_name" in body:
            changes["name"] = (body.get("name", body.get("display_name")) or "").strip()
        if "description" in body or "display_description" in body:
            changes["description"] = body.get("description", body.get("display_description"))
        if "metadata" in body:
            changes["metadata"] = msgspec.json.encode(pairs_of(body["metadata"])).decode()
        if not changes:
            raise invalid_input("name, description or metadata must be given.")

        def write(tx: Tx) -> dict[str, Any]:
            row = self.find(tx, req, "volume:update")
            volumes.change(tx, row["id"], self.of.clock.now(), **changes)
            return self.body(tx, req, [volumes.get(tx, row["id"])])[0]

        return {"volume": view.plain(self.of.db.write(write))}

    def delete(self, req: Request) -> None:
        """Delete a volume; ``cascade`` with its snapshots, ``force`` (3.23) whatever its state."""
        cascade = truth(req.query.get("cascade", "false"))
        force = req.version >= V(3, 23) and truth(req.query.get("force", "false"))
        if cascade and force:
            raise BadRequest("Cannot use both force and cascade.")

        def write(tx: Tx) -> None:
            row = self.find(tx, req, "volume:force_delete" if force else "volume:delete")
            self.check_delete(tx, row, cascade=cascade, force=force)
            for taken in snapshots.of_volume(tx, row["id"]) if cascade else ():
                snapshotting.check_delete(taken)
                snapshotting.delete_in(tx, req.ctx, self.of, taken)
            self.of.delete_in(tx, req.ctx, row)

        self.of.db.write(write)

    def check_delete(self, tx: Tx, row: Row, *, cascade: bool = False, force: bool = False) -> None:
        """Raise BadRequest, in Cinder's words, unless a volume may be deleted by its API."""
        if attachments.of_volume(tx, row["id"]):
            raise invalid_volume(f"Volume {row['id']} is still attached, detach volume first.")
        if row["status"] not in DELETABLE and not force:
            raise invalid_volume(
                f"Volume status must be {' or '.join(DELETABLE)} and must not be migrating, attached, belong to a "
                "group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer."
            )
        if not force:
            asking.check_still(row)
        taken = snapshots.of_volume(tx, row["id"])
        if taken and not cascade:
            raise invalid_volume(f"Volume still has {len(taken)} dependent snapshots.")

    @staticmethod
    def no_image_key(key: str) -> NotFound:
        """Return the 404 of an item that a volume does not keep of its image."""
        return NotFound(f"Metadata does not exist: {key[:255]}")
