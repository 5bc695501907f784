"""POST /volumes/{id}/action: extend, flags, image metadata, retype, upload, administrators' actions."""

from typing import Any

import msgspec

from kilonova.common.errors import BadRequest, Forbidden
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.objects.image import Image
from kilonova.objects.volume_params import VolumeParams
from kilonova.volume.embedded import attaching, reimaging, reverting, view
from kilonova.volume.embedded.faults import invalid_input, invalid_volume, missing
from kilonova.volume.embedded.operations import (
    asking,
    volume_extend,
    volume_extend_online,
    volume_upload,
)
from kilonova.volume.embedded.routes.common import (
    FLAG,
    ID,
    LOW,
    METADATA,
    SIZE,
    action_of,
    both,
    pairs_of,
    truth,
)
from kilonova.volume.embedded.routes.volumes import VolumeRoutes
from kilonova.volume.embedded.store import attachments, quotas, types, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_P = "volume_extension:volume_actions:"
_A = "volume_extension:volume_admin_actions:"
_I = "volume_extension:volume_image_metadata:"
STATUSES = (
    "creating", "available", "deleting", "error", "error_deleting", "error_managing", "managing", "attaching",
    "in-use", "maintenance", "detaching", "reserved", "awaiting-transfer", "extending", "error_extending",
    "uploading", "downloading", "retyping", "backing-up", "restoring-backup", "error_restoring", "error_backing-up",
)  # fmt: skip
_RESET = action_of(
    "os-reset_status",
    {
        "status": {"enum": [*STATUSES, None]},
        "attach_status": {"enum": ["detached", "attached", None]},
        "migration_status": {"type": ["string", "null"], "maxLength": 255},
    },
)
_UPLOAD = action_of(
    "os-volume_upload_image",
    {
        "image_name": {"type": "string", "minLength": 1, "maxLength": 255},
        "force": FLAG,
        "disk_format": {"enum": ["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"]},
        "container_format": {"type": "string", "maxLength": 255},
        "visibility": {"enum": ["community", "public", "private", "shared"]},
        "protected": FLAG,
    },
    ["image_name"],
)
_KEY = {"type": "string", "minLength": 1, "maxLength": 255}
_RETYPE = action_of(
    "os-retype",
    {
        "new_type": {"type": "string", "minLength": 1, "maxLength": 255},
        "migration_policy": {"enum": ["never", "on-demand", None]},
    },
    ["new_type"],
)
_BODIES = {
    "os-extend": action_of("os-extend", {"new_size": SIZE}, ["new_size"]),
    "os-set_bootable": action_of("os-set_bootable", {"bootable": FLAG}, ["bootable"]),
    "os-update_readonly_flag": action_of(
        "os-update_readonly_flag", {"readonly": FLAG}, ["readonly"]
    ),
    "os-set_image_metadata": action_of(
        "os-set_image_metadata", {"metadata": METADATA}, ["metadata"]
    ),
    "os-unset_image_metadata": action_of("os-unset_image_metadata", {"key": _KEY}, ["key"]),
    "os-retype": _RETYPE,
    "os-volume_upload_image": _UPLOAD,
    "os-reset_status": _RESET,
    "revert": action_of("revert", {"snapshot_id": ID}, ["snapshot_id"]),
    "os-reimage": action_of("os-reimage", {"image_id": ID, "reimage_reserved": FLAG}, ["image_id"]),
}
_SINCE = {"revert": V(3, 40), "os-reimage": V(3, 68)}
_UPLOADED = ("qcow2", "raw")


