"""Have a guest go over to another volume's data while it runs: the volume service asks, which migrates a volume.

    begin      the new one is the server's, the old volume shows as detaching (from acceptance on); undone both
    connect    let the host reach it
    guest      the host copies what the guest has, then what it writes is in both places; undone by ending that
    turn       from here on only forward: both places have all, and from now on the new one is right
    over       the guest goes over; one that has ended meanwhile starts at the new place
    hand_over  the volume service says which volume it is from now on
    release    the old attachment ends; the record has the new one

Given up, the guest has the old data, with all that it wrote, and the volume service is told so. source: Nova,
swap_volume.
"""

import contextlib

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestAttachDisk, SwapPart
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import DiskRequest, SwapParams
from kilonova.objects.volume import Volume
from kilonova.operations import guest_orders, server_volumes, states, volume_ops
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, StepFailed, register

KIND = "volume_swap"
ITEM = "volume"
COPY_S = 4 * 3600.0
FORWARD = NoUndo("only forward from here")
RESTING = ("", "none", "error", "success", "deleting")


def check_migrates(old: Volume, new: Volume) -> None:
    """Raise Conflict, in Nova's words, unless the volume service migrates both. source: Nova since OSSA-2025."""
    for volume in (old, new):
        if volume.migration_status in RESTING:
            raise Conflict(
                f"volume {volume.id} is not migrating; this API should only be called by Cinder"
            )


def start(services: Services, ctx: Context, found: Found, old: Volume, new: Volume) -> str:
    """Accept it; return the operation's id.

    NotFound: the server does not have the old volume. BadRequest: the new one cannot take its place. Conflict: the
    server's state or lock.
    """
    disk = volume_ops.disk_of(found, old.id)
    check_lock(ctx, found)
    row = volume_ops.check_state(found, states.TRANSITIONS[KIND])
    volume_ops.check_host(services, row)
    _check_volumes(old, new)
    volume_ops.check_settled(disk)
    operation = new_uuid()
    key = (operation, ITEM)
    volume_ops.begin_detaching(services, old.id, found.id)
    try:
        attachment = services.volumes.ensure_attachment(
            key, volume_id=new.id, server_id=found.id, mode=disk.mode
        )
        mark = volume_ops.marked(found, old.id, "swapping")
        accepted = volume_ops.Accepted(operation, mark, (new.id, attachment.id))
        volume_ops.accept(services, ctx, SAGA, found, accepted)
    except KilonovaError:
        services.volumes.remove_attachment(key=key)
        services.volumes.roll_detaching(old.id, found.id)
        raise
    return operation


def _check_volumes(old: Volume, new: Volume) -> None:
    if new.attachments or new.status != "available":
        raise BadRequest("Invalid volume: New volume must be detached in order to swap.")
    if new.size_gib < old.size_gib:
        raise BadRequest("Invalid volume: New volume must be the same size or larger.")
    if len(old.attachments) > 1:
        raise BadRequest(
            "Swapping multi-attach volumes with more than one read/write attachment is not supported."
        )


def begin(run: Run) -> Output:
    """The new one is reserved, once more: the same attachment.

    That the old one is detaching is not said again: whoever wakes here when all is over would say it for good.
    """
    services: Services = run.services
    services.volumes.ensure_attachment(
        (run.operation, ITEM),
        volume_id=run.params.new_volume_id,
        server_id=run.resource,
        mode=run.params.disk.mode,
    )
    return {}


def unbegin(run: Run) -> None:
    """The old one is in use again, if it is there; the attachment ends, later while a host may write (settle_held)."""
    services: Services = run.services
    with contextlib.suppress(NotFound):
        services.volumes.roll_detaching(str(run.params.disk.volume_id), run.resource)
    if not server_volumes.held(services, run.resource):
        services.volumes.remove_attachment(key=(run.operation, ITEM))


def connect(run: Run) -> Output:
    """Let the host reach the new one."""
    server_volumes.connect(run.services, run.params.new_attachment_id, str(run.params.host))
    return {}


