"""Check a new volume: everything that can be refused is refused before row, quota and journal are one commit."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.image import Image
from kilonova.volume.embedded.faults import invalid_input, invalid_volume
from kilonova.volume.embedded.neighbours import Images
from kilonova.volume.embedded.operations import asking, backup_chain
from kilonova.volume.embedded.placing import ZONE
from kilonova.volume.embedded.store import backups, quotas, snapshots, types, volumes

GIB = 1 << 30
_FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "iso")
_BASE = {"min_disk", "min_ram", "disk_format", "container_format", "size", "checksum"}


@dataclass(frozen=True)
class NewVolume:
    """What is asked for. size_gib None: the source's. The project's own are found by its context."""

    project_id: str
    user_id: str
    size_gib: int | None = None
    name: str = ""
    description: str | None = None
    image_id: str | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    backup_id: str | None = None
    volume_type: str | None = None
    zone: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    multiattach: bool = False
    key: tuple[str, str] = ("", "")
    id: str = field(default_factory=new_uuid)


@dataclass(frozen=True)
class Plan:
    """What ``check`` found out: the row's values, and what quota must have room for."""

    values: dict[str, Any]
    quota: dict[str, int]


def image_of(ctx: Context, images: Images, image_id: str | None) -> Image | None:
    """Return the image that a volume is made from; BadRequest unless it can be used."""
    if image_id is None:
        return None
    try:
        image = images.get(ctx, image_id)
    except NotFound as exc:
        raise invalid_input(
            f"Invalid image identifier or unable to access requested image: {image_id:.64}"
        ) from exc
    if image.status != "active":
        raise invalid_input(f"Image {image.id} is not active.")
    if image.disk_format not in _FORMATS or (image.container_format or "bare") not in (
        "bare",
        "ovf",
    ):
        raise invalid_input(
            f"Image {image.id} has format {image.disk_format}/{image.container_format}, "
            "of which no volume can be made."
        )
    return image


def check(tx: Tx, new: NewVolume, image: Image | None) -> Plan:
    """Decide what the row will be. BadRequest that names the field, QuotaExceeded, NotFound of a source."""
    if new.zone not in (None, "", ZONE):
        raise invalid_input(f"Availability zone '{str(new.zone)[:255]}' is invalid.")
    source = _source(tx, new)
    kind = _type(tx, new, source)
    specs = types.specs_of(kind)
    backup = _backup(tx, new)
    size = _size(new, source or backup, image)
    values = {
        "id": new.id,
        "project_id": new.project_id,
        "user_id": new.user_id,
        "name": new.name,
        "description": new.description,
        "status": "creating",
        "metadata": _json(new.metadata),
        "operation": new.key[0],
        "item": new.key[1],
        "size_gib": size,
        "type_id": kind["id"],
        "zone": ZONE,
        "host": source["host"] if source is not None else "",
        "multiattach": int(new.multiattach or types.is_true(specs, "multiattach")),
        "image_id": new.image_id,
        "snapshot_id": new.snapshot_id,
        "source_volid": new.source_volid,
        "backup_id": new.backup_id,
    }
    if image is not None:
        values |= {"image": _json(image_metadata(image)), "bootable": 1}
    elif backup is not None:
        kept = msgspec.json.decode(backup["volume"])
        values |= {k: kept[k] for k in ("image", "bootable") if k in kept}
    elif source is not None:
        origin = volumes.find(tx, new.source_volid or source["volume_id"])
        if origin is not None:
            values |= {"image": origin["image"], "bootable": origin["bootable"]}
    more = {
        "volumes": 1,
        "gigabytes": size,
        f"volumes_{kind['name']}": 1,
        f"gigabytes_{kind['name']}": size,
        "per_volume_gigabytes": size,
    }
    quotas.check(tx, new.project_id, more)
    return Plan(values, more)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def image_metadata(image: Image) -> dict[str, str]:
    """Return what a volume keeps of its image: volume_image_metadata."""
    found = {
        "image_id": image.id,
        "image_name": image.name or "",
        "disk_format": image.disk_format or "",
        "container_format": image.container_format or "",
        "min_disk": str(image.min_disk),
        "min_ram": str(image.min_ram),
        "size": str(image.size or 0),
    }
    if image.checksum:
        found["checksum"] = image.checksum
    return {**{k: v for k, v in image.properties.items() if k not in _BASE}, **found}


def _source(tx: Tx, new: NewVolume) -> Row | None:
    if new.snapshot_id is not None:
        row = snapshots.find(tx, new.snapshot_id)
        if row is None or row["project_id"] != new.project_id:
            raise NotFound(f"Snapshot {new.snapshot_id} could not be found.")
        if row["status"] != "available":
            raise BadRequest(
                f"Invalid snapshot: Originating snapshot status must be one of 'available' values, "
                f"not '{row['status']}'"
            )
        return row
    if new.source_volid is not None:
        row = volumes.find(tx, new.source_volid)
        if row is None or row["project_id"] != new.project_id:
            raise NotFound(f"Volume {new.source_volid} could not be found.")
        asking.check_still(row)
        if row["status"] not in ("available", "in-use"):
            raise invalid_volume(
                f"Volume {row['id']} is {row['status']}: only one that is available or in-use can be copied."
            )
        return row
    return None


def _backup(tx: Tx, new: NewVolume) -> Row | None:
    """Return the backup that a volume is made of. BadRequest unless it can be, NotFound."""
    if new.backup_id is None:
        return None
    row = backups.find(tx, new.backup_id)
    if row is None or row["project_id"] != new.project_id:
        raise NotFound(f"Backup {new.backup_id} could not be found.")
    backup_chain.check_usable(tx, row)
    return row


def _type(tx: Tx, new: NewVolume, source: Row | None) -> Row:
    if new.volume_type:
        row = types.find(tx, new.volume_type)
        if row is None or not types.usable(tx, row, new.project_id):
            raise NotFound(f"Volume type {str(new.volume_type)[:255]} could not be found.")
        return row
    if source is not None:
        origin = volumes.find(tx, new.source_volid or source["volume_id"])
        if origin is not None and origin["type_id"]:
            return types.get(tx, origin["type_id"])
    return types.default_for(tx, new.project_id)


def _size(new: NewVolume, source: Row | None, image: Image | None) -> int:
    least = 0 if source is None else int(source["size_gib"])
    size = new.size_gib if new.size_gib is not None else least
    if size <= 0:
        raise invalid_input("Volume size must be an integer and greater than 0.")
    if source is not None and size < least:
        noun = "snapshot" if new.snapshot_id is not None else "source volume"
        noun = "backup" if new.backup_id is not None else noun
        raise invalid_input(
            f"Volume size '{size}'GB cannot be smaller than the {noun} size {least}GB. "
            f"They must be >= original {noun} size."
        )
    if image is not None:
        check_fits(image, size)
    return size


def check_fits(image: Image, size_gib: int) -> None:
    """Raise BadRequest, in Cinder's words, when a volume is too small for an image."""
    needed = -(-max(image.size or 0, image.virtual_size or 0) // GIB)
    if needed > size_gib:
        raise invalid_input(
            f"Size of specified image {needed}GB is larger than volume size {size_gib}GB."
        )
    if image.min_disk > size_gib:
        raise invalid_input(
            f"Volume size {size_gib}GB cannot be smaller than the image minDisk size {image.min_disk}GB."
        )
