"""What all operations on volumes share: how they are accepted, their orders, and what is kept for a host that is down.

Each has an epoch of its own: the engine takes a volume's operations in turn, and a host drops what has a lower one.
"""

from typing import cast

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q
from kilonova.objects.base import Versioned
from kilonova.objects.order import Direction, Order, pack
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.saga.definition import Run, Saga
from kilonova.volume.embedded import attaching, cleanups
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.schema import volume
from kilonova.volume.embedded.store import attachments, messages, snapshots, volumes

_NEXT_EPOCH = Q(
    sa.update(volume).where(volume.c.id == P("the_id")).values(epoch=volume.c.epoch + 1)
)


def service(run: Run) -> Ground:
    """Return the volume service of this process."""
    return cast(Ground, run.services.volumes)


def accept(
    tx: Tx,
    ctx: Context,
    of: Ground,
    saga: Saga,
    params: VolumeParams,
    *,
    first: bool = False,
    operation: str | None = None,
) -> str:
    """Journal an operation on a volume, with the next epoch; the commit of ``tx`` is the acceptance. Return its id.

    operation: the id, where it was minted before.
    """
    operation = operation or new_uuid()
    if not first:
        check_still(volumes.get(tx, params.volume_id), saga)
        tx.run(_NEXT_EPOCH, the_id=params.volume_id)
    row = volumes.get(tx, params.volume_id)
    journal.accept(
        tx,
        id=operation,
        kind=saga.kind,
        version=saga.version,
        resource=params.volume_id,
        epoch=row["epoch"],
        project_id=params.project_id,
        context=ctx,
        params=params,
        now=of.clock.now(),
        nudge=of.nudge,
    )
    return operation


def check_still(row: Row, saga: Saga | None = None) -> None:
    """Raise BadRequest while a volume migrates: nothing but its delete is accepted. saga: what is asked for."""
    deletes = saga is not None and saga.kind == "volume_delete"
    if row["migration_status"] in attaching.MIGRATES and not deletes:
        raise invalid_volume(f"Volume {row['id']} is migrating: try again when it has.")


def row_of(run: Run) -> Row:
    """Return the volume's row; NotFound when it is gone."""
    return service(run).db.read(lambda tx: volumes.get(tx, run.resource))


def order(
    run: Run,
    host: str,
    verb: str,
    payload: Versioned,
    deadline_s: float,
    direction: Direction = Direction.DO,
) -> Order:
    """Return an order of this step; the same step gives the same order."""
    return Order(
        host=host,
        verb=verb,
        server_id=run.resource,
        epoch=run.epoch,
        operation=run.operation,
        step=run.step,
        direction=direction,
        fence=run.fence,
        seq=run.seq,
        answer_to=run.home,
        deadline_s=deadline_s,
        body=pack(payload),
    )


def snapshot_of(run: Run) -> Row:
    """Return the snapshot's row; NotFound when it is gone."""
    return service(run).db.read(lambda tx: snapshots.get(tx, run.params.snapshot_id))


def park(tx: Tx, run: Run, order: Order) -> None:
    """Keep an order for a host that is down, for ``Ask.park``.

    What a delete removes stays counted in the host's pool; what is left in "error" is counted by its own row.
    """
    size = 0
    if run.kind == "volume_delete":
        size = int(volumes.get(tx, run.resource)["size_gib"])
    elif run.kind == "snapshot_delete":
        size = int(snapshots.get(tx, run.params.snapshot_id)["size_gib"])
    cleanups.put(tx, order, size, service(run).clock.now())


def tell_project(tx: Tx, run: Run, kind: str, about: str) -> None:
    """Tell the project why an operation was unwound; kind: VOLUME, VOLUME_SNAPSHOT, VOLUME_BACKUP."""
    if run.error:
        now = service(run).clock.now()
        request = run.context.request_id
        messages.add(tx, run.params.project_id, request, (kind, about), run.error, now)


def writer_of(run: Run, volume_id: str) -> str | None:
    """Return the guest of the volume's own host that may write it now."""

    def read(tx: Tx) -> str | None:
        row = volumes.get(tx, volume_id)
        for a in attachments.of_volume(tx, volume_id):
            if a["server_id"] and a["host"] == row["host"]:
                return str(a["server_id"])
        return None

    return service(run).db.read(read)
