"""Bring a volume to another host: its data are copied there, the record is switched, the old data go.

    place    the other host has the room; the volume's host lets it, and nobody else, read the data
    reach    the data can be read
    make     the other host makes its copy; of a volume that a server has, an empty one
    swap     compute has the guest that has it go over to the other host's file, with all that it wrote and writes
    switch   the volume is the copy; from here on only forward
    remove   the host that it came from removes the old data, also later
    finish   the volume rests again

Of a volume that no server has, ``reach`` lets the other host read; nobody writes meanwhile, and no other operation is
accepted. One that a server has gets a second row, the target: the same data's id at the other host, which compute knows
as the new volume, and which ends when compute says that the guest went over (os-migrate_volume_completion). Unwound,
the volume is where it was, and nothing of it on the other host.
"""

from collections.abc import Mapping
from typing import Any

from kilonova.db.engine import Row, Tx
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume import VolumeEvent, VolumeEventKind
from kilonova.objects.volume_orders import VolumeMade, VolumeMake, VolumeRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import (
    Ask,
    NotYet,
    NoUndo,
    Output,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)
from kilonova.volume.embedded import attaching, cleanups, placing
from kilonova.volume.embedded.exporting import new_name
from kilonova.volume.embedded.operations.asking import order, row_of, service
from kilonova.volume.embedded.schema import TARGET
from kilonova.volume.embedded.store import attachments, volumes

KIND = "volume_migrate"
COPY_S = 4 * 3600.0
POLL_S = 0.2
SWAP_S = 12 * 3600.0  # compute's own deadlines are shorter: it says how it ended
SWAP_POLL_S = 0.5
MIGRATING, COMPLETING, SUCCESS, ERROR = "migrating", "completing", "success", "error"
FORWARD = NoUndo("forward only from here")


def place(run: Run) -> Output:
    """Look where the volume is now, and whether the host that is to have it answers."""
    if not any(r.up for r in service(run).rooms() if r.host == run.params.host):
        raise placing.NoRoom("The host that is to have the volume does not answer.")
    row = row_of(run)
    return {"source": row["host"], "size_gib": row["size_gib"]}


def take(tx: Tx, run: Run, output: Output) -> None:
    """Take the room, and let the host read the data."""
    of, host = service(run), str(run.params.host)
    now, row = of.clock.now(), volumes.get(tx, run.resource)
    room = next((r for r in of.rooms() if r.host == host), None)
    if room is None or room.disk_gib - volumes.kept(tx).get(host, 0) < row["size_gib"]:
        raise placing.NoRoom("The host that is to have the volume has no room for it.")
    if cleanups.owed(tx, host, run.resource):
        raise placing.NoRoom("The host that is to have the volume still has old data of it.")
    if run.params.target_id is not None:
        volumes.change(tx, run.resource, now, migration_status=MIGRATING)
        _add_target(tx, run, row, now)
        return
    volumes.change(tx, run.resource, now, migration_status=MIGRATING, migration_host=host)
    attachments.add(
        tx,
        id=run.params.attachment_id,
        volume_id=run.resource,
        project_id=row["project_id"],
        status=attachments.COPYING,
        mode="ro",
        host=host,
        export_name=new_name(),
        created_at=now,
        updated_at=now,
    )
    of.exports.touch(tx, row["host"], run.resource)


def _add_target(tx: Tx, run: Run, row: Row, now: float) -> None:
    kept = ("project_id", "user_id", "name", "size_gib", "type_id", "zone", "readonly")
    volumes.add(
        tx,
        id=run.params.target_id,
        status="creating",
        host=run.params.host,
        migration_status=f"{TARGET}{run.resource}",
        created_at=now,
        updated_at=now,
        **{k: row[k] for k in kept},
    )


def let_go(tx: Tx, run: Run) -> None:
    """Nobody reads the data any more, and the room is free."""
    if run.params.target_id is not None:
        volumes.drop(tx, run.params.target_id)
        return
    _end_copy(tx, run)
    volumes.change(tx, run.resource, service(run).clock.now(), migration_host="")


def _end_copy(tx: Tx, run: Run) -> None:
    of = service(run)
    held = attachments.find(tx, str(run.params.attachment_id))
    if held is not None:
        attaching.end(tx, of.exports, held, of.clock.now())


def reach(run: Run) -> Output:
    """Wait until the data can be read."""
    of = service(run)
    host = run.outputs["place"]["source"]
    if not any(r.up for r in of.rooms() if r.host == host):
        raise StepFailed("The host that keeps the volume does not answer.")
    _connection(run)
    return {}


def _connection(run: Run) -> Any:
    def read(tx: Tx) -> Any:
        return attaching.connection(tx, attachments.get(tx, str(run.params.attachment_id)))

    found = service(run).db.read(read)
    if found is None:
        raise NotYet("The volume is being exported.", after_s=POLL_S)
    return found


def order_make(run: Run) -> Order:
    """Have the other host make its copy."""
    payload = VolumeMake(
        volume_id=run.resource,
        size_gib=run.outputs["place"]["size_gib"],
        remote=_connection(run) if run.params.target_id is None else None,
    )
    return order(run, str(run.params.host), "volume_make", payload, COPY_S)


