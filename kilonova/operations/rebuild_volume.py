"""A rebuild that writes the volume that a server boots from anew (2.93): the steps of server_rebuild.py for that.

off       the host turns the guest off
root      another attachment without a host takes the place of the root volume's: no host reaches the volume
reimage   the volume service writes it from the image; then the host may reach it again
in_use    the guest runs with it

Undone, the guest runs with its root volume again, by the new attachment. The volume is what it was, unless it was
written already: then the server is in ERROR, for it is not what its record says.
"""

import contextlib
from collections.abc import Mapping

from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestPower, PowerAction
from kilonova.objects.image import Image
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import DiskRequest, RebuildParams
from kilonova.operations import (
    guest_orders,
    remakes,
    server_disks,
    server_volumes,
    settling,
    states,
)
from kilonova.operations.services import Services
from kilonova.saga.definition import NotYet, Output, Run, StepFailed
from kilonova.volume.interface import Key, NotReady, ReimageFailed

GIB = 1 << 30
OFF_S, REIMAGE_S = 300.0, 3600.0
ITEM = "root"


class RootLost(StepFailed):
    """The root volume has no data that count any more."""

    code = "root_lost"


def left_out(params: RebuildParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the root volume stays as it is, or there is none."""
    return not params.reimage


def check(services: Services, root: DiskRequest, image: Image) -> None:
    """Refuse what the volume service would refuse later. BadRequest in Nova's and Cinder's words."""
    volume = services.volumes.find(str(root.volume_id))
    if volume is None:
        raise BadRequest(f"Volume {root.volume_id} could not be found.")
    if any(a.id != root.attachment_id for a in volume.attachments):
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} is attached to other servers too: it cannot be written anew."
        )
    if volume.status != "in-use" or volume.readonly:
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} status must be in-use and writable, but it is "
            f"{'readonly' if volume.readonly else volume.status}."
        )
    size = max(image.size or 0, image.virtual_size or 0, image.min_disk * GIB)
    if size > volume.size_gib * GIB:
        raise BadRequest(
            "Volume is smaller than the minimum size specified in image metadata. Volume size is "
            f"{volume.size_gib * GIB} bytes, minimum size is {size} bytes."
        )


def _root(row: Row) -> DiskRequest:
    return next(d for d in server_disks.read(row) if server_disks.is_root(d))


def _key(run: Run) -> Key:
    return (run.operation, ITEM)


def order_off(run: Run) -> Order:
    """Have the host turn the guest off."""
    payload = GuestPower(server_id=run.resource, action=PowerAction.STOP, timeout_s=0.0)
    row = remakes.row_of(run)
    return guest_orders.order(run, row["host"], "guest_power", payload, OFF_S)


def is_off(run: Run, answer: Answer) -> Output:
    """It is off."""
    return {}


def order_on(run: Run) -> Order | None:
    """Have the host start a guest that ran, if its disks are still there."""
    if not run.outputs["check"]["ran"] or run.error_code == RootLost.code:
        return None
    row = remakes.row_of(run)
    try:
        build = guest_orders.build_of(run.services, row)
    except (StepFailed, BadRequest, NotFound):
        return None
    payload = GuestPower(
        server_id=run.resource, action=PowerAction.START, timeout_s=0.0, build=build
    )
    return guest_orders.order(run, row["host"], "guest_power", payload, OFF_S, Direction.UNDO)


def detach(run: Run) -> Output:
    """Reserve the volume once more, then end the attachment by which the host reaches it."""
    services: Services = run.services
    root = _root(remakes.row_of(run))
    if server_volumes.held(services, run.resource):
        raise StepFailed("A host that does not answer may still use the volumes of the server.")
    new = services.volumes.ensure_attachment(
        _key(run), volume_id=str(root.volume_id), server_id=run.resource, mode=root.mode
    )
    if root.attachment_id != new.id:
        services.volumes.remove_attachment(attachment_id=root.attachment_id)
    return {"attachment": new.id}


def attach_again(run: Run) -> None:
    """Whatever attachment there was, the new one is what the host reaches the volume by from now on."""
    services: Services = run.services
    row = remakes.row_of(run)
    with contextlib.suppress(BadRequest, NotFound):  # a volume that somebody took away meanwhile
        attachment = detach(run)["attachment"]
        home = services.home(run.home)
        home.write(lambda tx: _put(tx, run, str(attachment)))
        if run.error_code != RootLost.code:
            server_volumes.connect(services, attachment, row["host"])
            services.volumes.complete(attachment)


def _put(tx: Tx, run: Run, attachment: str) -> None:
    row = guest_orders.row_in(tx, run.resource)
    disks = [
        d.replace(attachment_id=attachment, item=ITEM) if server_disks.is_root(d) else d
        for d in server_disks.read(row)
    ]
    settling.keep(tx, run, disks=server_disks.write(disks))


def put_attachment(tx: Tx, run: Run, output: Output) -> None:
    """The record names the attachment that holds."""
    _put(tx, run, str(output["attachment"]))


def reimage(run: Run) -> Output:
    """Have the volume written, wait for it, then let the host reach it."""
    services: Services = run.services
    row = remakes.row_of(run)
    root = _root(row)
    try:
        services.volumes.reimage(
            _key(run), volume_id=str(root.volume_id), image_id=run.params.image.id
        )
    except NotReady as exc:
        raise NotYet(exc.message, after_s=0.5) from exc
    except ReimageFailed as exc:
        raise (RootLost if exc.lost else StepFailed)(exc.message) from exc
    server_volumes.connect(services, str(root.attachment_id), row["host"])
    return {}


def end_reimage(run: Run) -> None:
    """Wait until nothing writes the volume any more. One that is not what it was puts the server in ERROR."""
    services: Services = run.services
    root = _root(remakes.row_of(run))
    try:
        written = services.volumes.end_reimage(_key(run), volume_id=str(root.volume_id))
    except NotReady as exc:
        raise NotYet(exc.message, after_s=0.5) from exc
    if written:
        home = services.home(run.home)
        home.write(lambda tx: settling.keep(tx, run, vm_state=states.ERROR))


def in_use(run: Run) -> Output:
    """The guest has its root volume."""
    services: Services = run.services
    root = _root(remakes.row_of(run))
    with contextlib.suppress(NotFound):
        services.volumes.complete(str(root.attachment_id))
    return {}
