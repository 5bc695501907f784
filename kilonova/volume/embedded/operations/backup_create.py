"""Back a volume up, as it is at one moment, also while a guest writes it; or one of its snapshots.

An incremental backup has only what is not as in its parent, a backup of the same volume: the host compares the two.

    prepare   the target makes room under the backup's id
    upload    the volume's host sends the bytes
    finish    available; the volume rests again

Unwound, the backup is in "error" and its target has nothing of it.
"""

from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import ImageSource
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume_orders import VolumeUpload, VolumeUploaded
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded import attaching
from kilonova.volume.embedded.operations import backup_chain
from kilonova.volume.embedded.operations.asking import (
    order,
    park,
    row_of,
    service,
    tell_project,
    writer_of,
)
from kilonova.volume.embedded.operations.backup_chain import target_of
from kilonova.volume.embedded.store import backups, snapshots

DEADLINE_S = 3600.0
BUSY = "backing-up"


def prepare(run: Run) -> Output:
    """Make room for it."""
    row = _backup(run)
    return {"location": target_of(run, row).prepare(row["id"], row["size_gib"])}


def remove(run: Run) -> None:
    """Remove what the target has of it; its id is the backup's own."""
    target_of(run, _backup(run)).remove(run.params.backup_id)


def _backup(run: Run) -> Row:
    return service(run).db.read(lambda tx: backups.get(tx, run.params.backup_id))


def _payload(run: Run) -> VolumeUpload:
    row = _backup(run)
    return VolumeUpload(
        volume_id=run.resource,
        image_id=row["id"],
        url=target_of(run, row).upload_url(run, row["id"], row_of(run)["host"]),
        disk_format="qcow2",
        attached_to=writer_of(run, run.resource),
        snapshot_id=run.params.snapshot_id,
        base=_base(run),
    )


def _base(run: Run) -> tuple[ImageSource, ...]:
    """Return the chain that an incremental backup adds to; of a full one there is none."""
    row = _backup(run)
    if row["parent_id"] is None:
        return ()
    return backup_chain.sources(run, row["parent_id"], row_of(run)["host"])


def order_upload(run: Run) -> Order:
    """Have the host send the volume's bytes."""
    return order(run, row_of(run)["host"], "volume_upload", _payload(run), DEADLINE_S)


def order_forget(run: Run) -> Order:
    """Have the host remove what it put aside, and what it wrote into a folder."""
    row = _backup(run)
    url = target_of(run, row).upload_url(run, row["id"], row_of(run)["host"])
    payload = VolumeUpload(volume_id=run.resource, image_id=row["id"], url=url)
    return order(run, row_of(run)["host"], "volume_upload", payload, 60.0, Direction.UNDO)


def uploaded(run: Run, answer: Answer) -> Output:
    """The bytes are there."""
    found = unpack(answer.body, VolumeUploaded)
    return {
        "size": found.size,
        "location": found.location,
        "hash_value": found.hash_value or None,
        "host": answer.host,
    }


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_available(tx: Tx, run: Run, output: Output) -> None:
    """The backup can be restored; the volume can be used again."""
    now, sent = service(run).clock.now(), run.outputs["upload"]
    backups.change(
        tx,
        run.params.backup_id,
        now,
        only=("creating",),
        status="available",
        location=sent.get("location") or run.outputs["prepare"]["location"],
        size_bytes=sent["size"],
        hash_value=sent.get("hash_value"),
        host=sent.get("host", ""),
    )
    _rest(tx, run, now)


def _rest(tx: Tx, run: Run, now: float) -> None:
    """Let the volume, or the snapshot, be used again."""
    if run.params.snapshot_id is None:
        attaching.rest(tx, run.resource, now, BUSY)
    else:
        snapshots.change(tx, run.params.snapshot_id, now, only=(BUSY,), status="available")


def put_error(tx: Tx, run: Run) -> None:
    """The backup did not happen, and a message says why; the volume can be used again."""
    tell_project(tx, run, "VOLUME_BACKUP", run.params.backup_id)
    now = service(run).clock.now()
    backups.change(
        tx,
        run.params.backup_id,
        now,
        only=("creating", "available"),
        status="error",
        fail_reason=run.error,
        location=None,
    )
    _rest(tx, run, now)


SAGA = register(
    Saga(
        kind="backup_create",
        version=1,
        params=VolumeParams,
        steps=(
            Step("prepare", prepare, remove, 60.0),
            Ask(
                "upload",
                order_upload,
                uploaded,
                order_forget,
                DEADLINE_S,
                park=park,
                queue="volume",
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