def order_unmake(run: Run) -> Order | None:
    """Have the other host remove its copy, also in part; not when the volume is there already."""
    if _is_there(run):
        return None
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, str(run.params.host), "volume_make", payload, 60.0, Direction.UNDO)


def made(run: Run, answer: Answer) -> Output:
    """The copy is there."""
    found = unpack(answer.body, VolumeMade)
    return {"path": found.path, "format": found.format}


def put_made(tx: Tx, run: Run, output: Output) -> None:
    """Compute can reserve the target."""
    if run.params.target_id is not None:
        now = service(run).clock.now()
        data = {"path": output["path"], "format": output["format"]}
        volumes.change(tx, run.params.target_id, now, status="available", **data)


def _is_there(run: Run) -> bool:
    return bool(row_of(run)["host"] == run.params.host)


def swap(run: Run) -> Output:
    """Ask compute, again and again until it has begun, and wait until it says how that ended."""
    of, row = service(run), row_of(run)
    if row["migration_status"] == COMPLETING:
        return {}
    if row["migration_status"] != MIGRATING:
        raise StepFailed("The server did not go over to the other host's data.")

    target = str(run.params.target_id)
    begun, held = of.db.read(
        lambda tx: (attachments.of_volume(tx, target), attachments.of_volume(tx, run.resource))
    )
    if not begun and not held:
        raise StepFailed("The server does not have the volume any more.")
    if not begun:
        of.emit(
            VolumeEvent(
                kind=VolumeEventKind.SWAP,
                server_id=held[0]["server_id"],
                volume_id=run.resource,
                new_volume_id=target,
            )
        )
    raise NotYet("The server goes over to the other host's data.", after_s=SWAP_POLL_S)


def unswap(run: Run) -> None:
    """Give it up: compute gets the target no more; what it has begun it ends by itself, which is waited for."""
    of, target = service(run), str(run.params.target_id)

    def give_up(tx: Tx) -> bool:
        if attachments.of_volume(tx, target):
            return False
        volumes.change(tx, target, of.clock.now(), status="deleting")
        return True

    if not of.db.write(give_up):
        raise NotYet("The server still goes over to the other host's data.", after_s=SWAP_POLL_S)


def no_server(params: VolumeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether no server has the volume."""
    return params.target_id is None


def a_server(params: VolumeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether a server has the volume."""
    return params.target_id is not None


def nothing(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def switch(tx: Tx, run: Run, output: Output) -> None:
    """The volume is the copy; the room at the host that it came from is held until that is empty."""
    if run.params.target_id is not None:
        return  # compute's word did it (migrating.complete)
    _end_copy(tx, run)
    data, where = run.outputs["make"], run.outputs["place"]
    volumes.change(
        tx,
        run.resource,
        service(run).clock.now(),
        host=run.params.host,
        path=data["path"],
        format=data["format"],
        export_generation=0,
        migration_status=COMPLETING,
        migration_host=where["source"],
    )


def order_remove(run: Run) -> Order:
    """Have the host that the volume came from remove the old data."""
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, run.outputs["place"]["source"], "volume_remove", payload, 300.0)


def removed(run: Run, answer: Answer) -> Output:
    """The old data are gone."""
    return {}


def park(tx: Tx, run: Run, order: Order) -> None:
    """Keep an order for a host that is down; old data stay counted there."""
    size = run.outputs["place"]["size_gib"] if order.verb == "volume_remove" else 0
    cleanups.put(tx, order, size, service(run).clock.now())


def put_success(tx: Tx, run: Run, output: Output) -> None:
    """The volume can be used again."""
    _rest(tx, run, SUCCESS)


def put_error(tx: Tx, run: Run) -> None:
    """The volume is where it was, or at the other host when compute had done its part: then the old data still go."""
    row = volumes.get(tx, run.resource)
    if row["host"] != run.params.host:
        _rest(tx, run, ERROR)
        return
    park(tx, run, order_remove(run))
    _rest(tx, run, SUCCESS)


def _rest(tx: Tx, run: Run, ended: str) -> None:
    now = service(run).clock.now()
    volumes.change(tx, run.resource, now, migration_status=ended, migration_host="")
    attaching.rest(tx, run.resource, now, "maintenance")


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=VolumeParams,
        steps=(
            Step("place", place, NoUndo("looks only"), 60.0, record=take, unrecord=let_go),
            Step("reach", reach, NoUndo("looks only"), 120.0, skip=a_server),
            Ask(
                "make",
                order_make,
                made,
                order_unmake,
                COPY_S,
                record=put_made,
                park=park,
                queue="volume",
            ),
            Step("swap", swap, unswap, SWAP_S, skip=no_server),
            Step("switch", nothing, FORWARD, 10.0, record=switch, point_of_no_return=True),
            Ask("remove", order_remove, removed, FORWARD, 300.0, park=park),
            Step("finish", nothing, FORWARD, 10.0, record=put_success),
        ),
        unwound_record=put_error,
    )
)
