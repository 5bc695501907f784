"""Keep a volume as it is at one moment, also while a guest writes it.

    make     the host makes a file of its own, complete by itself
    finish   available

Unwound, the snapshot is in "error", with nothing on the host.
"""

from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume_orders import SnapshotMake, SnapshotRemove, VolumeMade
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import (
    order,
    park,
    service,
    snapshot_of,
    tell_project,
    writer_of,
)
from kilonova.volume.embedded.store import snapshots

DEADLINE_S = 3600.0


def order_make(run: Run) -> Order:
    """Have the volume's host make the snapshot."""
    row = snapshot_of(run)
    payload = SnapshotMake(
        volume_id=run.resource,
        snapshot_id=row["id"],
        attached_to=writer_of(run, run.resource),
    )
    return order(run, row["host"], "snapshot_make", payload, DEADLINE_S)


def made(run: Run, answer: Answer) -> Output:
    """The file is there."""
    return {"path": unpack(answer.body, VolumeMade).path}


def order_unmake(run: Run) -> Order:
    """Have the host remove what it made, also in part."""
    row = snapshot_of(run)
    payload = SnapshotRemove(volume_id=run.resource, snapshot_id=row["id"])
    return order(run, row["host"], "snapshot_make", payload, 60.0, Direction.UNDO)


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_available(tx: Tx, run: Run, output: Output) -> None:
    """The snapshot can be used."""
    now = service(run).clock.now()
    snapshots.change(tx, run.params.snapshot_id, now, only=("creating",), status="available")


def put_error(tx: Tx, run: Run) -> None:
    """The snapshot did not happen; a message says why."""
    tell_project(tx, run, "VOLUME_SNAPSHOT", run.params.snapshot_id)
    now = service(run).clock.now()
    snapshots.change(
        tx, run.params.snapshot_id, now, only=("creating", "available"), status="error"
    )


SAGA = register(
    Saga(
        kind="snapshot_create",
        version=1,
        params=VolumeParams,
        steps=(
            Ask("make", order_make, made, order_unmake, DEADLINE_S, park=park, queue="volume"),
            Step(
                "finish",
                finish,
                NoUndo("its record is undone by the last act"),
                10.0,
                record=put_available,
            ),
        ),
        unwound_record=put_error,
    )
)
