"""Revert a resize: the guest is again what it was, its new size is given up.

    guest    the host exchanges what it kept aside with what is there, and starts the guest if it ran before
    claim    the server gives its new claim back and takes over the old one from the migration
    drop     the host removes the disks of the new size

Until the host's answer to the first is recorded everything can be taken back; from then on there is no way back.

What was written to local disks since the resize is lost, as the API says. Volumes attached since then stay attached.
"""

import msgspec

from kilonova.common.context import Context
from kilonova.db import migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import (
    GuestBuilt,
    GuestResize,
    GuestResizeConfirm,
    GuestResizeRevert,
    PowerState,
)
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import ResizeParams
from kilonova.operations import (
    accept,
    guest_orders,
    resizing,
    revert_resize_cross_cell,
    settling,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga import definition
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, StepFailed, register

NO_UNDO = NoUndo("comes after the point of no return")
_encode = msgspec.json.encode


def migration_of(run: Run, tx: Tx) -> Row:
    """Return the migration. Raises StepFailed."""
    row = migrations.find(tx, run.params.migration)
    if row is None:
        raise StepFailed("The migration of the server is gone.")
    return row


def order_revert(run: Run) -> Order:
    """Describe the guest as it was."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    migration = services.cell(run.home).read(lambda tx: migration_of(run, tx))
    disks = resizing.merged_disks(migration["old_disks"], row["disks"])
    build = guest_orders.build_of(
        services,
        resizing.as_row(row, resizing.flavor_of(migration["old_flavor"]), disks),
        start=migration["old_vm_state"] == states.ACTIVE,
        holder=run.params.migration,
    )
    payload = GuestResizeRevert(server_id=run.resource, build=build)
    return guest_orders.order(run, row["host"], "guest_resize_revert", payload, resizing.DEADLINE_S)


def order_resize(run: Run) -> Order:
    """Have the resized guest back."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    running = row["power_state"] == PowerState.RUNNING
    build = guest_orders.build_of(services, row, start=running)
    payload = GuestResize(server_id=run.resource, build=build, timeout_s=0.0)
    return guest_orders.order(
        run, row["host"], "guest_resize_revert", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def order_drop(run: Run) -> Order:
    """Have the host remove the disks of the new size."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    payload = GuestResizeConfirm(server_id=run.resource)
    return guest_orders.order(run, row["host"], "guest_resize_confirm", payload, 300.0)


def dropped(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def reverted(run: Run, answer: Answer) -> Output:
    """Keep what the host says of the guest."""
    result = unpack(answer.body, GuestBuilt)
    return {"power_state": result.power_state, "devices": _encode(result.devices).decode()}


def exchange(run: Run) -> Output:
    """Exchange the claims."""
    resizing.give_back(run)
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server is what it was before the resize."""
    now, guest = run.services.now(), run.outputs["guest"]
    row, migration = servers.find(tx, run.resource), migration_of(run, tx)
    columns = {}
    if row is not None:
        disks = resizing.merged_disks(migration["old_disks"], row["disks"])
        columns = {
            "flavor": migration["old_flavor"],
            "disks": resizing.encoded(disks),
            "devices": guest["devices"],
        }
    settling.succeed(
        tx,
        run,
        states.TRANSITIONS[run.kind],
        vm_state=migration["old_vm_state"],
        power_state=guest["power_state"],
        step="claim",
        **columns,
    )
    migrations.set_status(tx, run.params.migration, "reverted", now)


def unwound_record(tx: Tx, run: Run) -> None:
    """It is still resized, and can be confirmed or reverted again."""
    migrations.set_status(tx, run.params.migration, "finished", run.services.now())
    settling.fail(tx, run, states.TRANSITIONS[run.kind], step="claim")


SAGA = register(
    Saga(
        kind="revert_resize",
        version=1,
        params=ResizeParams,
        steps=(
            Ask(
                "guest",
                order_revert,
                reverted,
                order_resize,
                resizing.DEADLINE_S,
                park_outside=park,
                point_of_no_return=True,
            ),
            Step("claim", exchange, NO_UNDO, 60.0),
            Ask("drop", order_drop, dropped, NO_UNDO, 300.0, record=settle, park_outside=park),
        ),
        unwound_record=unwound_record,
        cancellable=False,
    )
)


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept a revert; return the operation's id. Raises Conflict (locked, state), BadRequest: not resized."""
    check_lock(ctx, found)
    transition = states.TRANSITIONS[SAGA.kind]
    if found.row is None or found.row["vm_state"] != states.RESIZED or found.row["task_state"]:
        raise accept.wrong_state(found.id, transition.verb, found.row)
    migration = resizing.waiting_migration(services, found)
    if migration["cross_cell"]:
        return revert_resize_cross_cell.start(services, ctx, found, migration)
    params: dict[str, object] = {
        "migration": migration["uuid"],
        "new_flavor": resizing.flavor_of(migration["new_flavor"]),
        "old_flavor": resizing.flavor_of(migration["old_flavor"]),
        "from_host": resizing.source_of(migration, found.row),
    }
    saga = SAGA if params["from_host"] is None else definition.of_kind("revert_move")
    return accept.on_server(
        services,
        ctx,
        saga,
        found,
        transition,
        Also(
            home=lambda tx, _: migrations.set_status(
                tx, migration["uuid"], "reverting", services.now()
            )
        ),
        **params,
    )


__all__ = ["SAGA", "ResizeParams", "start"]
