"""Attach a volume to a server: reserved and named before it is accepted, since the answer carries both.

    reserve  the volume is this server's (already, from acceptance on); undone by ending the attachment
    connect  let the host reach it
    guest    the host plugs it in, now and at every later start
    in_use   attachment and volume say so; the record does too

A server that no host has (shelved and offloaded) only keeps the reservation: its next host connects.
"""

from dataclasses import dataclass

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, KilonovaError
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestAttachDisk, GuestDetachDisk, GuestDevices
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import AttachParams, DiskRequest
from kilonova.operations import guest_orders, server_disks, server_volumes, states, volume_ops
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.request_disks import check_attachable
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

KIND = "volume_attach"
ITEM = "volume"
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Wish:
    """What a caller asks for. device: a wish. multiattach: the microversion knows volumes of several servers."""

    volume_id: str
    device: str | None = None
    tag: str | None = None
    delete_on_termination: bool = False
    multiattach: bool = True


def start(services: Services, ctx: Context, found: Found, wish: Wish) -> DiskRequest:
    """Accept an attach; return the disk, with its device, attachment and ids.

    NotFound: no such volume. BadRequest: it cannot be attached. Conflict: the server's state or lock. Forbidden: too
    many disks.
    """
    check_lock(ctx, found)
    row = volume_ops.check_state(found, states.TRANSITIONS[KIND])
    volume = services.volumes.get(ctx, wish.volume_id)
    check_attachable(services, volume, multiattach=wish.multiattach)
    if row["host"] is None and volume.multiattach:
        raise BadRequest(
            "Attaching multiattach volumes is not supported for shelved-offloaded instances."
        )
    if row["host"] is None and wish.tag is not None:
        raise BadRequest(
            "Tagged volume attachment is not supported for shelved-offloaded instances."
        )
    volume_ops.check_host(services, row)
    operation = ctx.operation or new_uuid()
    key = (operation, ITEM)
    mode = "ro" if volume.readonly else "rw"
    attachment = services.volumes.ensure_attachment(
        key, volume_id=volume.id, server_id=found.id, mode=mode
    )
    disk = DiskRequest(
        source="volume",
        destination="volume",
        size_gib=volume.size_gib,
        device=wish.device,
        tag=wish.tag,
        name=volume.id,
        volume_id=volume.id,
        attachment_id=attachment.id,
        delete_on_termination=wish.delete_on_termination,
        item=ITEM,
        mode=attachment.mode,
        id=new_uuid(),
        state="attaching",
    )

    def add(disks: list[DiskRequest]) -> tuple[list[DiskRequest], DiskRequest]:
        if server_disks.find_volume(disks, volume.id) is not None:
            raise BadRequest(f"Invalid volume: volume {volume.id} already attached")
        bus = next((d.bus for d in disks if server_disks.is_root(d)), None)
        name = server_disks.free_name((d.device for d in disks), bus, wish.device)
        new = disk.replace(device=name, bus=bus)
        return [*disks, new], new

    try:
        return volume_ops.accept(services, ctx, SAGA, found, volume_ops.Accepted(operation, add))
    except KilonovaError:
        services.volumes.remove_attachment(key=key)
        raise


def reserve(run: Run) -> Output:
    """Reserve the volume, once more: the same attachment."""
    services: Services = run.services
    disk = _disk(run)
    services.volumes.ensure_attachment(
        (run.operation, ITEM),
        volume_id=str(disk.volume_id),
        server_id=run.resource,
        mode=disk.mode,
    )
    return {}


def unreserve(run: Run) -> None:
    """End the attachment; kept for later while a host may still write (settle_held)."""
    services: Services = run.services
    if not server_volumes.held(services, run.resource):
        services.volumes.remove_attachment(key=(run.operation, ITEM))


def connect(run: Run) -> Output:
    """Let the host reach the volume."""
    server_volumes.connect(run.services, str(_disk(run).attachment_id), str(run.params.host))
    return {}


def order_attach(run: Run) -> Order | None:
    """Have the host plug it in."""
    return attach_order(run, Direction.DO)


def attach_order(run: Run, direction: Direction) -> Order:
    """Return the order that gives the guest the operation's disk, with the document as it reads afterwards."""
    services: Services = run.services
    disk = _disk(run)
    row = guest_orders.server_row(services, run.home, run.resource)
    found = server_volumes.connections(services, run.resource, [disk])
    payload = GuestAttachDisk(
        server_id=run.resource,
        disk=server_volumes.guest_disk(disk, found[str(disk.attachment_id)]),
        metadata=guest_orders.next_document(services, row),
    )
    verb = "guest_attach_disk" if direction == Direction.DO else "guest_detach_disk"
    return guest_orders.order(run, run.params.host, verb, payload, DEADLINE_S, direction)


def order_detach(run: Run) -> Order | None:
    """Have the host take it out again."""
    if run.params.host is None:
        return None
    payload = GuestDetachDisk(server_id=run.resource, serial=str(_disk(run).volume_id))
    return guest_orders.order(
        run, run.params.host, "guest_attach_disk", payload, DEADLINE_S, Direction.UNDO
    )


def plugged(run: Run, answer: Answer) -> Output:
    """Keep where the guest sees its devices."""
    return {"devices": msgspec.to_builtins(unpack(answer.body, GuestDevices).devices)}


def complete(run: Run) -> Output:
    """The volume is in use."""
    services: Services = run.services
    if run.params.host is not None:
        services.volumes.complete(str(_disk(run).attachment_id))
    return {}


def record(tx: Tx, run: Run, output: Output) -> None:
    """The record has the disk for good."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        mine = _disk(run).id
        disks = [d.replace(state="") if d.id == mine else d for d in disks]
        volume_ops.put_disks(tx, run, disks, **guest_orders.device_columns(tx, run))
    volume_ops.closed(tx, run, "guest", ok=True)


def restore(tx: Tx, run: Run) -> None:
    """The record has no such disk."""
    disks = volume_ops.disks_now(tx, run)
    if disks is not None:
        mine = _disk(run).id
        volume_ops.put_disks(tx, run, [d for d in disks if d.id != mine])
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
            Step("reserve", reserve, unreserve, 60.0, record=volume_ops.begin),
            Step(
                "connect",
                connect,
                NoUndo("ends with the attachment"),
                120.0,
                skip=volume_ops.no_host,
            ),
            Ask(
                "guest",
                order_attach,
                plugged,
                order_detach,
                DEADLINE_S,
                park_outside=park,
                skip=volume_ops.no_host,
            ),
            Step("in_use", complete, NoUndo("ends with the attachment"), 60.0, record=record),
        ),
        unwound_record=restore,
    )
)
