"""Accept backups, their deletes and restores. Where the data are kept: targets.py."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.saga.definition import Saga
from kilonova.volume.embedded.faults import invalid_snapshot, invalid_volume
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import (
    asking,
    backup_chain,
    backup_create,
    backup_delete,
    volume_refill,
    volume_restore,
)
from kilonova.volume.embedded.store import backups, quotas, snapshots, types, volumes

DELETABLE = ("available", "error")


@dataclass(frozen=True)
class NewBackup:
    """What is asked for. force: also of a volume that is in use. snapshot_id: of the volume as it was then.

    incremental: what is not as in the newest backup of the volume.
    """

    volume_id: str
    name: str = ""
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    force: bool = False
    snapshot_id: str | None = None
    incremental: bool = False
    id: str = field(default_factory=new_uuid)


def create_in(tx: Tx, ctx: Context, of: Ground, new: NewBackup) -> Row:
    """Accept a backup. BadRequest in Cinder's words, QuotaExceeded, NotFound."""
    row = volumes.get(tx, new.volume_id)
    snapshot = _source(tx, row, new)
    size = row["size_gib"] if snapshot is None else snapshot["size_gib"]
    quotas.check(tx, row["project_id"], {"backups": 1, "backup_gigabytes": size})
    now = of.clock.now()
    at = now if snapshot is None else snapshot["created_at"]
    backups.add(
        tx,
        id=new.id,
        project_id=row["project_id"],
        user_id=ctx.user_id or "",
        name=new.name,
        description=new.description,
        status="creating",
        metadata=msgspec.json.encode(new.metadata).decode(),
        created_at=now,
        updated_at=now,
        volume_id=row["id"],
        container=of.target.name,
        volume=_kept_of(row, at),
        parent_id=_parent(tx, of, row, at) if new.incremental else None,
        size_gib=size,
        snapshot_id=new.snapshot_id,
    )
    busy = backup_create.BUSY
    if snapshot is None:
        volumes.change(tx, row["id"], now, status=busy, previous_status=row["status"])
    else:
        snapshots.change(tx, snapshot["id"], now, status=busy)
    params = VolumeParams(
        volume_id=row["id"],
        project_id=row["project_id"],
        backup_id=new.id,
        snapshot_id=new.snapshot_id,
    )
    asking.accept(tx, ctx, of, backup_create.SAGA, params)
    return backups.get(tx, new.id)


def _source(tx: Tx, row: Row, new: NewBackup) -> Row | None:
    """Return the snapshot that is backed up, None for the volume. BadRequest, NotFound."""
    if new.snapshot_id is not None:
        snapshot = snapshots.get(tx, new.snapshot_id)
        if snapshot["volume_id"] != row["id"]:
            raise invalid_snapshot(f"Snapshot {snapshot['id']} is not of volume {row['id']}.")
        if snapshot["status"] != "available":
            raise invalid_snapshot(
                f'Snapshot to be backed up must be available, but the current status is "{snapshot["status"]}".'
            )
        return snapshot
    if row["status"] == "in-use" and not new.force:
        raise invalid_volume("Backing up an in-use volume must use the force flag.")
    if row["status"] not in ("available", "in-use"):
        raise invalid_volume(
            f'Volume to be backed up must be available or in-use, but the current status is "{row["status"]}".'
        )
    return None


def _parent(tx: Tx, of: Ground, row: Row, at: float) -> str:
    """Return the newest backup of the volume from before a moment. BadRequest: none is, or its chain is too long."""
    there = [
        (msgspec.json.decode(b["volume"]).get("data_at", 0.0), b["created_at"], b["id"])
        for b in backups.of_volume(tx, row["id"])
        if b["status"] == "available"
        and b["project_id"] == row["project_id"]
        and b["container"] == of.target.name
    ]
    older = [t for t in there if t[0] <= at]
    if not older:
        raise BadRequest("Invalid backup: No backups available to do an incremental backup.")
    found = str(max(older)[2])
    if len(backup_chain.rows(tx, found)) >= backup_chain.MOST - 1:
        raise BadRequest(
            f"Invalid backup: {backup_chain.MOST} backups add to each other already: make a full one."
        )
    return found


def check_delete(tx: Tx, row: Row) -> None:
    """Raise BadRequest, in Cinder's words, while other backups add to one."""
    if backups.parents(tx, [row["id"]]):
        raise BadRequest("Invalid backup: Incremental backups exist for this backup.")


