"""Resize a server into another cell, or migrate it there: same uuid, addresses, volumes and history.

    begin        the server is the operation's; its migration is marked cross_cell_move, whatever comes
    check        the network can bind a port to two hosts, else nothing is begun
    place        a host of another cell; the migration takes over the old claim, the server claims there
    records      a complete hidden copy of all records in the target cell, in one transaction
    bindings     the destination prepares for the ports; no traffic goes there yet
    attachments  an empty attachment there for each volume
    ready        the destination says whether it can make the guest; if not, another host is tried
    migrating    the record says that the guest is about to stop
    leave        the source turns the guest off and keeps its disks
    copy, images, upload   the local disks become temporary images (left out when there are none)
    release      the source lets the volumes go; it keeps empty attachments for a revert
    activate     the ports' traffic goes to the destination
    connect      the destination reaches the volumes
    arrive       the destination makes the guest, in its new size
    show         the copy is complete, and not hidden any more
    swap         the mapping names the target cell: from here on only forward
    hide         the source's record is hidden
    finish       the temporary images go; VERIFY_RESIZE

Before ``swap`` everything can be taken back: the guest runs again at its source, with its ports and volumes, and the
target cell has nothing. The mapping alone decides which copy is seen: exactly one, at every instant.
"""

import contextlib
from collections.abc import Mapping

import msgspec

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, migrations, quotas, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import PowerState
from kilonova.objects.image import Image
from kilonova.objects.move_orders import GuestReturn
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import CrossCellParams, FlavorRecord
from kilonova.operations import (
    accept,
    belongings,
    cleanup,
    cross_cell,
    guest_orders,
    move_events,
    moving,
    resizing,
    server_disks,
    server_volumes,
    settling,
    states,
)
from kilonova.operations import cross_cell_places as there
from kilonova.operations.accept import Found
from kilonova.operations.server_create import hold, order_unbuild
from kilonova.operations.services import Services
from kilonova.saga.definition import (
    Ask,
    NotYet,
    NoUndo,
    Output,
    Run,
    Saga,
    Step,
    register,
)
from kilonova.volume.interface import KeeperAway

BACK = "back"
_LEAVE = "compute_prep_snapshot_based_resize_at_source"
_encode = msgspec.json.encode


# -- the source


def to_migrating(run: Run) -> Output:
    """Show that the guest is about to stop (CC-6.1)."""
    services: Services = run.services

    def put(tx: Tx) -> None:
        settling.task(tx, run, "resize_migrating")
        migrations.set_status(tx, run.params.migration, "migrating", services.now())
        host = there.target_host(run)
        cross_cell.event(tx, run, "compute_prep_snapshot_based_resize_at_dest", host)
        move_events.begin(tx, run, _LEAVE, run.params.host)
        move_events.tell_left(tx, run)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def left(run: Run, answer: Answer) -> Output:
    """Note which disks are to be copied."""
    return {"disks": list(moving.to_copy(there.source_row(run), run.params))}


