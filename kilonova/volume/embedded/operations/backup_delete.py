"""Delete a backup: accepted at once, and it always ends. Forward only; resource is the backup itself.

remove   its target removes it
forget   the row is gone, its quota free
"""

from kilonova.db.engine import Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import service
from kilonova.volume.embedded.store import backups

NO_UNDO = NoUndo("a delete only goes forward")


def remove(run: Run) -> Output:
    """Remove what the target has of it."""
    service(run).target.remove(run.resource)
    return {}


def forget(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def drop(tx: Tx, run: Run, output: Output) -> None:
    """Remove the row in the transaction that ends the operation."""
    backups.drop(tx, run.resource)


SAGA = register(
    Saga(
        kind="backup_delete",
        version=1,
        params=VolumeParams,
        steps=(
            Step("remove", remove, NO_UNDO, 60.0),
            Step("forget", forget, NO_UNDO, 10.0, record=drop),
        ),
        cancellable=False,
        forward_only=True,
    )
)
