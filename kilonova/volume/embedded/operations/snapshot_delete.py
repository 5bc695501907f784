"""Delete a snapshot: accepted at once, and it always ends. Forward only; the volume is not touched.

    remove   the host removes the file
    forget   the row is gone, its quota free

A host that is down gets a cleanup record instead of an answer.
"""

from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Order
from kilonova.objects.volume_orders import SnapshotRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import order, park, service
from kilonova.volume.embedded.store import snapshots

DEADLINE_S = 300.0
NO_UNDO = NoUndo("a delete only goes forward")


def order_remove(run: Run) -> Order | None:
    """Have the host remove the data."""
    row = service(run).db.read(lambda tx: snapshots.find(tx, run.params.snapshot_id))
    if row is None:
        return None
    payload = SnapshotRemove(volume_id=run.resource, snapshot_id=row["id"])
    return order(run, row["host"], "snapshot_remove", payload, DEADLINE_S)


def gone(run: Run, answer: Answer) -> Output:
    """The host has nothing of the snapshot any more."""
    return {}


def forget(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def drop(tx: Tx, run: Run, output: Output) -> None:
    """Remove the row in the transaction that ends the operation."""
    snapshots.drop(tx, run.params.snapshot_id)


SAGA = register(
    Saga(
        kind="snapshot_delete",
        version=1,
        params=VolumeParams,
        steps=(
            Ask("remove", order_remove, gone, NO_UNDO, DEADLINE_S, park=park),
            Step("forget", forget, NO_UNDO, 10.0, record=drop),
        ),
        cancellable=False,
        forward_only=True,
    )
)