def order_stay(run: Run) -> Order | None:
    """Have the source take the guest back. A server that is to be deleted, and whose volumes are held, stays off."""
    row = there.source_row(run)
    if run.cancelled and _held(run, row):
        return None
    start = run.params.previous_vm_state == states.ACTIVE
    build = guest_orders.build_of(run.services, row, start=start, holder=run.params.migration)
    payload = GuestReturn(server_id=run.resource, build=build)
    return guest_orders.order(
        run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def no_disks(params: CrossCellParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether there is nothing to copy: it boots from a volume and has no disk on its host."""
    return not outputs["leave"]["disks"]


def make_images(run: Run) -> Output:
    """Make a record for each copy; that of the root disk is called as in Nova (CC-6.2)."""
    services: Services = run.services
    row, found = there.source_row(run), {}
    for serial, (disk, container) in run.outputs["copy"]["formats"].items():
        name = f"{row['name']}-resize-temp"
        image = Image(
            id=moving.file_of(run, serial),
            name=name if serial == "root" else f"{name}-{serial}",
            status="queued",
            visibility="private",
            owner=moving.OWNER,
            hidden=True,
            disk_format=disk,
            container_format=container,
        )
        found[serial] = services.images.ensure(_key(run, serial), image).id
    return {"images": found}


def _key(run: Run, serial: str) -> str:
    return f"{run.operation}/{serial}"


def delete_images(run: Run) -> None:
    """Delete the images that were made."""
    services: Services = run.services
    for serial in run.outputs["leave"]["disks"]:
        image = services.images.find_by_key(moving.OWNER, _key(run, serial))
        if image is not None:
            services.images.delete(image.id)


def _held(run: Run, row: Row) -> bool:
    """Tell whether a host that does not answer may still write the server's volumes."""
    return bool(cross_cell.volumes_of(row)) and server_volumes.held(run.services, run.resource)


def release(run: Run) -> Output:
    """Make empty attachments for a revert, then end those by which the source reached the volumes (CC-6.7)."""
    ids = cross_cell.attach_empty(run, BACK, cross_cell.volumes_of(there.source_row(run)))
    cross_cell.in_cell(
        run,
        run.params.source_cell,
        lambda tx: cross_cell.set_attachments(tx, run.resource, ids),
    )
    cross_cell.drop_attachments_but(run, there.source_row(run), there.target_row(run))
    return {}


def take_volumes_back(run: Run) -> None:
    """Let the source reach the volumes again. Raises NotYet while it cannot, or another host may write (R13)."""
    services: Services = run.services
    row = there.source_row(run)
    disks = cross_cell.volumes_of(row)
    cross_cell.drop_made(run, BACK, disks, unnamed=True)
    if _held(run, row):
        if run.cancelled:
            return
        raise NotYet(
            "A host that does not answer may still use the volumes of the server.", after_s=5.0
        )
    for disk in disks:
        with contextlib.suppress(KeeperAway):
            server_volumes.connect(services, str(disk.attachment_id), run.params.host)
    server_volumes.complete_all(services, row)
    # the first ones, where they are still there
    cross_cell.drop_attachments_but(run, row, there.target_row(run))


def activate(run: Run) -> Output:
    """Let the traffic go to the destination; show that the source has done its part (CC-6.4)."""
    services: Services = run.services
    services.network.activate_bindings(run.resource, there.target_host(run))

    def put(tx: Tx) -> None:
        settling.task(tx, run, "resize_migrated")
        servers.set_columns(tx, run.resource, power_state=int(PowerState.SHUTDOWN))
        migrations.set_status(tx, run.params.migration, "post-migrating", services.now())
        actions.end_event(tx, run.operation, _LEAVE, services.now())
        move_events.tell_arriving(tx, run)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def deactivate(run: Run) -> None:
    """Let the traffic go to the source again, before the destination's bindings go (CC-6.8)."""
    run.services.network.activate_bindings(run.resource, str(run.params.host))


# -- the destination


def connect(run: Run) -> Output:
    """Let the destination reach the volumes. Raises NotYet while that is prepared.

    The source is asked for what the guest has there besides disks.
    """
    server_volumes.connect_all(run.services, there.target_row(run), there.target_host(run))
    return {"left": belongings.left_on(run.services, str(run.params.host), run.resource)}


def order_arrive(run: Run) -> Order:
    """Have the destination make the guest."""
    build = there.build_of(run)
    build = belongings.bring(build, run.outputs["connect"].get("left"))
    return guest_orders.order(
        run, there.target_host(run), "guest_build", build, resizing.DEADLINE_S
    )


def show(run: Run) -> Output:
    """Complete the copy, as the guest now is; it is not hidden any more (CC-7.6, first)."""
    services: Services = run.services
    guest, now = run.outputs["arrive"], services.now()
    source, target = there.source_row(run), there.target_row(run)
    server_volumes.complete_all(services, target)

    def put(tx: Tx) -> None:
        there.refresh_copy(tx, run, source)
        servers.set_columns(
            tx,
            run.resource,
            flavor=_encode(moving.new_flavor(run.params)).decode(),
            disks=resizing.encoded(moving.new_disks(target, run.params)),
            hardware=guest["hardware"],
            devices=guest["devices"],
            vm_state=states.RESIZED,
            task_state="resize_finish",
            power_state=guest["power_state"],
            updated_at=now,
        )
        migrations.set_dest(tx, run.params.migration, target["host"], target["node"], now)
        migrations.set_status(tx, run.params.migration, "finished", now)
        move.hide(tx, run.resource, False)

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {}


def hide(run: Run) -> Output:
    """Hide the source's record, whose guest is off (CC-7.6, third); its action has ended."""
    now = run.services.now()
    there.hide_source(run)

    def put(tx: Tx) -> None:
        servers.set_columns(tx, run.resource, vm_state=states.RESIZED, task_state=None)
        migrations.set_status(tx, run.params.migration, "finished", now)
        _finished(tx, run, now, tell=False)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def finish(run: Run) -> Output:
    """Delete the temporary images; the server waits to be confirmed."""
    now = run.services.now()
    delete_images(run)

    def put(tx: Tx) -> None:
        row = servers.find(tx, run.resource)
        if row is not None and actions.stands(tx, run.operation) == "open":
            power = row["power_state"]
            servers.settle(tx, run.resource, vm_state=states.RESIZED, power_state=power, now=now)
        for name in ("prep_snapshot_based_resize_at_dest", "prep_snapshot_based_resize_at_source"):
            host = there.target_host(run) if name.endswith("dest") else run.params.host
            cross_cell.event(tx, run, f"compute_{name}", host)
        _finished(tx, run, now)

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {}


def _finished(tx: Tx, run: Run, now: float, *, tell: bool = True) -> None:
    host = there.target_host(run)
    cross_cell.event(tx, run, "compute_finish_snapshot_based_resize_at_dest", host)
    actions.finish(tx, run.operation, now, tell=tell)


# -- what a failure leaves


def unwound(run: Run) -> None:
    """The server is what and where it was; its migration says that it failed."""
    cross_cell.give_up(run, run.params.source_cell, "error")


def unwound_record(tx: Tx, run: Run) -> None:
    """The quota counts what it counted."""
    old = run.params.old_flavor
    mappings.set_size(tx, run.resource, old.vcpus, old.memory_mib, run.services.now())


_WITH_COPY = NoUndo("goes with the copy, or is set at the end of the unwind")
_ONLY_ON = NoUndo("past the point of no return")
STEPS: tuple[Step | Ask, ...] = (
    Step("begin", there.begin, _WITH_COPY, 30.0),
    Step("check", there.check, NoUndo("only looks"), 30.0),
    Step(
        "place",
        there.place,
        NoUndo("the claims are rows of home: unclaim takes them back"),
        60.0,
        record=there.claim,
        unrecord=there.unclaim,
    ),
    Step("records", there.copy_records, there.remove_copy, 60.0),
    Step("bindings", there.bind, there.unbind, 60.0),
    Step("attachments", there.attach, there.unattach, 60.0),
    Ask(
        "ready",
        there.order_check,
        there.checked,
        NoUndo("makes nothing"),
        60.0,
        failed=there.refused,
    ),
    Step("migrating", to_migrating, _WITH_COPY, 30.0),
    Ask(
        "leave",
        moving.order_leave,
        left,
        order_stay,
        resizing.DEADLINE_S,
        park_outside=cleanup.park,
    ),
    Ask(
        "copy",
        moving.order_copy,
        moving.copied,
        moving.order_drop_copies,
        moving.COPY_S,
        park_outside=cleanup.park,
        skip=no_disks,
    ),
    Step("images", make_images, delete_images, 60.0, skip=no_disks),
    Ask(
        "upload",
        moving.order_upload,
        moving.uploaded,
        NoUndo("the images go with the step before"),
        moving.COPY_S,
        skip=no_disks,
    ),
    Step("release", release, take_volumes_back, 60.0),
    Step("activate", activate, deactivate, 60.0),
    Step("connect", connect, NoUndo("ends with the attachments"), cross_cell.CONNECT_S),
    Ask(
        "arrive",
        order_arrive,
        moving.arrived,
        order_unbuild,
        resizing.DEADLINE_S,
        park=hold,
        park_outside=cleanup.park,
        queue="build",
    ),
    Step("show", show, there.unshow, 60.0),
    there.SWAP,
    Step("hide", hide, _ONLY_ON, 60.0),
    Step("finish", finish, _ONLY_ON, 60.0),
)
RESIZE, MIGRATE = (
    register(
        Saga(
            kind=kind,
            version=1,
            params=CrossCellParams,
            steps=STEPS,
            unwound=unwound,
            unwound_record=unwound_record,
        )
    )
    for kind in ("server_resize_cross_cell", "server_migrate_cross_cell")
)


# -- the accept


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    flavor: FlavorRecord | None = None,
    host: str | None = None,
    timeout_s: float = 60.0,
) -> str | None:
    """Accept a resize (flavor None: a cold migration) into another cell; return the operation's id.

    None: the scheduler prefers a host of the server's own cell, or finds none; the move in the cell says so then. The
    caller was asked for the policy. host: exactly there. Raises Conflict (locked, state), QuotaExceeded, BadRequest.
    """
    accept.check_lock(ctx, found)
    saga = MIGRATE if flavor is None else RESIZE
    row = accept.startable(found, states.TRANSITIONS[saga.kind])
    cell, old = found.mapping["cell"], resizing.flavor_of(row["flavor"])
    params = CrossCellParams(
        server_id=found.id, new_flavor=flavor or old, old_flavor=old, to_host=host
    )
    target = _cell_of_choice(services, params, row, cell)
    if target in (None, cell):
        return None
    resizing.check_host(services, row)
    new = moving.new_flavor(params)
    _check_disk(row, old, new)

    def enlarge(tx: Tx) -> None:
        if flavor is not None:
            more = (new.vcpus - old.vcpus, new.memory_mib - old.memory_mib)
            project, user = found.mapping["project_id"], found.mapping["user_id"]
            quotas.check_growth(tx, project, user, vcpus=more[0], memory_mib=more[1])
        most = (max(new.vcpus, old.vcpus), max(new.memory_mib, old.memory_mib))
        mappings.set_size(tx, found.id, *most, services.now())

    more = {
        "migration": new_uuid(),
        "new_flavor": new,
        "old_flavor": old,
        "to_host": host,
        "source_cell": cell,
        "target_cell": target,
        "timeout_s": timeout_s,
    }
    return cross_cell.take(services, ctx, cross_cell.Wanted(saga, found, more, enlarge))


def _cell_of_choice(services: Services, params: CrossCellParams, row: Row, cell: str) -> str | None:
    """Return the cell that the scheduler would take, None when there is no host at all."""
    same = services.setting("allow_resize_to_same_host", True)
    stays = same and params.new_flavor != params.old_flavor
    asked = there.wanted(services, params, row)
    return there.cell_of_choice(services, asked, cell, set() if stays else {row["host"]})


def _check_disk(row: Row, old: FlavorRecord, new: FlavorRecord) -> None:
    backed = resizing.is_volume_backed(server_disks.read(row))
    if new.root_gib == 0 and old.root_gib != 0 and not backed:
        raise BadRequest(
            "Server disk was unable to be resized because: Resize to zero disk flavor is not allowed."
        )
