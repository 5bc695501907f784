"""Put a server away: shelve. Its root disk becomes an image (a volume stays a volume), its host gets free.

stop        a running guest is shut down; a paused or suspended one stands still already
snapshot    the host copies the root disk
describe    the image record says what the bytes are
upload      the host gives them to the image service: from here on only forward
shelved     SHELVED, with the image in the record, and what the guest had on its host besides disks
remove      the host removes the guest (when it is offloaded at once)
release     ports, claim and host are let go: SHELVED_OFFLOADED

Undone, the guest runs again if it ran, and there is no image.
"""

from collections.abc import Mapping
from typing import Any

from kilonova.common.context import Context
from kilonova.common.errors import KilonovaError
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestPower, GuestState, PowerAction, PowerState
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import ShelveParams
from kilonova.operations import (
    accept,
    belongings,
    guest_orders,
    settling,
    shelving,
    snapshots,
    states,
)
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

TRANSITION = states.TRANSITIONS["server_shelve"]
_KEPT = NoUndo("the end of an unwind deletes the image")
_ONLY_ON = NoUndo("past the point of no return")
SHUTDOWN_S = 60.0


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept a shelve; a server that boots from a volume needs no image. Raises Conflict."""
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    image_id = ""
    if not snapshots.is_volume_backed(row):
        extra = {"image_type": "snapshot"}
        record = snapshots.record_of(ctx, row, f"{row['name']}-shelved", extra)
        key = f"{new_uuid()}/shelved"
        image_id = services.images.ensure(key, record.replace(owner=row["project_id"])).id
    offload = not image_id or services.setting("shelved_offload_time_s", 0.0) == 0
    try:
        return accept.on_server(
            services, ctx, SAGA, found, TRANSITION, image_id=image_id, offload=offload
        )
    except KilonovaError:
        if image_id:
            services.images.delete(image_id)
        raise


def order_stop(run: Run) -> Order | None:
    """Have the host shut a running guest down."""
    if run.params.previous_vm_state != states.ACTIVE:
        return None
    payload = GuestPower(server_id=run.resource, action=PowerAction.STOP, timeout_s=SHUTDOWN_S)
    return guest_orders.order(run, run.params.host, "guest_power", payload, 300.0)


def order_start(run: Run) -> Order | None:
    """Have the host start it again."""
    if run.params.previous_vm_state != states.ACTIVE:
        return None
    row = guest_orders.server_row(run.services, run.home, run.resource)
    build = guest_orders.build_of(run.services, row)
    payload = GuestPower(server_id=run.resource, action=PowerAction.START, build=build)
    return guest_orders.order(run, run.params.host, "guest_power", payload, 300.0, Direction.UNDO)


def stopped(run: Run, answer: Answer) -> Output:
    """The guest is off."""
    return {"power_state": unpack(answer.body, GuestState).power_state}


def no_image(params: ShelveParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the root disk is a volume."""
    return not params.image_id


def stays(params: ShelveParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server stays on its host for now."""
    return not params.offload


def collect(run: Run) -> Output:
    """Ask the host what the guest has there besides disks: of one that is down there is nothing to be had any more."""
    return {"left": belongings.left_on(run.services, str(run.params.host), run.resource)}


def uploaded(run: Run, answer: Answer) -> Output:
    """The image has its bytes."""
    return {}


def show_shelved(tx: Tx, run: Run, output: Output) -> None:
    """Keep the image in the record; a server that stays on its host is SHELVED."""
    row = guest_orders.row_in(tx, run.resource)
    image, left = run.params.image_id or None, belongings.read(output.get("left"))
    kept: dict[str, Any] = {"system_metadata": shelving.with_shelved(row, image, left)}
    if run.params.offload:
        settling.keep(tx, run, **kept)
        settling.task(tx, run, "shelving_offloading")
        return
    power = int(PowerState.SHUTDOWN)
    settling.succeed(
        tx, run, TRANSITION, vm_state=states.SHELVED, power_state=power, step="upload", **kept
    )


def show_offloaded(tx: Tx, run: Run, output: Output) -> None:
    """SHELVED_OFFLOADED."""
    shelving.show_offloaded(tx, run, TRANSITION, "release")


def delete_image(run: Run) -> None:
    """Delete the image that will not be."""
    if run.params.image_id:
        snapshots.delete_image(run)


def fail(tx: Tx, run: Run) -> None:
    """The server is what it was."""
    settling.fail(tx, run, TRANSITION, step="upload")


def pending(tx: Tx, run: Run, output: Output) -> None:
    """The disk is copied."""
    settling.task(tx, run, "shelving_image_pending_upload")


def uploading(tx: Tx, run: Run, output: Output) -> None:
    """The copy goes to the image service."""
    settling.task(tx, run, "shelving_image_uploading")


SAGA = register(
    Saga(
        kind="server_shelve",
        version=1,
        params=ShelveParams,
        steps=(
            Ask("stop", order_stop, stopped, order_start, 300.0, park_outside=park),
            Ask(
                "snapshot",
                snapshots.order_snapshot,
                snapshots.taken,
                snapshots.order_drop,
                snapshots.DEADLINE_S,
                record=pending,
                park_outside=park,
                skip=no_image,
            ),
            Step("describe", snapshots.describe, _KEPT, 60.0, record=uploading, skip=no_image),
            Ask(
                "upload",
                snapshots.order_upload,
                uploaded,
                _KEPT,
                snapshots.DEADLINE_S,
                skip=no_image,
            ),
            Step(
                "shelved",
                collect,
                _KEPT,
                120.0,
                record=show_shelved,
                point_of_no_return=True,
            ),
            Ask(
                "remove",
                shelving.order_remove,
                shelving.removed,
                _ONLY_ON,
                shelving.REMOVE_S,
                park_outside=park,
                skip=stays,
            ),
            Step(
                "release",
                shelving.off_the_host,
                _ONLY_ON,
                60.0,
                record=show_offloaded,
                skip=stays,
            ),
        ),
        unwound=delete_image,
        unwound_record=fail,
    )
)
