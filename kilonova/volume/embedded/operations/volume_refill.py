"""Give a volume other data: of one of its snapshots (revert), or of a backup (restore); also into a new volume.

    place    a new volume gets a host, as one that is made; what was there before counts as lost from here on
    clear    the host removes the old file
    fill     the host makes the file anew from the snapshot or the backup's image
    finish   the volume rests again

Unwound, the volume is in "error" ("error_restoring" of a restore) without data: it can be deleted, or restored again.
"""

from kilonova.db.engine import Tx
from kilonova.objects.guest import ImageSource
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume_orders import VolumeMade, VolumeMake, VolumeRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded import attaching
from kilonova.volume.embedded.operations import backup_chain
from kilonova.volume.embedded.operations.asking import order, park, row_of, service
from kilonova.volume.embedded.operations.volume_create import let_go, place, take
from kilonova.volume.embedded.store import backups, volumes

DEADLINE_S = 3600.0
BUSY = ("reverting", "restoring-backup")


def order_clear(run: Run) -> Order:
    """Have the host remove the old data."""
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, row_of(run)["host"], "volume_remove", payload, 300.0)


def cleared(run: Run, answer: Answer) -> Output:
    """The old data are gone."""
    return {}


def order_fill(run: Run) -> Order:
    """Have the host make the data anew."""
    row, chain = row_of(run), tuple[ImageSource, ...]()
    if run.params.backup_id is not None:
        chain = backup_chain.sources(run, run.params.backup_id, row["host"])
    payload = VolumeMake(
        volume_id=run.resource,
        size_gib=row["size_gib"],
        image=chain[0] if chain else None,
        layers=chain[1:],
        snapshot_id=run.params.snapshot_id,
    )
    return order(run, row["host"], "volume_make", payload, DEADLINE_S)


def filled(run: Run, answer: Answer) -> Output:
    """The new data are there."""
    found = unpack(answer.body, VolumeMade)
    return {"path": found.path, "format": found.format}


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_rest(tx: Tx, run: Run, output: Output) -> None:
    """The volume can be used again."""
    data, now = run.outputs["fill"], service(run).clock.now()
    volumes.change(tx, run.resource, now, path=data["path"], format=data["format"])
    _rest(tx, run)


def _rest(tx: Tx, run: Run) -> None:
    now = service(run).clock.now()
    for busy in BUSY:
        attaching.rest(tx, run.resource, now, busy)
    if run.params.backup_id is not None:
        backups.change(tx, run.params.backup_id, now, only=("restoring",), status="available")


def put_back(tx: Tx, run: Run) -> None:
    """The volume has no data, or those that it had when nothing was begun yet."""
    now = service(run).clock.now()
    if not volumes.get(tx, run.resource)["path"]:
        status = "error" if run.params.backup_id is None else "error_restoring"
        volumes.change(tx, run.resource, now, only=(*BUSY, "available", "in-use"), status=status)
    _rest(tx, run)


def lose(tx: Tx, run: Run, output: Output) -> None:
    """The volume has its host, and no data that count."""
    take(tx, run, output)
    volumes.change(tx, run.resource, service(run).clock.now(), path="")


def let_go_lost(tx: Tx, run: Run) -> None:
    """A volume whose data are lost is nowhere; fine when nothing was begun yet."""
    if not volumes.get(tx, run.resource)["path"]:
        let_go(tx, run)


def order_unfill(run: Run) -> Order | None:
    """Have the host remove whatever data there are."""
    where = run.outputs.get("place")
    if where is None:
        return None
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, where["host"], "volume_make", payload, 60.0, Direction.UNDO)


SAGA = register(
    Saga(
        kind="volume_refill",
        version=1,
        params=VolumeParams,
        steps=(
            Step("place", place, NoUndo("decides only"), 60.0, record=lose, unrecord=let_go_lost),
            Ask("clear", order_clear, cleared, order_unfill, 300.0, park=park),
            Ask("fill", order_fill, filled, order_unfill, DEADLINE_S, park=park, queue="volume"),
            Step(
                "finish",
                finish,
                NoUndo("its record is undone by the last act"),
                10.0,
                record=put_rest,
            ),
        ),
        unwound_record=put_back,
    )
)
