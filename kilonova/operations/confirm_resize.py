"""Confirm a resize: the old disks and the old claim go; from then on there is no way back.

guest    the host removes what it kept aside
claim    the migration gives the old claim back; the quota counts the new size
"""

from kilonova.common.context import Context
from kilonova.db import mappings, migrations, servers
from kilonova.db.engine import Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import GuestResizeConfirm, PowerState
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import RequestedServer, ResizeParams
from kilonova.operations import (
    accept,
    cleanup,
    confirm_resize_cross_cell,
    guest_orders,
    resizing,
    settling,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import definition, journal
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

NO_UNDO = NoUndo("a confirm is the point of no return of its resize")


def order_confirm(run: Run) -> Order:
    """Have the host remove what it kept."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    payload = GuestResizeConfirm(server_id=run.resource)
    return guest_orders.order(run, row["host"], "guest_resize_confirm", payload, 300.0)


def confirmed(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def release(run: Run) -> Output:
    """Give the old claim back; what the server asked for is its new size from now on.

    What is held of a source that owes a cleanup stays held until it has done that.
    """
    services: Services = run.services
    params: ResizeParams = run.params
    new = params.new_flavor
    if new is None:
        return {}
    owes = run.outputs.get(cleanup.KEPT, {}).get("parked") is True
    keeper = cleanup.hold_of(run.operation, params.from_host or "")

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if not owes:
            services.scheduling.release(tx, params.migration)
        elif allocations.held_by(tx, params.migration):
            services.scheduling.hand_over(tx, params.migration, keeper, "INSTANCE")
        mapping = mappings.find(tx, run.resource)
        if mapping is not None:
            asked = decode(mapping["requested"], RequestedServer).replace(flavor=new)
            mappings.set_requested(tx, run.resource, encode(asked), services.now())
            mappings.set_size(tx, run.resource, new.vcpus, new.memory_mib, services.now())

    services.world.write(put)
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server is ACTIVE, or SHUTOFF when its guest is off."""
    now = run.services.now()
    row = servers.find(tx, run.resource)
    power = PowerState.NOSTATE if row is None else row["power_state"]
    off = power in (PowerState.SHUTDOWN, PowerState.CRASHED)
    settling.succeed(
        tx,
        run,
        states.TRANSITIONS[run.kind],
        vm_state=states.STOPPED if off else states.ACTIVE,
        power_state=power,
        step="claim",
    )
    migrations.set_status(tx, run.params.migration, "confirmed", now)


SAGA = register(
    Saga(
        kind="confirm_resize",
        version=1,
        params=ResizeParams,
        steps=(
            Ask("guest", order_confirm, confirmed, NO_UNDO, 300.0, park_outside=park),
            Step("claim", release, NO_UNDO, 60.0, record=settle),
        ),
        cancellable=False,
        forward_only=True,
    )
)


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept a confirm; return the operation's id. Raises Conflict (locked, state), BadRequest: not resized."""
    check_lock(ctx, found)
    transition = states.TRANSITIONS[SAGA.kind]
    if found.row is None or found.row["vm_state"] != states.RESIZED or found.row["task_state"]:
        raise accept.wrong_state(found.id, transition.verb, found.row)
    migration = resizing.waiting_migration(services, found)
    if migration["cross_cell"]:
        return confirm_resize_cross_cell.start(services, ctx, found, migration)
    source = resizing.source_of(migration, found.row)
    saga = SAGA if source is None else definition.of_kind("confirm_move")
    return accept.on_server(
        services,
        ctx,
        saga,
        found,
        transition,
        Also(
            home=lambda tx, _: migrations.set_status(
                tx, migration["uuid"], "confirming", services.now()
            )
        ),
        migration=migration["uuid"],
        new_flavor=resizing.flavor_of(migration["new_flavor"]),
        old_flavor=resizing.flavor_of(migration["old_flavor"]),
        from_host=source,
    )
