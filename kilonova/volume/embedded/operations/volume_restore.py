"""Restore a backup into a volume that has data: its host makes the new ones beside the old.

    fill     its host makes the backup's data, every part checked, and puts the old ones aside
    record   the new data hold: from here on only forward
    forget   the host removes the old data

Unwound, the volume has the data and the status from before; it is in "error" when its host still owes that.
"""

import msgspec

from kilonova.db.engine import Tx
from kilonova.objects.order import Order
from kilonova.objects.volume_orders import VolumeMake
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Output, Run, Saga, register
from kilonova.volume.embedded import attaching, cleanups
from kilonova.volume.embedded.operations import backup_chain
from kilonova.volume.embedded.operations.asking import order, row_of, service, tell_project
from kilonova.volume.embedded.operations.volume_reimage import DEADLINE_S, anew
from kilonova.volume.embedded.store import backups, volumes

BUSY = "restoring-backup"


def order_fill(run: Run) -> Order:
    """Have the host write the new data."""
    row = row_of(run)
    chain = backup_chain.sources(run, run.params.backup_id, row["host"])
    payload = VolumeMake(
        volume_id=run.resource, size_gib=row["size_gib"], image=chain[0], layers=chain[1:]
    )
    return order(run, row["host"], "volume_reimage", payload, DEADLINE_S)


def put_rest(tx: Tx, run: Run, output: Output) -> None:
    """The volume is what the backup's was."""
    now, data = service(run).clock.now(), run.outputs["fill"]
    backup = backups.find(tx, run.params.backup_id)
    kept = {} if backup is None else msgspec.json.decode(backup["volume"])
    back = {k: kept[k] for k in ("image", "bootable") if k in kept}
    attaching.rest(tx, run.resource, now, BUSY, path=data["path"], format=data["format"], **back)
    _rest_backup(tx, run, now)


def _rest_backup(tx: Tx, run: Run, now: float) -> None:
    backups.change(tx, run.params.backup_id, now, only=("restoring",), status="available")


def put_back(tx: Tx, run: Run) -> None:
    """The volume is what it was, unless its host has still to make it so; a message says why."""
    tell_project(tx, run, "VOLUME", run.resource)
    now = service(run).clock.now()
    if cleanups.of_operation(tx, run.operation):
        volumes.change(tx, run.resource, now, only=(BUSY,), status="error")
    if run.params.previous not in ("", "available"):
        volumes.change(tx, run.resource, now, only=(BUSY,), status=run.params.previous)
    attaching.rest(tx, run.resource, now, BUSY)
    _rest_backup(tx, run, now)


SAGA = register(
    Saga(
        kind="volume_restore",
        version=1,
        params=VolumeParams,
        steps=anew(order_fill, put_rest),
        unwound_record=put_back,
    )
)