def order_copy(run: Run) -> Order:
    """Have the host keep the new one's data the same as those that the guest has."""
    return _order(run, _new(run), Direction.DO, SwapPart.COPY)


def order_over(run: Run) -> Order:
    """Have the host bring the guest over to the new one's data."""
    return _order(run, _new(run), Direction.DO, SwapPart.OVER)


def _new(run: Run) -> DiskRequest:
    disk: DiskRequest = run.params.disk
    return disk.replace(
        volume_id=run.params.new_volume_id, attachment_id=run.params.new_attachment_id
    )


def order_back(run: Run) -> Order | None:
    """Have the host bring it back; nothing to do when the old attachment is gone, as after the server's delete."""
    try:
        return _order(run, run.params.disk, Direction.UNDO, SwapPart.ALL)
    except (StepFailed, NotFound):
        return None


def _order(run: Run, to: DiskRequest, direction: Direction, part: SwapPart) -> Order:
    """Return the order; the guest sees the serial of the old volume, whatever data it has."""
    services: Services = run.services
    found = server_volumes.connections(services, run.resource, [to])
    told = server_volumes.guest_disk(to, found[str(to.attachment_id)])
    serial = str(run.params.disk.volume_id)
    payload = GuestAttachDisk(
        server_id=run.resource, disk=told.replace(serial=serial, name=serial), swap=part
    )
    host = str(run.params.host)
    return guest_orders.order(run, host, "guest_swap_disk", payload, COPY_S, direction)


def done(run: Run, answer: Answer) -> Output:
    """The host did its part."""
    return {}


def turn(run: Run) -> Output:
    """Nothing is done."""
    return {}


def hand_over(run: Run) -> Output:
    """Let the volume service say which volume it is now: the new one, if it gave the migration up behind our back."""
    services: Services = run.services
    services.volumes.complete(run.params.new_attachment_id)
    old, new = str(run.params.disk.volume_id), run.params.new_volume_id
    try:
        return {"volume_id": services.volumes.complete_migration(old, new)}
    except (Conflict, NotFound):
        return {"volume_id": new}


def release(run: Run) -> Output:
    """End the old attachment."""
    services: Services = run.services
    services.volumes.remove_attachment(attachment_id=str(run.params.disk.attachment_id))
    return {}


def record(tx: Tx, run: Run, output: Output) -> None:
    """The record has the new attachment."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        old = run.params.disk.volume_id
        is_now = {
            "volume_id": run.outputs["hand_over"]["volume_id"],
            "attachment_id": run.params.new_attachment_id,
            "state": "",
        }
        disks = [d.replace(**is_now) if d.volume_id == old else d for d in disks]
        volume_ops.put_disks(tx, run, disks)
    volume_ops.closed(tx, run, "guest", ok=True)


def restore(tx: Tx, run: Run) -> None:
    """The record says that the old one is there."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        mine = run.params.disk.volume_id
        back = [d.replace(state="") if d.volume_id == mine else d for d in disks]
        volume_ops.put_disks(tx, run, back)
    volume_ops.closed(tx, run, "guest", ok=False)


def give_up(run: Run) -> None:
    """Tell the volume service."""
    services: Services = run.services
    old, new = str(run.params.disk.volume_id), run.params.new_volume_id
    services.volumes.complete_migration(old, new, error=True)


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=SwapParams,
        steps=(
            Step("begin", begin, unbegin, 60.0, record=volume_ops.begin),
            Step("connect", connect, NoUndo("ends with the attachment"), 120.0),
            Ask("guest", order_copy, done, order_back, COPY_S, park_outside=park),
            Step("turn", turn, NoUndo("nothing was done"), 10.0, point_of_no_return=True),
            Ask("over", order_over, done, FORWARD, COPY_S, park_outside=park),
            Step("hand_over", hand_over, FORWARD, 60.0),
            Step("release", release, FORWARD, 60.0, record=record),
        ),
        unwound=give_up,
        unwound_record=restore,
    )
)