def _kept_of(row: Row, data_at: float) -> str:
    """Return what a restore gives back besides the data, and of when those are."""
    kept = {k: row[k] for k in ("metadata", "image", "bootable", "type_id", "description")}
    return msgspec.json.encode({**kept, "data_at": data_at}).decode()


def delete_in(tx: Tx, ctx: Context, of: Ground, row: Row) -> None:
    """Accept the delete of a backup. Repeatable. What is still done with the backup itself ends first."""
    for live in journal.live_of(tx, row["id"]):
        if live["kind"] == backup_delete.SAGA.kind:
            return
        journal.request_cancel(tx, live["id"], now=of.clock.now(), nudge=of.nudge)
    backups.change(tx, row["id"], of.clock.now(), status="deleting")
    params = VolumeParams(
        volume_id=row["volume_id"], project_id=row["project_id"], backup_id=row["id"]
    )
    accept_on(tx, ctx, of, backup_delete.SAGA, params)


def accept_on(tx: Tx, ctx: Context, of: Ground, saga: Saga, params: VolumeParams) -> None:
    """Journal an operation on a backup itself, after those that are live.

    Its epoch grows with time: hosts remember that of a backup of the same id that was here before.
    """
    backup_id, now = params.backup_id or "", of.clock.now()
    live = [int(row["epoch"]) for row in journal.live_of(tx, backup_id)]
    journal.accept(
        tx,
        id=new_uuid(),
        kind=saga.kind,
        version=saga.version,
        resource=backup_id,
        epoch=max([int(now * 1e6), *(e + 1 for e in live)]),
        project_id=params.project_id,
        context=ctx,
        params=params,
        now=now,
        nudge=of.nudge,
    )


def restore_in(tx: Tx, ctx: Context, of: Ground, row: Row, volume_id: str | None, name: str) -> Row:
    """Accept a restore into a volume, or into a new one. Returns the volume's row."""
    backup_chain.check_usable(tx, row)
    now = of.clock.now()
    if volume_id is None:
        volume = _new_volume(tx, ctx, of, row, name)
    else:
        volume = volumes.get(tx, volume_id)
        if volume["project_id"] != row["project_id"] and not ctx.is_admin:
            raise NotFound(f"Volume {volume_id} could not be found.")
        if volume["status"] not in ("available", "error_restoring"):
            raise invalid_volume("Volume to be restored to must be available")
        if volume["size_gib"] < row["size_gib"]:
            raise invalid_volume(
                f"volume size {volume['size_gib']} is too small to restore backup of size {row['size_gib']}."
            )
        before, back = volume["status"], dict[str, Any]()
        if not volume["path"]:
            kept = msgspec.json.decode(row["volume"])
            back = {k: kept[k] for k in ("image", "bootable") if k in kept}
        volumes.change(
            tx, volume["id"], now, status="restoring-backup", previous_status=before, **back
        )
    backups.change(tx, row["id"], now, status="restoring")
    params = VolumeParams(
        volume_id=volume["id"],
        project_id=volume["project_id"],
        backup_id=row["id"],
        previous=volume["status"],
    )
    saga = volume_restore.SAGA if volume["path"] else volume_refill.SAGA
    asking.accept(tx, ctx, of, saga, params)
    return volumes.get(tx, volume["id"])


def _new_volume(tx: Tx, ctx: Context, of: Ground, row: Row, name: str) -> Row:
    kept = msgspec.json.decode(row["volume"])
    kind = types.find(tx, kept.get("type_id") or "") or types.default_for(tx, row["project_id"])
    size, now = row["size_gib"], of.clock.now()
    quotas.check(
        tx,
        row["project_id"],
        {
            "volumes": 1,
            "gigabytes": size,
            f"volumes_{kind['name']}": 1,
            f"gigabytes_{kind['name']}": size,
            "per_volume_gigabytes": size,
        },
    )
    made = new_uuid()
    volumes.add(
        tx,
        id=made,
        project_id=row["project_id"],
        user_id=ctx.user_id or "",
        name=name or f"restore_backup_{row['id']}",
        description=kept.get("description"),
        metadata=kept.get("metadata", "{}"),
        image=kept.get("image", "{}"),
        bootable=kept.get("bootable", 0),
        status="restoring-backup",
        size_gib=size,
        type_id=kind["id"],
        backup_id=row["id"],
        created_at=now,
        updated_at=now,
    )
    return volumes.get(tx, made)
