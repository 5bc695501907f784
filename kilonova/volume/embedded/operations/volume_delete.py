"""Delete a volume: accepted at once, and it always ends. Forward only.

    remove   wait for what ran before; the host removes the file
    forget   the row is gone, its quota free

A host that is down gets a cleanup record instead of an answer: the volume is gone for the user, its room stays held.
"""

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q
from kilonova.objects.order import Answer, Order
from kilonova.objects.volume_orders import VolumeRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import order, park, service
from kilonova.volume.embedded.schema import transfer
from kilonova.volume.embedded.store import volumes

DEADLINE_S = 300.0
_DROP_TRANSFER = Q(sa.delete(transfer).where(transfer.c.volume_id == P("volume")))
NO_UNDO = NoUndo("a delete only goes forward")


def order_remove(run: Run) -> Order | None:
    """Have the host remove the data."""
    row = service(run).db.read(lambda tx: volumes.find(tx, run.resource))
    if row is None or not row["host"]:
        return None
    return order(
        run, row["host"], "volume_remove", VolumeRemove(volume_id=run.resource), DEADLINE_S
    )


def gone(run: Run, answer: Answer) -> Output:
    """The host has nothing of the volume any more."""
    return {}


def forget(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def drop(tx: Tx, run: Run, output: Output) -> None:
    """Remove the row in the transaction that ends the operation."""
    tx.run(_DROP_TRANSFER, volume=run.resource)
    volumes.drop(tx, run.resource)


SAGA = register(
    Saga(
        kind="volume_delete",
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
