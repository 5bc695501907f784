"""Create a volume: from an accepted request to data on a host, or to "error" with nothing left on any host.

place    decide which host keeps the data (where the source is, when there is one)
make     the host makes the file: empty, or from an image, a snapshot, a volume
finish   available
"""

from typing import Any

from kilonova.common.context import Context
from kilonova.common.errors import GenerationMismatch
from kilonova.db.engine import Tx
from kilonova.objects.guest import ImageSource
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume_orders import VolumeMade, VolumeMake, VolumeRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import (
    Ask,
    NoUndo,
    Output,
    Retreat,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)
from kilonova.volume.embedded import placing
from kilonova.volume.embedded.operations import backup_chain
from kilonova.volume.embedded.operations.asking import (
    order,
    park,
    row_of,
    service,
    tell_project,
    writer_of,
)
from kilonova.volume.embedded.operations.images import source_image
from kilonova.volume.embedded.store import backups, services, types, volumes

MAKE_DEADLINE_S = 3600.0


def place(run: Run) -> Output:
    """Choose the host; a copy is made where its source is."""
    of, row = service(run), row_of(run)
    if row["host"]:
        return {"host": row["host"], "chosen": False}
    retreats: Any = run.outputs.get("retreats", ())
    tried = {str(note["host"]) for note in retreats}
    of.db.read(lambda tx: check_back_end(tx, row["type_id"]))
    kept, off = of.db.read(lambda tx: (volumes.kept(tx), services.disabled(tx)))
    rooms = [r for r in of.rooms() if r.host not in off | tried]
    return {"host": placing.choose(rooms, kept, row["size_gib"]), "chosen": True}


def check_back_end(tx: Tx, type_id: str | None) -> None:
    """Raise NoRoom when a type asks for another back end than hosts have. source: Cinder's CapabilitiesFilter."""
    kind = types.find(tx, type_id or "")
    for name, wanted in types.specs_of(kind).items() if kind is not None else ():
        if name in placing.BACK_END and wanted != placing.BACK_END[name]:
            raise placing.NoRoom(
                "No valid backend was found. No weighed backends available.",
                spec=name,
                wanted=wanted,
            )


def take(tx: Tx, run: Run, output: Output) -> None:
    """Name the host in the row, if it still has the room: counted in the transaction that takes it."""
    of = service(run)
    row = volumes.get(tx, run.resource)
    if output["chosen"]:
        room = next((r for r in of.rooms() if r.host == output["host"]), None)
        if room is None or room.disk_gib - volumes.kept(tx).get(room.host, 0) < row["size_gib"]:
            raise GenerationMismatch("The host has no room any more.", host=output["host"])
        volumes.change(tx, run.resource, of.clock.now(), host=output["host"])


def let_go(tx: Tx, run: Run) -> None:
    """The volume is nowhere."""
    volumes.change(tx, run.resource, service(run).clock.now(), host="", path="")


def order_make(run: Run) -> Order:
    """Have the host make the data."""
    row = row_of(run)
    image, chain = source_image(run, row["image_id"], row["host"]), tuple[ImageSource, ...]()
    if row["backup_id"] is not None:
        chain = backup_chain.sources(run, row["backup_id"], row["host"])
    payload = VolumeMake(
        volume_id=run.resource,
        size_gib=row["size_gib"],
        image=chain[0] if chain else image,
        layers=chain[1:],
        snapshot_id=row["snapshot_id"],
        source_volid=row["source_volid"],
        source_server_id=writer_of(run, row["source_volid"]) if row["source_volid"] else None,
    )
    return order(run, row["host"], "volume_make", payload, MAKE_DEADLINE_S)


def _rest_backup(tx: Tx, run: Run) -> None:
    """The backup can be used again."""
    backup, now = volumes.get(tx, run.resource)["backup_id"], service(run).clock.now()
    if backup is not None:
        backups.change(tx, backup, now, only=("restoring",), status="available")


def make_failed(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's and no source binds the volume to it."""
    message = answer.message or "The host could not make the volume."
    where = run.outputs["place"]
    if answer.elsewhere and where["chosen"]:
        note = {"host": where["host"], "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def order_unmake(run: Run) -> Order | None:
    """Have the host remove what it made, also in part."""
    where = run.outputs.get("place")
    if where is None:
        return None
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, where["host"], "volume_make", payload, 60.0, Direction.UNDO)


def made(run: Run, answer: Answer) -> Output:
    """The file is there."""
    found = unpack(answer.body, VolumeMade)
    return {"path": found.path, "format": found.format}


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_available(tx: Tx, run: Run, output: Output) -> None:
    """The volume can be used."""
    data = run.outputs["make"]
    _rest_backup(tx, run)
    volumes.change(
        tx,
        run.resource,
        service(run).clock.now(),
        path=data["path"],
        format=data["format"],
    )
    volumes.change(
        tx,
        run.resource,
        service(run).clock.now(),
        only=("creating", "downloading"),
        status="available",
    )


def put_error(tx: Tx, run: Run) -> None:
    """The create did not happen: a row in "error" is all that is left, and a message that says why."""
    tell_project(tx, run, "VOLUME", run.resource)
    _rest_backup(tx, run)
    volumes.change(
        tx,
        run.resource,
        service(run).clock.now(),
        only=("creating", "downloading", "available"),
        status="error",
    )


SAGA = register(
    Saga(
        kind="volume_create",
        version=1,
        params=VolumeParams,
        steps=(
            Step("place", place, NoUndo("decides only"), 60.0, record=take, unrecord=let_go),
            Ask(
                "make",
                order_make,
                made,
                order_unmake,
                MAKE_DEADLINE_S,
                failed=make_failed,
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


def params_of(ctx: Context, volume_id: str, project_id: str) -> VolumeParams:
    """Return the parameters of one create."""
    return VolumeParams(volume_id=volume_id, project_id=project_id)
