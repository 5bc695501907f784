"""What Cinder's answers mean to compute: rows of its API as our records, its refusals as our errors."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.common.clock import parse_iso
from kilonova.common.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    KilonovaError,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from kilonova.objects.volume import (
    Connection,
    FileConnection,
    NbdConnection,
    Volume,
    VolumeAttachment,
    VolumeClaim,
    VolumeSnapshot,
)

Json = dict[str, Any]
_ERRORS: dict[int, type[KilonovaError]] = {
    400: BadRequest,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: QuotaExceeded,
}
_KINDS: dict[str, type[FileConnection] | type[NbdConnection]] = {
    "kilonova-file": FileConnection,
    "kilonova-nbd": NbdConnection,
}


def path_id(text: str) -> str:
    """Return an id as a part of a path; NotFound for what cannot be one."""
    if not text or not all(c.isalnum() or c == "-" for c in text):
        raise NotFound(f"{text[:64]!r} could not be found.")
    return text


def error_of(status: int, text: str) -> KilonovaError:
    """Return a refusal as one of our errors, in Cinder's words."""
    try:
        inner = next(iter(json.loads(text).values()))
        message = str(inner["message"])
    except (ValueError, KeyError, TypeError, StopIteration, AttributeError):
        message = "The block storage service does not answer as it should."
    return _ERRORS.get(status, Unavailable)(message, status=status)


def claim_of(operation: str, item: str, kind: str, one: str, at: float) -> VolumeClaim:
    """Return one thing that stands for a key."""
    return VolumeClaim(operation=operation, item=item, kind=kind, id=one, made_at=at)


def connection_of(info: Json) -> Connection | None:
    """Read connection_info; None while there is none. BadRequest for a driver that no host of ours can use."""
    if not info:
        return None
    kind = info.get("driver_volume_type")
    data = info.get("data", {k: v for k, v in info.items() if k != "driver_volume_type"})
    cls = _KINDS.get(str(kind))
    if cls is None:
        raise BadRequest(
            f"This cloud's hosts cannot reach volumes of driver type {str(kind)[:64]!r}."
        )
    return msgspec.convert({"type": str(kind).removeprefix("kilonova-"), **data}, cls)


def volume_of(row: Json, held: Sequence[VolumeAttachment]) -> Volume:
    """Return a row of GET /volumes."""
    marks = {k: v for k, v in row["metadata"].items() if not k.startswith("kilonova:")}
    readonly = marks.pop("readonly", "False").lower() == "true"
    return Volume(
        id=row["id"],
        project_id=row.get("os-vol-tenant-attr:tenant_id", ""),
        user_id=row.get("user_id") or "",
        name=row.get("name") or "",
        size_gib=row["size"],
        status=row["status"],
        volume_type=row.get("volume_type") or "",
        availability_zone=row.get("availability_zone") or "nova",
        host=(row.get("os-vol-host-attr:host") or "").partition("@")[0],
        bootable=str(row.get("bootable")).lower() == "true",
        multiattach=bool(row.get("multiattach")),
        encrypted=bool(row.get("encrypted")),
        readonly=readonly,
        image=row.get("volume_image_metadata") or {},
        metadata=marks,
        snapshot_id=row.get("snapshot_id"),
        source_volid=row.get("source_volid"),
        attachments=tuple(held),
        created_at=parse_iso(row["created_at"]),
        migration_status=row.get("migration_status") or "",
    )


def snapshot_of(row: Json) -> VolumeSnapshot:
    """Return a row of GET /snapshots."""
    return VolumeSnapshot(
        id=row["id"],
        volume_id=row["volume_id"],
        project_id=row.get("os-extended-snapshot-attributes:project_id", ""),
        name=row.get("name") or "",
        size_gib=row["size"],
        status=row["status"],
        metadata={k: v for k, v in row["metadata"].items() if not k.startswith("kilonova:")},
        created_at=parse_iso(row["created_at"]),
    )