class ActionRoutes:
    """Handlers of what is done to one volume. Attaching has a file of its own (connections.py)."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of
        self.volumes = VolumeRoutes(of)

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        path, errors = "/volumes/{volume_id}/action", (400, 403, 404, 409, 413)
        table: tuple[tuple[str, Any, str, int], ...] = (
            ("os-extend", self.extend, "volume:extend", 202),
            ("os-set_bootable", self.set_bootable, _P + "set_bootable", 200),
            ("os-update_readonly_flag", self.set_readonly, "volume:update_readonly_flag", 202),
            ("os-set_image_metadata", self.set_image, _I + "set", 200),
            ("os-unset_image_metadata", self.unset_image, _I + "remove", 200),
            ("os-show_image_metadata", self.show_image, _I + "show", 200),
            ("os-retype", self.retype, "volume:retype", 202),
            ("os-volume_upload_image", self.upload, _P + "upload_image", 202),
            ("os-reset_status", self.reset, _A + "reset_status", 202),
            ("os-force_delete", self.force_delete, _A + "force_delete", 202),
            ("revert", self.revert, "volume:revert_to_snapshot", 202),
            ("os-reimage", self.reimage, "volume:reimage", 202),
        )
        show, rows = "/volumes/{volume_id}/encryption", list[Route]()
        for name, handler, rule, success in table:
            since, body = _SINCE.get(name, LOW), _BODIES.get(name)
            rows += both(
                "POST", path, handler, rule, success, errors, since=since, body=body, action=name
            )
        return [*rows, *both("GET", show, self.encryption, "volume:get", errors=(404,))]

    def _at(self, tx: Tx, req: Request, rule: str) -> Row:
        return self.volumes.find(tx, req, rule)

    def _change(self, req: Request, rule: str, **values: Any) -> None:
        def write(tx: Tx) -> None:
            volumes.change(tx, self._at(tx, req, rule)["id"], self.of.clock.now(), **values)

        self.of.db.write(write)

    def encryption(self, req: Request) -> dict[str, Any]:
        """Say how a volume is encrypted: none is."""
        self.of.db.read(lambda tx: self._at(tx, req, "volume:get"))
        return {"encryption_key_id": None}

    def extend(self, req: Request) -> None:
        """Let a volume grow."""
        size = int(req.body["os-extend"]["new_size"])

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "volume:extend")
            held = attachments.of_volume(tx, row["id"])
            online = req.version >= V(3, 42)
            allowed = ("available", "in-use") if online else ("available",)
            if row["status"] not in allowed:
                raise invalid_volume(
                    f"Volume {row['id']} status must be '{' or '.join(allowed)}' to extend, currently {row['status']}."
                )
            if row["status"] == "in-use":
                req.authorize("volume:extend_attached_volume", {"project_id": row["project_id"]})
            over_nbd = volume_extend_online.attachment_of(row["id"], held)
            more = size - row["size_gib"]
            if more <= 0:
                raise invalid_input(
                    f"New size for extend must be greater than current size. (current: {row['size_gib']}, "
                    f"extended: {size})."
                )
            kind = volumes.type_name(tx, row["type_id"])
            quotas.check(
                tx,
                row["project_id"],
                {"gigabytes": more, f"gigabytes_{kind}": more, "per_volume_gigabytes": size},
            )
            now = self.of.clock.now()
            volumes.change(
                tx,
                row["id"],
                now,
                status="extending",
                previous_status=row["status"],
                new_size_gib=size,
            )
            params = VolumeParams(
                volume_id=row["id"],
                project_id=row["project_id"],
                size_gib=size,
                attachment_id=over_nbd,
            )
            saga = volume_extend.SAGA if over_nbd is None else volume_extend_online.SAGA
            asking.accept(tx, req.ctx, self.of, saga, params)

        self.of.db.write(write)

    def set_bootable(self, req: Request) -> None:
        """Say whether a server can boot from a volume."""
        value = int(truth(req.body["os-set_bootable"]["bootable"]))
        self._change(req, _P + "set_bootable", bootable=value)

    def set_readonly(self, req: Request) -> None:
        """Say whether a volume may be written; not while it is attached."""
        value = int(truth(req.body["os-update_readonly_flag"]["readonly"]))

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "volume:update_readonly_flag")
            if row["status"] != "available":
                raise invalid_volume(
                    f"Volume {row['id']} status must be available to update readonly flag, but current status is: "
                    f"{row['status']}."
                )
            volumes.change(tx, row["id"], self.of.clock.now(), readonly=value, readonly_said=1)

        self.of.db.write(write)

    def _image(self, row: Row) -> dict[str, str]:
        found: dict[str, str] = msgspec.json.decode(row["image"])
        return found

    def set_image(self, req: Request) -> dict[str, Any]:
        """Add to what a volume keeps of its image."""
        given = pairs_of(req.body["os-set_image_metadata"]["metadata"])

        def write(tx: Tx) -> dict[str, str]:
            row = self._at(tx, req, _I + "set")
            have = {**self._image(row), **given}
            if len(have) > 128:
                raise invalid_input("metadata: more than 128 items.")
            text = msgspec.json.encode(have).decode()
            volumes.change(tx, row["id"], self.of.clock.now(), image=text)
            return have

        return {"metadata": self.of.db.write(write)}

    def unset_image(self, req: Request) -> None:
        """Remove one item of what a volume keeps of its image."""
        key = req.body["os-unset_image_metadata"]["key"]

        def write(tx: Tx) -> None:
            row = self._at(tx, req, _I + "remove")
            have = self._image(row)
            if key not in have:
                raise self.volumes.no_image_key(key)
            del have[key]
            text = msgspec.json.encode(have).decode()
            volumes.change(tx, row["id"], self.of.clock.now(), image=text)

        self.of.db.write(write)

    def show_image(self, req: Request) -> dict[str, Any]:
        """Show what a volume keeps of its image."""
        row = self.of.db.read(lambda tx: self._at(tx, req, _I + "show"))
        return {"metadata": self._image(row)}

    def retype(self, req: Request) -> None:
        """Give a volume another type. All types have one back end here: only the record changes."""
        wanted = req.body["os-retype"]["new_type"]

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "volume:retype")
            kind = types.get(tx, wanted)
            if not types.usable(tx, kind, row["project_id"]) and not req.ctx.is_admin:
                raise missing("type", wanted)
            if row["status"] not in ("available", "in-use"):
                raise invalid_volume(
                    f"Volume {row['id']} status must be available or in-use to retype, currently {row['status']}."
                )
            if kind["id"] == row["type_id"]:
                raise invalid_input(f"New volume_type same as original: {kind['name']}.")
            multi = types.is_true(types.specs_of(kind), "multiattach")
            if row["status"] == "in-use" and multi != bool(row["multiattach"]):
                raise invalid_input(
                    "Changing between multiattach and not needs a volume that is available."
                )
            size = row["size_gib"]
            quotas.check(
                tx,
                row["project_id"],
                {f"volumes_{kind['name']}": 1, f"gigabytes_{kind['name']}": size},
            )
            now = self.of.clock.now()
            volumes.change(tx, row["id"], now, type_id=kind["id"], multiattach=int(multi))

        self.of.db.write(write)

    def upload(self, req: Request) -> dict[str, Any]:
        """Make an image of a volume."""
        body = req.body["os-volume_upload_image"]
        disk_format = body.get("disk_format", "raw")
        if disk_format not in _UPLOADED:
            raise invalid_input(
                f"disk_format: {disk_format} is not built here; {' or '.join(_UPLOADED)} is."
            )
        if body.get("container_format", "bare") != "bare":
            raise invalid_input("container_format: only bare is built here.")
        visibility = body.get("visibility", "private") if req.version >= V(3, 1) else "private"
        if visibility == "public" and not req.ctx.is_admin:
            raise Forbidden(
                "Policy doesn't allow volume_extension:volume_actions:upload_public to be performed."
            )
        row = self.of.db.read(lambda tx: self._at(tx, req, _P + "upload_image"))
        self._may_upload(row, force=truth(body.get("force", False)))
        image_id = new_uuid()
        image = self._new_image(row, body, image_id, visibility)
        self.of.images.ensure(f"{image_id}:upload", image)
        try:
            name = self.of.db.write(lambda tx: self._accept_upload(tx, req, body, image_id))
        except BaseException:
            self.of.images.delete(image_id)
            raise
        row = self.of.db.read(lambda tx: volumes.get(tx, row["id"]))
        return {"os-volume_upload_image": view.uploading(row, image, name)}

    @staticmethod
    def _may_upload(row: Row, *, force: bool) -> None:
        allowed = ("available", "in-use") if force else ("available",)
        if row["status"] not in allowed:
            raise invalid_volume(
                f"Volume {row['id']} status must be {' or '.join(allowed)}, but current status is: {row['status']}."
            )

    @staticmethod
    def _new_image(row: Row, body: dict[str, Any], image_id: str, visibility: str) -> Image:
        kept: dict[str, str] = msgspec.json.decode(row["image"])
        own = {
            "image_id",
            "image_name",
            "disk_format",
            "container_format",
            "min_disk",
            "min_ram",
            "size",
            "checksum",
            "signature_verified",  # of the bytes that the volume had then
        }
        properties = {
            k: v for k, v in kept.items() if k not in own and not k.startswith("os_glance")
        }
        min_ram = kept.get("min_ram", "0")
        return Image(
            id=image_id,
            name=body["image_name"],
            status="queued",
            visibility=visibility,
            owner=row["project_id"],
            disk_format=body.get("disk_format", "raw"),
            container_format="bare",
            min_disk=row["size_gib"],
            min_ram=int(min_ram) if min_ram.isdigit() and len(min_ram) < 9 else 0,
            properties=properties,
            protected=truth(body.get("protected", False)),
        )

    def _accept_upload(self, tx: Tx, req: Request, body: dict[str, Any], image_id: str) -> str:
        row = self._at(tx, req, _P + "upload_image")
        self._may_upload(row, force=truth(body.get("force", False)))
        volumes.change(
            tx, row["id"], self.of.clock.now(), status="uploading", previous_status=row["status"]
        )
        params = VolumeParams(
            volume_id=row["id"],
            project_id=row["project_id"],
            image_id=image_id,
            disk_format=body.get("disk_format", "raw"),
        )
        asking.accept(tx, req.ctx, self.of, volume_upload.SAGA, params)
        return volumes.type_name(tx, row["type_id"])

    def reset(self, req: Request) -> None:
        """Write another status; the data are not touched."""
        body = req.body["os-reset_status"]
        if not any(body.get(k) for k in ("status", "attach_status", "migration_status")):
            raise BadRequest(
                "Must specify 'status', 'attach_status', or 'migration_status' for update."
            )

        def write(tx: Tx) -> None:
            row = self._at(tx, req, _A + "reset_status")
            now = self.of.clock.now()
            if body.get("migration_status"):
                asking.check_still(row)
                volumes.change(tx, row["id"], now, migration_status=body["migration_status"])
            if body.get("status"):
                volumes.change(tx, row["id"], now, status=body["status"])
            if body.get("attach_status") == "detached":
                for held in attachments.of_volume(tx, row["id"]):
                    if held["server_id"] and held["host"]:
                        raise invalid_volume(
                            f"Volume {row['id']} is attached to a server: detach it there."
                        )
                    attaching.end(tx, self.of.exports, held, now)

        self.of.db.write(write)

    def force_delete(self, req: Request) -> None:
        """Delete a volume whatever its status; not one that a server has."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, _A + "force_delete")
            self.volumes.check_delete(tx, row, force=True)
            self.of.delete_in(tx, req.ctx, row)

        self.of.db.write(write)

    def reimage(self, req: Request) -> None:
        """Write a volume anew from an image; a reserved one only if that is said."""
        body = req.body["os-reimage"]
        reserved = truth(body.get("reimage_reserved", False))
        row = self.of.db.read(lambda tx: self._at(tx, req, "volume:reimage"))
        if row["status"] == "reserved":
            req.authorize("volume:reimage_reserved", {"project_id": row["project_id"]})
        image = self.of.image_for(req.ctx, body["image_id"])

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "volume:reimage")
            if image is not None:
                reimaging.accept(tx, req.ctx, self.of, row, image, reserved=reserved)

        self.of.db.write(write)

    def revert(self, req: Request) -> None:
        """Make a volume what it was at its latest snapshot."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "volume:revert_to_snapshot")
            reverting.accept(tx, req.ctx, self.of, row, req.body["revert"]["snapshot_id"])

        self.of.db.write(write)
