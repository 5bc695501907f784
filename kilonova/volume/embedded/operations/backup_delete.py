"""Delete a backup: accepted at once, and it always ends. Forward only; resource is the backup itself.

remove   its target removes what needs no host; a host is chosen for the rest
erase    that host removes its file from the folder; once the folder is there again, if it is not
forget   the row is gone, its quota free
"""

from collections.abc import Mapping

from kilonova.db.engine import Row, Tx
from kilonova.objects.order import Answer, Order
from kilonova.objects.volume_orders import BackupRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NotYet, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import order, park, service
from kilonova.volume.embedded.operations.backup_chain import target_of
from kilonova.volume.embedded.store import backups

NO_UNDO = NoUndo("a delete only goes forward")


def row_of_backup(run: Run) -> Row:
    """Return the row of the backup that an operation is about. NotFound."""
    return service(run).db.read(lambda tx: backups.get(tx, run.resource))


def remove(run: Run) -> Output:
    """Remove what the target has of it."""
    row = row_of_backup(run)
    target_of(run, row).remove(run.resource)
    return {"host": host_for(run, row)}


def host_for(run: Run, row: Row) -> str:
    """Return the host that does something about a backup's file, "" when hosts have nothing of it. NotYet."""
    return "" if target_of(run, row).on_hosts(row) is None else a_host(run, row)


def a_host(run: Run, row: Row) -> str:
    """Return the host that does something about a backup's file: who wrote it, if that is up. NotYet: there is none."""
    rooms = service(run).rooms()
    up = sorted(r.host for r in rooms if r.up)
    wrote = str(row["host"])
    if wrote in up or (not up and wrote):
        return wrote
    if not rooms:
        raise NotYet("No host is known.")
    return up[0] if up else sorted(r.host for r in rooms)[0]


def no_file(params: VolumeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether hosts have nothing of the backup."""
    return not outputs["remove"].get("host")


def order_erase(run: Run) -> Order:
    """Have a host remove the file."""
    host, row = run.outputs["remove"]["host"], row_of_backup(run)
    payload = BackupRemove(backup_id=row["id"], url=target_of(run, row).on_hosts(row) or "")
    return order(run, host, "backup_remove", payload, 300.0)


def erased(run: Run, answer: Answer) -> Output:
    """The file is gone."""
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
            Ask("erase", order_erase, erased, NO_UNDO, 300.0, park=park, skip=no_file),
            Step("forget", forget, NO_UNDO, 10.0, record=drop),
        ),
        cancellable=False,
        forward_only=True,
    )
)
