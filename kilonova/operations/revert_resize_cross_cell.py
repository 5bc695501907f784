"""Revert a move to another cell: the server is again where and what it was; its new size is given up.

    begin        the server is the operation's
    away         the destination turns the guest off
    merge        the source's records are brought up to date: volumes, tags, actions, metadata, the migration
    connect      the source reaches the volumes
    activate     the ports' traffic goes to the source
    guest        the source starts the guest over the disks that it kept
    show         the source's record is complete, and not hidden any more
    swap         the mapping names the source cell: from here on only forward; the claims are exchanged with it
    hide         the target's record is hidden
    drop         the destination removes the guest; when it is down it owes that
    release      the destination's bindings and attachments go
    target       every record in the target cell goes
    finish       what was claimed of the destination is free; ACTIVE or SHUTOFF, as before the move

Before ``swap`` everything can be taken back: the server still waits to be confirmed or reverted. What was written to
local disks since the move is lost, as the API says. Volumes attached since then stay attached, detached ones detached.
"""

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.db import actions, mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestDelete, PowerState
from kilonova.objects.move_orders import GuestLeave, GuestReturn
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import CrossCellParams, DiskRequest
from kilonova.operations import (
    accept,
    cleanup,
    cross_cell,
    guest_orders,
    moving,
    resizing,
    server_disks,
    server_volumes,
    states,
)
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, StepFailed, register

NO_UNDO = NoUndo("past the point of no return")
KIND = "revert_resize_cross_cell"
BACK = "back"


def _source(run: Run) -> Row:
    return guest_orders.server_row(run.services, run.params.source_cell, run.resource)


def _target(run: Run) -> Row:
    return guest_orders.server_row(run.services, run.params.target_cell, run.resource)


def _migration(run: Run, tx: Tx) -> Row:
    row = migrations.find(tx, run.params.migration)
    if row is None:
        raise StepFailed("The migration of the server is gone.")
    return row


def _ran(run: Run) -> bool:
    cell = run.services.cell(run.params.source_cell)
    migration = cell.read(lambda tx: _migration(run, tx))
    return bool(migration["old_vm_state"] == states.ACTIVE)


def begin(run: Run) -> Output:
    """Take the server, unless the accept did. Raises Conflict when something else came first."""
    cross_cell.in_cell(run, run.params.target_cell, cross_cell.Beginning.of(run).write)
    return {}


# -- the guest, off there and on here


def order_away(run: Run) -> Order:
    """Have the destination turn the guest off."""
    payload = GuestLeave(server_id=run.resource, timeout_s=run.params.timeout_s)
    return guest_orders.order(run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S)


