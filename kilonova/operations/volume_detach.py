"""Detach a volume from a server: nobody else may have it before the guest has let go of it.

begin    the volume shows as detaching (from acceptance on); undone by showing it in use again
guest    the host takes it out, trying until the guest lets go; from then on only forward
release  the attachment ends; the record has no such disk
"""

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, KilonovaError, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import servers
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestDetachDisk, GuestDevices
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import AttachParams, DiskRequest
from kilonova.operations import guest_orders, server_disks, states, volume_ops
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.services import Services
from kilonova.operations.volume_attach import attach_order
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, StepFailed, register

KIND = "volume_detach"
DEADLINE_S = 300.0
ORDER_S = 280.0  # the host gives up first, and says why
GIVE_UP_S = 1800.0  # a host that lives and answers no order is not asked any more


def start(services: Services, ctx: Context, found: Found, volume_id: str) -> str:
    """Accept a detach; return the operation's id.

    NotFound: the server has no such volume. BadRequest: its root disk, or one that is not in use. Conflict: the
    server's state or lock.
    """
    services.volumes.get(ctx, volume_id)
    disk = volume_ops.disk_of(found, volume_id)
    if server_disks.is_root(disk):
        raise BadRequest("Cannot detach a root device volume")
    check_lock(ctx, found)
    row = volume_ops.check_state(found, states.TRANSITIONS[KIND])
    has_host = row["host"] is not None
    volume_ops.check_host(services, row)
    volume_ops.check_settled(disk)
    if has_host:
        volume_ops.begin_detaching(services, volume_id, found.id)
    operation = new_uuid()
    mark = volume_ops.marked(found, volume_id, "detaching")
    try:
        volume_ops.accept(services, ctx, SAGA, found, volume_ops.Accepted(operation, mark))
    except KilonovaError:
        if has_host and not _others_detach(services, found, volume_id):
            services.volumes.roll_detaching(volume_id, found.id)
        raise
    return operation


def _others_detach(services: Services, found: Found, volume_id: str) -> bool:
    """Tell whether another detach of the volume was accepted: then it stays detaching."""
    row = services.cell(found.mapping["cell"]).read(lambda tx: servers.find(tx, found.id))
    disk = None if row is None else server_disks.find_volume(server_disks.read(row), volume_id)
    return disk is not None and disk.state == "detaching"


def begin(run: Run) -> Output:
    """Nothing is done: the volume shows as detaching from acceptance on.

    Not said again: whoever wakes here when the detach was taken back would say it for good.
    """
    return {}


def unbegin(run: Run) -> None:
    """It is in use again; fine when it is gone."""
    services: Services = run.services
    if run.params.host is not None:
        try:
            services.volumes.roll_detaching(str(_disk(run).volume_id), run.resource)
        except NotFound:
            return


def order_detach(run: Run) -> Order | None:
    """Have the host take the disk out."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    payload = GuestDetachDisk(
        server_id=run.resource,
        serial=str(_disk(run).volume_id),
        metadata=guest_orders.next_document(services, row),
    )
    return guest_orders.order(run, run.params.host, "guest_detach_disk", payload, ORDER_S)


def order_attach(run: Run) -> Order | None:
    """Have the host plug it in again, while it answers.

    Never later: by then the volume may be another's. What a host that went down did with the guest is made good at the
    guest's next start, or by the next detach. Nothing to do either when the attachment was ended behind our back.
    """
    services: Services = run.services
    host = run.params.host
    if host is None or services.host_is_down(host):
        return None
    if services.now() - run.accepted_at > GIVE_UP_S:
        return None
    try:
        return attach_order(run, Direction.UNDO)
    except (StepFailed, NotFound):
        return None


def unplugged(run: Run, answer: Answer) -> Output:
    """Keep where the guest sees what is left."""
    return {"devices": msgspec.to_builtins(unpack(answer.body, GuestDevices).devices)}


def release(run: Run) -> Output:
    """End the attachment: others may have the volume."""
    services: Services = run.services
    services.volumes.remove_attachment(attachment_id=str(_disk(run).attachment_id))
    return {}


def record(tx: Tx, run: Run, output: Output) -> None:
    """The record has no such disk."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        mine = _disk(run).volume_id
        left = [d for d in disks if d.volume_id != mine]
        volume_ops.put_disks(tx, run, left, **guest_orders.device_columns(tx, run))
    volume_ops.closed(tx, run, "guest", ok=True)


def restore(tx: Tx, run: Run) -> None:
    """The record says that the disk is there."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        mine = _disk(run).volume_id
        back = [d.replace(state="") if d.volume_id == mine else d for d in disks]
        volume_ops.put_disks(tx, run, back)
    volume_ops.closed(tx, run, "guest", ok=False)


def _disk(run: Run) -> DiskRequest:
    params: AttachParams = run.params
    return params.disk


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=AttachParams,
        steps=(
            Step("begin", begin, unbegin, 60.0, record=volume_ops.begin),
            Ask(
                "guest",
                order_detach,
                unplugged,
                order_attach,
                DEADLINE_S,
                point_of_no_return=True,
                skip=volume_ops.no_host,
            ),
            Step("release", release, NoUndo("only forward from here"), 60.0, record=record),
        ),
        unwound_record=restore,
    )
)
