"""Records of backups as they leave a cloud and come into another: data and record make a restore.

The wire form is Cinder's, ``backup_service`` and ``backup_url``: the second is base64 of a JSON object with Cinder's
field names. What comes in is a stranger's: every field is checked, none is unknown, a backup's data lie under its own
id and nowhere else, and the backup belongs to the project that brings it in, whatever its record says.
source: Cinder, backups API, export_record and import_record.
"""

import base64
import binascii
from typing import Annotated

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.volume.embedded import backing
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import backup_chain, backup_import
from kilonova.volume.embedded.store import backups, quotas

SERVICE = "kilonova.backup."
MOST_BYTES = 256 << 10
"""Of a backup_url."""
Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=255)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=4102444800)]
_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Value = Annotated[str, msgspec.Meta(max_length=1024)]
Pairs = Annotated[dict[_Key, _Value], msgspec.Meta(max_length=256)]


class KeptVolume(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What a restore gives back besides the data. data_at: of when those are."""

    metadata: Pairs
    image: Pairs
    bootable: bool
    description: Text | None = None
    data_at: Moment


class DriverInfo(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What must come out of the data. volume: what it was."""

    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    sha512: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
    volume: KeptVolume


class Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One backup. service_metadata: where its target finds it. project_id, user_id: whose it was, for people."""

    id: Uuid
    project_id: Text
    user_id: Text
    volume_id: Uuid
    snapshot_id: Uuid | None
    parent_id: Uuid | None
    display_name: Text
    display_description: Text | None
    status: Text
    size: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    object_count: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    container: Text
    service_metadata: Text
    availability_zone: Text
    created_at: Moment
    backup_metadata: Pairs
    driver_info: DriverInfo


def export(of: Ground, row: Row) -> dict[str, str]:
    """Return a backup's record in its wire form. BadRequest unless it is available and its data are there."""
    if row["status"] != "available":
        raise BadRequest(
            f"Invalid backup: Backup status must be available and not {row['status']}."
        )
    target = of.targets.get(row["container"])
    data = None if target is None else target.facts(row)
    if data is None:
        raise BadRequest("Invalid backup: its data are not where they were.")
    kept = msgspec.json.decode(row["volume"])
    record = Record(
        id=row["id"],
        project_id=row["project_id"],
        user_id=row["user_id"],
        volume_id=row["volume_id"],
        snapshot_id=row["snapshot_id"],
        parent_id=row["parent_id"],
        display_name=row["name"],
        display_description=row["description"],
        status=row["status"],
        size=row["size_gib"],
        object_count=1,
        container=row["container"],
        service_metadata=row["location"],
        availability_zone=row["zone"],
        created_at=row["created_at"],
        backup_metadata=msgspec.json.decode(row["metadata"]),
        driver_info=DriverInfo(
            size_bytes=data.size,
            sha512=data.sha512,
            volume=KeptVolume(
                metadata=msgspec.json.decode(kept.get("metadata", "{}")),
                image=msgspec.json.decode(kept.get("image", "{}")),
                bootable=bool(kept.get("bootable", 0)),
                description=kept.get("description"),
                data_at=kept.get("data_at", row["created_at"]),
            ),
        ),
    )
    url = base64.b64encode(msgspec.json.encode(record)).decode()
    return {"backup_service": SERVICE + record.container, "backup_url": url}


def read(service: str, url: str) -> Record:
    """Read a wire form; nothing is believed yet. BadRequest that says what is wrong."""
    try:
        text = base64.b64decode(url, validate=True)
        record = msgspec.json.decode(text, type=Record)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(
            f"Invalid backup: backup_url is not the record of one: {str(exc)[:200]}"
        ) from exc
    if service != SERVICE + record.container:
        raise BadRequest("Invalid backup: backup_service is not that of its record.")
    return record


def accept(tx: Tx, ctx: Context, of: Ground, record: Record) -> Row:
    """Accept an import; the data are looked at by its operation. BadRequest in Cinder's words, QuotaExceeded."""
    target = of.targets.get(record.container)
    if target is None or not target.is_place(record.id, record.service_metadata):
        raise BadRequest("Invalid backup: its record names a place where no backup of its id lies.")
    if backups.find(tx, record.id) is not None:
        raise BadRequest("Invalid backup: Backup already exists in database.")
    project = ctx.project_id
    if not project:
        raise BadRequest("Invalid backup: a backup belongs to a project: use a token of one.")
    if record.parent_id is not None:
        _check_parent(tx, record, project)
    quotas.check(tx, project, {"backups": 1, "backup_gigabytes": record.size})
    info, now = record.driver_info, of.clock.now()
    kept = {
        "metadata": _json(info.volume.metadata),
        "image": _json(info.volume.image),
        "bootable": int(info.volume.bootable),
        "description": info.volume.description,
        "data_at": info.volume.data_at,
    }
    backups.add(
        tx,
        id=record.id,
        project_id=project,
        user_id=ctx.user_id or "",
        name=record.display_name,
        description=record.display_description,
        status="creating",
        metadata=_json(record.backup_metadata),
        created_at=record.created_at,
        updated_at=now,
        volume_id=record.volume_id,
        snapshot_id=record.snapshot_id,
        container=record.container,
        location=record.service_metadata,
        volume=_json(kept),
        parent_id=record.parent_id,
        size_gib=record.size,
        size_bytes=info.size_bytes,
        hash_value=info.sha512,
    )
    params = VolumeParams(volume_id=record.volume_id, project_id=project, backup_id=record.id)
    backing.accept_on(tx, ctx, of, backup_import.SAGA, params)
    return backups.get(tx, record.id)


def _check_parent(tx: Tx, record: Record, project: str) -> None:
    """Raise BadRequest unless what an incremental backup adds to is here, and the project's."""
    parent = backups.find(tx, record.parent_id or "")
    same = ("container", record.container), ("project_id", project), ("volume_id", record.volume_id)
    if parent is None or any(parent[k] != value for k, value in same):
        raise BadRequest(f"Invalid backup: import what it adds to first: {record.parent_id}.")
    backup_chain.check_usable(tx, parent)
    if len(backup_chain.rows(tx, parent["id"])) >= backup_chain.MOST:
        raise BadRequest(f"Invalid backup: at most {backup_chain.MOST} add to each other.")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
