"""How a server gets to another host of its cell: the steps that a resize and a cold migration share.

leave     the source turns the guest off; it stays there with its disks until the move is confirmed or reverted
copy      the source copies the local disks to files
images    an image record for each copy, nobody's but ours
upload    the source gives the copies to the image service
dest      the destination: the one that was decided first, or another after one that could not make the guest
ports     the ports are bound there, the volumes reached from there
arrive    the destination makes the guest of the images, in its new size
moved     the images go; the record says where the server is

A server without local disks leaves out what copies them. Undone, the guest is on its source as it was. Why images:
docs/decisions/moves-by-temporary-images.md.
"""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.db import migrations
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestBuild, GuestBuilt, GuestDelete, LocalDisk
from kilonova.objects.image import Image
from kilonova.objects.move_orders import (
    DisksCopied,
    GuestCopyDisks,
    GuestLeave,
    GuestReturn,
    GuestSendDisks,
)
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import DiskRequest, FlavorRecord, ResizeParams
from kilonova.operations import (
    belongings,
    cleanup,
    guest_orders,
    images,
    move_events,
    move_places,
    resizing,
    server_disks,
    server_volumes,
    settling,
    states,
)
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import (
    Ask,
    NoUndo,
    Output,
    Retreat,
    Run,
    Step,
    StepFailed,
)

COPY_S = 7200.0
OWNER = "kilonova-moves"
"""The owner of the images: no project, so that nobody sees, counts or deletes them."""
_decode, _encode = msgspec.json.decode, msgspec.json.encode


def decided(tx: Tx, run: Run, output: Output) -> None:
    """The migration says where to."""
    migration, now = run.params.migration, run.services.now()
    migrations.set_dest(tx, migration, output["host"], output["node"], now)
    migrations.set_status(tx, migration, "migrating", now)
    if output["moves"]:
        settling.task(tx, run, "resize_migrating")
        move_events.prepared(tx, run, output["host"])
    else:
        move_events.tell_left(tx, run)


