"""Take a backup in by its record: its data are looked at, whole, before it can be used. Resource is the backup itself.

    look     what needs no host is looked at; a host is chosen for the rest
    check    that host reads the file and compares size and checksum
    finish   available

Unwound, the backup is in "error", says why, and nothing that its record named was touched.
"""

from collections.abc import Mapping

from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Order, unpack
from kilonova.objects.volume_orders import BackupCheck, BackupChecked
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded.operations.asking import order, service, tell_project
from kilonova.volume.embedded.operations.backup_chain import target_of
from kilonova.volume.embedded.operations.backup_delete import host_for, row_of_backup
from kilonova.volume.embedded.store import backups

DEADLINE_S = 3600.0


def look(run: Run) -> Output:
    """See whether the data are there, as far as no host is needed."""
    row = row_of_backup(run)
    target_of(run, row).verify(row)
    return {"host": host_for(run, row)}


def order_check(run: Run) -> Order:
    """Have a host read the file."""
    host, row = run.outputs["look"]["host"], row_of_backup(run)
    source = target_of(run, row).source(run, row, host)
    payload = BackupCheck(backup_id=row["id"], source=source)
    return order(run, host, "backup_check", payload, DEADLINE_S)


def checked(run: Run, answer: Answer) -> Output:
    """It is what its record says."""
    return {"size": unpack(answer.body, BackupChecked).size}


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_available(tx: Tx, run: Run, output: Output) -> None:
    """The backup can be restored."""
    now = service(run).clock.now()
    backups.change(tx, run.resource, now, only=("creating",), status="available")


def put_error(tx: Tx, run: Run) -> None:
    """The backup has no data that count, so that its delete removes none."""
    tell_project(tx, run, "VOLUME_BACKUP", run.resource)
    backups.change(
        tx,
        run.resource,
        service(run).clock.now(),
        status="error",
        location=None,
        fail_reason=run.error,
    )


def no_file(params: VolumeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether hosts have nothing of the backup."""
    return not outputs["look"].get("host")


SAGA = register(
    Saga(
        kind="backup_import",
        version=1,
        params=VolumeParams,
        steps=(
            Step("look", look, NoUndo("only looks"), 60.0),
            Ask(
                "check",
                order_check,
                checked,
                NoUndo("only reads"),
                DEADLINE_S,
                skip=no_file,
            ),
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