def order_stay(run: Run) -> Order:
    """Have the destination take the guest back."""
    row = _target(run)
    build = guest_orders.build_of(run.services, row, start=row["power_state"] == PowerState.RUNNING)
    payload = GuestReturn(server_id=run.resource, build=build)
    return guest_orders.order(
        run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def nothing_of(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def merge(run: Run) -> Output:
    """Bring the source's records up to date, while they are hidden still (CC-11.2 to 11.6, 11.11)."""
    services: Services = run.services
    records = services.cell(run.params.target_cell).read(lambda tx: move.read(tx, run.resource))
    disks = _merged(run, _source(run), _target(run))

    def put(tx: Tx) -> None:
        move.take_back(tx, run.resource, records, disks=server_disks.write(disks))
        servers.set_columns(tx, run.resource, task_state="resize_reverting", epoch=run.epoch)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def _merged(run: Run, source: Row, target: Row) -> list[DiskRequest]:
    """Return the local disks as they were, and the volumes as they are, each by an attachment of the source's own.

    A volume that both have keeps the one that the source has; one attached since gets a new, empty one (CC-11.3).
    """
    services: Services = run.services
    local = [d for d in server_disks.read(source) if d.destination == "local"]
    have = {str(d.volume_id): d.attachment_id for d in cross_cell.volumes_of(source)}
    wanted = cross_cell.volumes_of(target)
    found = services.volumes.attachments_of([run.resource]) if wanted else {}
    there = {a.id for a in found.get(run.resource, [])}
    new = [d for d in wanted if have.get(str(d.volume_id)) not in there]
    ids = cross_cell.attach_empty(run, BACK, new)
    volumes = [
        d.replace(attachment_id=ids.get(str(d.volume_id)) or have[str(d.volume_id)]) for d in wanted
    ]
    return sorted([*local, *volumes], key=lambda d: d.boot_index != 0)


def unmerge(run: Run) -> None:
    """The source's record has the volumes that it had; what else was merged only another revert looks at."""
    cell, now = run.params.source_cell, run.services.now()
    migration = run.services.cell(cell).read(lambda tx: _migration(run, tx))
    had = {d.volume_id for d in cross_cell.volumes_of({"disks": migration["old_disks"]})}
    disks = server_disks.read(_source(run))
    kept = [d for d in disks if d.destination == "local" or d.volume_id in had]

    def put(tx: Tx) -> None:
        actions.erase(tx, run.operation)
        servers.set_columns(tx, run.resource, task_state=None, disks=server_disks.write(kept))
        migrations.set_status(tx, run.params.migration, "finished", now)

    cross_cell.in_cell(run, cell, put)
    cross_cell.drop_attachments_but(run, _source(run), _target(run))


def connect(run: Run) -> Output:
    """Let the source reach the volumes. Raises NotYet while that is prepared."""
    server_volumes.connect_all(run.services, _source(run), str(run.params.from_host))
    return {}


def disconnect(run: Run) -> None:
    """Give the source empty attachments again; no host but the destination reaches the volumes."""
    ids = cross_cell.attach_empty(run, "again", cross_cell.volumes_of(_source(run)))
    cell = run.params.source_cell
    cross_cell.in_cell(run, cell, lambda tx: cross_cell.set_attachments(tx, run.resource, ids))
    cross_cell.drop_attachments_but(run, _source(run), _target(run))


def activate(run: Run) -> Output:
    """Let the traffic go to the source."""
    run.services.network.activate_bindings(run.resource, str(run.params.from_host))
    return {}


def deactivate(run: Run) -> None:
    """Let the traffic go to the destination again."""
    run.services.network.activate_bindings(run.resource, str(run.params.host))


def order_return(run: Run) -> Order:
    """Have the source start the guest as it was."""
    build = guest_orders.build_of(
        run.services, _source(run), start=_ran(run), holder=run.params.migration
    )
    payload = GuestReturn(server_id=run.resource, build=build)
    return guest_orders.order(
        run, run.params.from_host, "guest_return", payload, resizing.DEADLINE_S
    )


# -- which copy is seen


def show(run: Run) -> Output:
    """Complete the source's record, as the guest now is; it is not hidden any more (CC-11.7, first)."""
    services: Services = run.services
    guest = run.outputs["guest"]
    server_volumes.complete_all(services, _source(run))

    def put(tx: Tx) -> None:
        servers.set_columns(
            tx,
            run.resource,
            vm_state=_migration(run, tx)["old_vm_state"],
            power_state=guest["power_state"],
            devices=guest["devices"],
            updated_at=services.now(),
        )
        move.hide(tx, run.resource, False)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def unshow(run: Run) -> None:
    """The source's record is hidden again."""

    def put(tx: Tx) -> None:
        move.hide(tx, run.resource, True)
        servers.set_columns(
            tx,
            run.resource,
            vm_state=states.RESIZED,
            task_state=None,
            power_state=int(PowerState.SHUTDOWN),
        )

    cross_cell.in_cell(run, run.params.source_cell, put)


def nothing(run: Run) -> Output:
    """Only the mapping and the claims change."""
    return {}


def swap(tx: Tx, run: Run, output: Output) -> None:
    """Let the server be seen where it was, if nobody asked for anything else since; exchange the claims (CC-11.7).

    What it held of the destination is kept until that has removed the guest.
    """
    services: Services = run.services
    params: CrossCellParams = run.params
    swapped = mappings.swap(
        tx,
        run.resource,
        epoch=run.epoch,
        source=params.target_cell,
        target=params.source_cell,
        host=str(params.from_host),
        now=services.now(),
    )
    if not swapped:
        raise StepFailed("Another operation on the server was accepted meanwhile.")
    if allocations.held_by(tx, params.migration):
        keeper = cleanup.hold_of(run.operation, str(params.host))
        services.scheduling.hand_over(tx, run.resource, keeper, "INSTANCE")
        services.scheduling.hand_over(tx, params.migration, run.resource, "INSTANCE")
    old = params.old_flavor
    if old is not None:
        mappings.set_size(tx, run.resource, old.vcpus, old.memory_mib, services.now())


def hide(run: Run) -> Output:
    """Hide the target's record (CC-11.7, third)."""
    cell = run.params.target_cell
    cross_cell.in_cell(run, cell, lambda tx: move.hide(tx, run.resource, True))
    return {}


# -- what the destination had


def order_drop(run: Run) -> Order:
    """Have the destination remove the guest."""
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, run.params.host, "guest_delete", payload, 300.0)


def release(run: Run) -> Output:
    """End what the destination had of the ports and volumes, and what the source had of those detached since."""
    run.services.network.delete_bindings(run.resource, str(run.params.host))
    cross_cell.drop_attachments_but(run, _source(run))
    return {}


def erase(run: Run) -> Output:
    """Take every record of the server out of the target cell."""
    cell = run.params.target_cell
    cross_cell.in_cell(run, cell, lambda tx: move.remove(tx, run.resource))
    return {}


def finish(run: Run) -> Output:
    """The server is what it was (CC-11.8)."""
    now = run.services.now()

    def put(tx: Tx) -> None:
        row = servers.find(tx, run.resource)
        if row is not None and actions.stands(tx, run.operation) == "open":
            servers.set_columns(tx, run.resource, system_metadata=cross_cell.without_old_state(row))
            servers.settle(
                tx,
                run.resource,
                vm_state=row["vm_state"],
                power_state=row["power_state"],
                now=now,
            )
        host = run.params.host
        cross_cell.event(tx, run, "compute_revert_snapshot_based_resize_at_dest", host)
        host = run.params.from_host
        cross_cell.event(tx, run, "compute_finish_revert_snapshot_based_resize_at_source", host)
        cross_cell.event(tx, run, "conductor_revert_snapshot_based_resize", None)
        migrations.set_status(tx, run.params.migration, "reverted", now)
        actions.finish(tx, run.operation, now)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def free(tx: Tx, run: Run, output: Output) -> None:
    """Free what was claimed of the destination, unless it owes a cleanup: then that does."""
    if run.outputs[cleanup.DROPPED].get("parked") is not True:
        keeper = cleanup.hold_of(run.operation, str(run.params.host))
        run.services.scheduling.release(tx, keeper)


def unwound(run: Run) -> None:
    """It is still in its new cell, and can be confirmed or reverted again (CC-11.9, 11.10)."""
    cross_cell.give_up(run, run.params.target_cell, "finished")


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=CrossCellParams,
        steps=(
            Step("begin", begin, NoUndo("the end of the unwind does it"), 30.0),
            Ask(
                "away",
                order_away,
                nothing_of,
                order_stay,
                resizing.DEADLINE_S,
                park_outside=cleanup.park,
            ),
            Step("merge", merge, unmerge, 60.0),
            Step("connect", connect, disconnect, cross_cell.CONNECT_S),
            Step("activate", activate, deactivate, 60.0),
            Ask(
                "guest",
                order_return,
                moving.arrived,
                moving.order_leave_again,
                resizing.DEADLINE_S,
                park_outside=cleanup.park,
            ),
            Step("show", show, unshow, 60.0),
            Step(
                "swap",
                nothing,
                NoUndo("the last step that can fail"),
                30.0,
                record=swap,
                point_of_no_return=True,
            ),
            Step("hide", hide, NO_UNDO, 60.0),
            Ask(
                cleanup.DROPPED,
                order_drop,
                nothing_of,
                NO_UNDO,
                300.0,
                park_outside=cleanup.park,
            ),
            Step("release", release, NO_UNDO, 60.0),
            Step("target", erase, NO_UNDO, 60.0),
            Step("finish", finish, NO_UNDO, 60.0, record=free),
        ),
        unwound=unwound,
    )
)


def start(services: Services, ctx: Context, found: Found, migration: Row) -> str:
    """Accept the revert of a move to another cell. Raises Conflict (locked, state), Unavailable: a host is down."""
    accept.check_lock(ctx, found)
    row = accept.startable(found, states.TRANSITIONS[KIND])
    cross_cell.check_up(services, migration["source_host"])
    cross_cell.check_up(services, row["host"])
    params = cross_cell.params_of(services, found, migration)
    return cross_cell.take(services, ctx, cross_cell.Wanted(SAGA, found, params))