def stays(params: ResizeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server stays on its host."""
    return not outputs["claim"].get("moves", False)


def has_no_disks(params: ResizeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether there is nothing to copy."""
    return stays(params, outputs) or not outputs["leave"]["disks"]


# -- the source


def order_leave(run: Run) -> Order:
    """Have the source turn the guest off."""
    payload = GuestLeave(server_id=run.resource, timeout_s=run.params.timeout_s)
    return guest_orders.order(
        run, run.params.host, "guest_leave", payload, run.params.timeout_s + resizing.DEADLINE_S
    )


def order_stay(run: Run) -> Order:
    """Have the source take the guest back: its row has not changed yet."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    start = run.params.previous_vm_state == states.ACTIVE
    payload = GuestReturn(
        server_id=run.resource,
        build=guest_orders.build_of(services, row, start=start, holder=run.params.migration),
    )
    return guest_orders.order(
        run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def left(run: Run, answer: Answer) -> Output:
    """Note which disks are to be copied."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    return {"disks": list(to_copy(row, run.params))}


def to_copy(row: Row, params: ResizeParams) -> tuple[str, ...]:
    """Return the names of the local disks whose content goes along: all but swap and what the new flavor has not."""
    kept = {d.name for d in new_disks(row, params)}
    return tuple(
        d.name
        for d in server_disks.read(row)
        if d.destination == "local" and d.name != "swap" and d.name in kept
    )


def file_of(run: Run, serial: str) -> str:
    """Return the name of a copy on its host."""
    return str(uuid.uuid5(uuid.UUID(run.operation), serial))


def order_copy(run: Run) -> Order:
    """Have the source copy its disks."""
    return guest_orders.order(run, run.params.host, "guest_copy_disks", _copies(run), COPY_S)


def order_drop_copies(run: Run) -> Order:
    """Have the source end copies, or their upload, and remove the files."""
    return guest_orders.order(
        run, run.params.host, "guest_copy_disks", _copies(run), 120.0, Direction.UNDO
    )


def _copies(run: Run) -> GuestCopyDisks:
    disks = tuple((s, file_of(run, s)) for s in run.outputs["leave"]["disks"])
    return GuestCopyDisks(server_id=run.resource, disks=disks)


def copied(run: Run, answer: Answer) -> Output:
    """Keep what the driver says of its copies."""
    result = unpack(answer.body, DisksCopied)
    return {"formats": {c.serial: [c.disk_format, c.container_format] for c in result.copies}}


def _key(run: Run, serial: str) -> str:
    return f"{run.operation}/{serial}"


def make_images(run: Run) -> Output:
    """Make a record for each copy."""
    services: Services = run.services
    found = {}
    for serial, (disk, container) in run.outputs["copy"]["formats"].items():
        wanted = Image(
            id=file_of(run, serial),
            name=f"move of {serial}",
            status="queued",
            visibility="private",
            owner=OWNER,
            hidden=True,
            disk_format=disk,
            container_format=container,
        )
        found[serial] = services.images.ensure(_key(run, serial), wanted).id
    return {"images": found}


def delete_images(run: Run) -> None:
    """Delete the images that were made."""
    services: Services = run.services
    for serial in run.outputs["leave"]["disks"]:
        image = services.images.find_by_key(OWNER, _key(run, serial))
        if image is not None:
            services.images.delete(image.id)


def order_upload(run: Run) -> Order:
    """Have the source give its copies to the image service."""
    made = run.outputs["images"]["images"]
    host, url = run.params.host, run.services.image_url
    files = tuple((file_of(run, s), url(image, host, "PUT")) for s, image in made.items())
    payload = GuestSendDisks(server_id=run.resource, files=files)
    return guest_orders.order(run, host, "guest_send_disks", payload, COPY_S)


def uploaded(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


# -- the destination


def destination(run: Run) -> Output:
    """Say which host it is; after a retreat choose and claim another one."""
    params: ResizeParams = run.params
    retreats: Any = run.outputs.get("retreats", ())
    if not retreats:
        first = run.outputs["claim"]
        return {k: first[k] for k in ("host", "node", "zone")}
    tried = {str(note["host"]) for note in retreats}
    where = move_places.decide(run, avoid={str(params.host), *tried})
    move_places.take(run, where)
    return {k: where[k] for k in ("host", "node", "zone")}


def going(tx: Tx, run: Run, output: Output) -> None:
    """The source has done its part."""
    migration, now = run.params.migration, run.services.now()
    migrations.set_dest(tx, migration, output["host"], output["node"], now)
    migrations.set_status(tx, migration, "post-migrating", now)
    settling.task(tx, run, "resize_migrated")
    move_events.left(tx, run, output["host"], first="retreats" not in run.outputs)


def bind(run: Run) -> Output:
    """Bind the ports to the destination, and let it reach the volumes. Raises NotYet while that is prepared.

    The source is asked for what the guest has there besides disks.
    """
    services: Services = run.services
    host = run.outputs["dest"]["host"]
    services.network.bind_ports(run.resource, host)
    row = guest_orders.server_row(services, run.home, run.resource)
    server_volumes.connect_all(services, row, host)
    return {"left": belongings.left_on(services, str(run.params.host), run.resource)}


def bound(tx: Tx, run: Run, output: Output) -> None:
    """The destination makes the guest now."""
    settling.task(tx, run, "resize_finish")


def unbind(run: Run) -> None:
    """Bind the ports to the source again, and let that one reach the volumes."""
    services: Services = run.services
    source = str(run.params.host)
    services.network.bind_ports(run.resource, source)
    row = guest_orders.server_row(services, run.home, run.resource)
    server_volumes.connect_back(services, row, source)


def order_arrive(run: Run) -> Order:
    """Have the destination make the guest."""
    host = run.outputs["dest"]["host"]
    build = belongings.bring(_build(run), run.outputs["ports"].get("left"))
    return guest_orders.order(run, host, "guest_build", build, resizing.DEADLINE_S)


def _build(run: Run) -> GuestBuild:
    """Return the guest in its new size, its disks made of the images that were sent. Raises StepFailed."""
    services: Services = run.services
    params: ResizeParams = run.params
    row = guest_orders.server_row(services, run.home, run.resource)
    where = run.outputs["dest"]
    there = {
        **resizing.as_row(row, new_flavor(params), new_disks(row, params)),
        "host": where["host"],
        "availability_zone": where["zone"],
    }
    start = params.previous_vm_state == states.ACTIVE
    build = guest_orders.build_of(services, there, start=start)
    made: Mapping[str, str] = run.outputs.get("images", {}).get("images", {})
    return of_copies(services, build, made, where["host"])


def of_copies(
    services: Services, build: GuestBuild, made: Mapping[str, str], host: str
) -> GuestBuild:
    """Return the guest with its local disks made of copies. made: disk -> image. Raises StepFailed: one is gone."""
    sources = []
    for image_id in made.values():
        image = services.images.find(image_id)
        if image is None or image.status != "active":
            raise StepFailed("The copy of a disk of the server is gone.")
        sources.append(guest_orders.source_of(services, host, images.record(image)))
    disks = tuple(
        d.replace(image_id=made[d.name]) if isinstance(d, LocalDisk) and d.name in made else d
        for d in build.disks
    )
    return build.replace(disks=disks, images=tuple(sources))


def order_leave_again(run: Run) -> Order:
    """Have the source turn the guest off again."""
    payload = GuestLeave(server_id=run.resource, timeout_s=0.0)
    return guest_orders.order(
        run, run.params.from_host, "guest_return", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def arrived(run: Run, answer: Answer) -> Output:
    """Keep what the destination says of the guest."""
    result = unpack(answer.body, GuestBuilt)
    return {
        "power_state": result.power_state,
        "hardware": _encode(result.hardware).decode(),
        "devices": _encode(result.devices).decode(),
    }


def not_arrived(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's."""
    message = answer.message or "The host could not build the server."
    if answer.elsewhere and run.params.to_host is None:
        note = {"host": run.outputs["dest"]["host"], "why": message}
        raise Retreat(message, to="dest", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def order_unmake(run: Run) -> Order | None:
    """Have the destination remove what it made."""
    where = run.outputs.get("dest")
    if where is None:
        return None
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, where["host"], "guest_build", payload, 120.0, Direction.UNDO)


def park_unmade(run: Run, order: Order) -> None:
    """The destination did not confirm that it removed the guest: what is claimed of it stays claimed until it does."""
    services: Services = run.services
    keeper = cleanup.hold_of(run.operation, order.host)

    def hold(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if allocations.held_by(tx, run.resource):
            services.scheduling.hand_over(tx, run.resource, keeper, "INSTANCE")

    services.world.write(hold)
    cleanup.park(run, order)


def arrive_for_good(run: Run) -> Output:
    """Delete the images; the volumes are in use at the destination."""
    if run.outputs["leave"]["disks"]:
        delete_images(run)
    row = guest_orders.server_row(run.services, run.home, run.resource)
    server_volumes.complete_all(run.services, row)
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server is on its destination, in its new size, and waits to be confirmed."""
    params: ResizeParams = run.params
    where, guest = run.outputs["dest"], run.outputs["arrive"]
    row = guest_orders.row_in(tx, run.resource)
    move_events.arrived(tx, run)
    settling.succeed(
        tx,
        run,
        states.TRANSITIONS[run.kind],
        vm_state=states.RESIZED,
        power_state=guest["power_state"],
        told=True,
        host=where["host"],
        node=where["node"],
        availability_zone=where["zone"],
        flavor=_encode(new_flavor(params)).decode(),
        disks=resizing.encoded(new_disks(row, params)),
        hardware=guest["hardware"],
        devices=guest["devices"],
    )
    migrations.set_status(tx, params.migration, "finished", run.services.now())


def unwound_record(tx: Tx, run: Run) -> None:
    """The server is as it was; its migration says that it failed."""
    migrations.set_status(tx, run.params.migration, "error", run.services.now())
    told = move_events.failed(tx, run)
    settling.fail(tx, run, states.TRANSITIONS[run.kind], told=told)


# -- what both sizes are


def new_flavor(params: ResizeParams) -> FlavorRecord:
    """Return the flavor that the server gets."""
    return resizing.new_flavor(params)


def new_disks(row: Row, params: ResizeParams) -> tuple[DiskRequest, ...]:
    """Return the server's disks under its new flavor."""
    new = new_flavor(params)
    return resizing.disks_for(server_disks.read(row), params.old_flavor or new, new)


_KEPT = NoUndo("the undo of the step before removes it")
CLAIM = Step("claim", move_places.claim, resizing.give_back, 60.0, record=decided)
STEPS: tuple[Step | Ask, ...] = (
    Ask(
        "leave",
        order_leave,
        left,
        order_stay,
        resizing.DEADLINE_S,
        park_outside=cleanup.park,
        skip=stays,
    ),
    Ask(
        "copy",
        order_copy,
        copied,
        order_drop_copies,
        COPY_S,
        park_outside=cleanup.park,
        skip=has_no_disks,
    ),
    Step("images", make_images, delete_images, 60.0, skip=has_no_disks),
    Ask("upload", order_upload, uploaded, _KEPT, COPY_S, skip=has_no_disks),
    Step(
        "dest",
        destination,
        NoUndo("what it claims is given back with the rest"),
        60.0,
        record=going,
        skip=stays,
    ),
    Step("ports", bind, unbind, 60.0, record=bound, skip=stays),
    Ask(
        "arrive",
        order_arrive,
        arrived,
        order_unmake,
        resizing.DEADLINE_S,
        failed=not_arrived,
        park_outside=park_unmade,
        queue="build",
        skip=stays,
    ),
    Step(
        "moved", arrive_for_good, NoUndo("the record changes last"), 60.0, record=settle, skip=stays
    ),
)
"""After CLAIM. They need: ResizeParams, ``host`` the source, and the server's row in the database that is home."""
