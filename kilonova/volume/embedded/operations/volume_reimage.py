"""Write a volume that no server reaches anew from an image: what Cinder calls reimage.

    look     what the volume will keep of the image
    fill     its host makes the new data and puts the old aside
    record   the new data hold: from here on only forward
    forget   the host removes the old data
    tell     compute hears ``volume-reimaged`` for every server that reserved the volume

Unwound, the volume has the data and the status from before; it is in "error" when its host still owes that.
"""

from collections.abc import Callable

import msgspec

from kilonova.common.context import service_context
from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume import VolumeEvent, VolumeEventKind
from kilonova.objects.volume_orders import VolumeMade, VolumeMake, VolumeRemove
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded import attaching, cleanups
from kilonova.volume.embedded.creating import image_metadata
from kilonova.volume.embedded.operations.asking import (
    order,
    park,
    row_of,
    service,
    tell_project,
)
from kilonova.volume.embedded.operations.images import source_image
from kilonova.volume.embedded.store import attachments, volumes

DEADLINE_S = 3600.0
BUSY = "downloading"


def look(run: Run) -> Output:
    """Read what the volume keeps of its image. NotFound when it is gone already, BadRequest: its signature is wrong."""
    of = service(run)
    image = of.verify(of.images.get(service_context(), run.params.image_id))
    return {"image": image_metadata(image)}


def order_fill(run: Run) -> Order:
    """Have the host write the new data."""
    row = row_of(run)
    payload = VolumeMake(
        volume_id=run.resource,
        size_gib=row["size_gib"],
        image=source_image(run, run.params.image_id, row["host"]),
    )
    return order(run, row["host"], "volume_reimage", payload, DEADLINE_S)


def order_restore(run: Run) -> Order:
    """Have the host make the volume what it was."""
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, row_of(run)["host"], "volume_reimage", payload, 60.0, Direction.UNDO)


def filled(run: Run, answer: Answer) -> Output:
    """The new data are there."""
    made = unpack(answer.body, VolumeMade)
    return {"path": made.path, "format": made.format}


def nothing(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_rest(tx: Tx, run: Run, output: Output) -> None:
    """The volume is what the image says."""
    data, image = run.outputs["fill"], run.outputs["look"]["image"]
    attaching.rest(
        tx,
        run.resource,
        service(run).clock.now(),
        BUSY,
        path=data["path"],
        format=data["format"],
        image=msgspec.json.encode(image).decode(),
        image_id=run.params.image_id,
        bootable=1,
    )


def put_back(tx: Tx, run: Run) -> None:
    """The volume is what it was, unless its host has still to make it so; a message says why."""
    tell_project(tx, run, "VOLUME", run.resource)
    now = service(run).clock.now()
    if run.params.previous == "error" or cleanups.of_operation(tx, run.operation):
        volumes.change(tx, run.resource, now, only=(BUSY,), status="error")
    attaching.rest(tx, run.resource, now, BUSY)


def order_forget(run: Run) -> Order:
    """Have the host remove the old data."""
    payload = VolumeRemove(volume_id=run.resource)
    return order(run, row_of(run)["host"], "volume_forget", payload, 300.0)


def forgotten(run: Run, answer: Answer) -> Output:
    """Nothing is aside any more."""
    return {}


def anew(
    fill: Callable[[Run], Order], record: Callable[[Tx, Run, Output], None]
) -> tuple[Ask | Step, ...]:
    """Return the steps that give a volume other data and put the old ones aside until the record holds."""
    return (
        Ask("fill", fill, filled, order_restore, DEADLINE_S, park=park, queue="volume"),
        Step(
            "record",
            nothing,
            NoUndo("forward only from here"),
            10.0,
            record=record,
            point_of_no_return=True,
        ),
        Ask(
            "forget",
            order_forget,
            forgotten,
            NoUndo("the old data are not needed any more"),
            300.0,
            park=park,
        ),
    )


def tell(run: Run) -> Output:
    """Tell compute, for each server that reserved the volume."""
    of = service(run)
    held = of.db.read(lambda tx: attachments.of_volume(tx, run.resource))
    for server_id in sorted({a["server_id"] for a in held if a["server_id"]}):
        kind = VolumeEventKind.REIMAGED
        of.emit(VolumeEvent(kind=kind, server_id=server_id, volume_id=run.resource))
    return {}


SAGA = register(
    Saga(
        kind="volume_reimage",
        version=1,
        params=VolumeParams,
        steps=(
            Step("look", look, NoUndo("only looks"), 60.0),
            *anew(order_fill, put_rest),
            Step("tell", tell, NoUndo("an event is not taken back"), 10.0),
        ),
        unwound_record=put_back,
    )
)
