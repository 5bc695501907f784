"""Accept snapshots: refusals, row, quota and journal in one transaction."""

from dataclasses import dataclass, field

import msgspec

from kilonova.common.context import Context
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.volume.embedded.faults import invalid_snapshot, invalid_volume
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import asking, snapshot_create, snapshot_delete
from kilonova.volume.embedded.store import quotas, snapshots, volumes

USED = ("in-use", "attaching", "detaching", "reserved", "maintenance")
DELETABLE = ("available", "error")


@dataclass(frozen=True)
class NewSnapshot:
    """What is asked for. force: also of a volume that is in use."""

    volume_id: str
    name: str = ""
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    force: bool = False
    user_id: str = ""
    key: tuple[str, str] = ("", "")
    id: str = field(default_factory=new_uuid)


def create_in(tx: Tx, ctx: Context, of: Ground, new: NewSnapshot) -> Row:
    """Accept a snapshot. BadRequest in Cinder's words, QuotaExceeded, NotFound."""
    if new.key[0] and (there := snapshots.of_key(tx, new.key, living=True)):
        return there[0]
    row = volumes.get(tx, new.volume_id)
    allowed = ("available", *(USED if new.force else ()))
    if row["status"] not in allowed:
        raise invalid_volume(
            f"Volume {row['id']} status must be {' or '.join(allowed)}, but current status is: {row['status']}."
        )
    kind = volumes.type_name(tx, row["type_id"])
    size = row["size_gib"]
    more = {"snapshots": 1, "gigabytes": size, f"snapshots_{kind}": 1, f"gigabytes_{kind}": size}
    quotas.check(tx, row["project_id"], more)
    now = of.clock.now()
    snapshots.add(
        tx,
        id=new.id,
        project_id=row["project_id"],
        user_id=new.user_id,
        name=new.name,
        description=new.description,
        status="creating",
        metadata=msgspec.json.encode(new.metadata).decode(),
        operation=new.key[0],
        item=new.key[1],
        created_at=now,
        updated_at=now,
        volume_id=row["id"],
        host=row["host"],
        size_gib=size,
    )
    params = VolumeParams(volume_id=row["id"], project_id=row["project_id"], snapshot_id=new.id)
    asking.accept(tx, ctx, of, snapshot_create.SAGA, params)
    return snapshots.get(tx, new.id)


def delete_in(tx: Tx, ctx: Context, of: Ground, row: Row) -> None:
    """Accept the delete of a snapshot, whatever runs for it. Repeatable."""
    now = of.clock.now()
    for live in journal.live_of(tx, row["volume_id"]):
        params = decode(live["params"], VolumeParams)
        if params.snapshot_id != row["id"]:
            continue
        if live["kind"] == snapshot_delete.SAGA.kind:
            return
        if live["kind"] == snapshot_create.SAGA.kind:
            journal.request_cancel(tx, live["id"], now=now, nudge=of.nudge)
    snapshots.change(tx, row["id"], now, status="deleting")
    params = VolumeParams(
        volume_id=row["volume_id"], project_id=row["project_id"], snapshot_id=row["id"]
    )
    asking.accept(tx, ctx, of, snapshot_delete.SAGA, params)


def check_delete(row: Row) -> None:
    """Raise BadRequest, in Cinder's words, unless a snapshot may be deleted by its API."""
    if row["status"] not in DELETABLE:
        raise invalid_snapshot(
            f"Snapshot status must be {' or '.join(DELETABLE)}, and snapshot must not be part of a group."
        )
