"""Confirm a move to another cell: all that the source kept goes, and its records; from then on there is no way back.

    begin        the server is the operation's, in its cell and, for who reads there, in the one that it left
    kept         the source removes the guest and its disks; when it is down it owes that, and what was held stays held
    bindings     the source's bindings go, and its empty attachments
    source       every record in the source cell goes, so that the server can come back there
    claim        the migration gives the old claim back; the quota counts the new size
    finish       ACTIVE, or SHUTOFF when its guest is off

A guest that runs is never touched, whatever goes wrong here (CC-10.8).
"""

from kilonova.common.context import Context
from kilonova.db import actions, mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import GuestDelete, PowerState
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import CrossCellParams, RequestedServer
from kilonova.operations import accept, cleanup, cross_cell, guest_orders, states
from kilonova.operations import cross_cell_places as there
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

NO_UNDO = NoUndo("a confirm is the point of no return of its move")
KIND = "confirm_resize_cross_cell"


def begin(run: Run) -> Output:
    """Take the server, unless the accept did; open the action in both cells (CC-10.2)."""
    cross_cell.in_cell(run, run.params.target_cell, cross_cell.Beginning.of(run).write)
    return {}


def order_remove(run: Run) -> Order:
    """Have the source remove what it kept."""
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, run.params.from_host, "guest_delete", payload, 300.0)


def removed(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def keep_held(tx: Tx, run: Run, order: Order) -> None:
    """The source owes a cleanup: what the migration holds of it stays held until it has done that."""
    services: Services = run.services
    if allocations.held_by(tx, run.params.migration):
        keeper = cleanup.hold_of(run.operation, order.host)
        services.scheduling.hand_over(tx, run.params.migration, keeper, "INSTANCE")


def let_go(run: Run) -> Output:
    """End what the source had of the ports and volumes (CC-10.7)."""
    services: Services = run.services
    services.network.delete_bindings(run.resource, str(run.params.from_host))
    row = cross_cell.find_row(services, run.params.target_cell, run.resource)
    if row is not None:
        cross_cell.drop_attachments_but(run, row)

    def put(tx: Tx) -> None:
        host = run.params.from_host
        cross_cell.event(tx, run, "compute_confirm_snapshot_based_resize_at_source", host)

    cross_cell.in_cell(run, run.params.target_cell, put)
    return {}


def nothing(run: Run) -> Output:
    """Only claims change."""
    return {}


def settle_claims(tx: Tx, run: Run, output: Output) -> None:
    """Give the old claim back; what the server asked for is its new size from now on."""
    services: Services = run.services
    params: CrossCellParams = run.params
    services.scheduling.release(tx, params.migration)
    mapping, new, now = mappings.find(tx, run.resource), params.new_flavor, services.now()
    if mapping is not None and new is not None:
        asked = decode(mapping["requested"], RequestedServer).replace(flavor=new)
        mappings.set_requested(tx, run.resource, encode(asked), now)
        mappings.set_size(tx, run.resource, new.vcpus, new.memory_mib, now)


def finish(run: Run) -> Output:
    """Show the server as its guest is: its owner may have stopped it (CC-10.4, 10.5)."""
    now = run.services.now()

    def put(tx: Tx) -> None:
        row = servers.find(tx, run.resource)
        if row is not None and actions.stands(tx, run.operation) == "open":
            off = row["power_state"] in (PowerState.SHUTDOWN, PowerState.CRASHED)
            servers.set_columns(tx, run.resource, system_metadata=cross_cell.without_old_state(row))
            servers.settle(
                tx,
                run.resource,
                vm_state=states.STOPPED if off else states.ACTIVE,
                power_state=row["power_state"],
                now=now,
            )
        migrations.set_status(tx, run.params.migration, "confirmed", now)
        actions.finish(tx, run.operation, now)

    cross_cell.in_cell(run, run.params.target_cell, put)
    return {}


def unwound(run: Run) -> None:
    """It never began."""
    cross_cell.give_up(run, run.params.target_cell, "finished")


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=CrossCellParams,
        steps=(
            Step(
                "begin",
                begin,
                NoUndo("the end of the unwind does it"),
                30.0,
                point_of_no_return=True,
            ),
            Ask(
                cleanup.KEPT,
                order_remove,
                removed,
                NO_UNDO,
                300.0,
                park=keep_held,
                park_outside=cleanup.park,
            ),
            Step("bindings", let_go, NO_UNDO, 60.0),
            Step("source", there.erase_source, NO_UNDO, 60.0),  # CC-10.3
            Step("claim", nothing, NO_UNDO, 60.0, record=settle_claims),
            Step("finish", finish, NO_UNDO, 60.0),
        ),
        unwound=unwound,
    )
)


def start(services: Services, ctx: Context, found: Found, migration: Row) -> str:
    """Accept the confirm of a move to another cell. Raises Conflict (locked, state), Unavailable: source down."""
    accept.check_lock(ctx, found)
    accept.startable(found, states.TRANSITIONS[KIND])
    cross_cell.check_up(services, migration["source_host"])
    params = cross_cell.params_of(services, found, migration)
    return cross_cell.take(services, ctx, cross_cell.Wanted(SAGA, found, params))
