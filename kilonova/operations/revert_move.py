"""Revert a move to another host: the guest is again where it was and what it was, its new size is given up.

    away     the destination turns the guest off
    ports    the ports are bound to the source again, the volumes reached from there
    guest    the source starts the guest over the disks that it kept
    claim    the server holds again what it held; what is claimed of the destination stays held
    drop     the destination removes the guest; when it is down it owes that
    free     what was claimed of it is free, unless it owes something

Until the source's answer is recorded everything can be taken back; from then on there is no way back. What was written
to local disks since the move is lost, as the API says. Volumes attached since then stay attached.
"""

import msgspec

from kilonova.db import mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestDelete, PowerState
from kilonova.objects.move_orders import GuestLeave, GuestReturn
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import ResizeParams
from kilonova.operations import (
    cleanup,
    guest_orders,
    moving,
    resizing,
    server_volumes,
    settling,
    states,
)
from kilonova.operations.revert_resize import migration_of, reverted
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

NO_UNDO = NoUndo("comes after the point of no return")
_encode = msgspec.json.encode


def order_away(run: Run) -> Order | None:
    """Have the destination turn the guest off; one that was forced down is declared dead: nothing runs there (R13)."""
    state = run.services.hosts.find(run.params.host)
    if state is not None and state.forced_down:
        return None
    payload = GuestLeave(server_id=run.resource, timeout_s=run.params.timeout_s)
    return guest_orders.order(run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S)


def order_stay(run: Run) -> Order:
    """Have the destination take the guest back."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    running = row["power_state"] == PowerState.RUNNING
    payload = GuestReturn(
        server_id=run.resource, build=guest_orders.build_of(services, row, start=running)
    )
    return guest_orders.order(
        run, run.params.host, "guest_leave", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def nothing(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def bind_back(run: Run) -> Output:
    """Bind the ports to the source, and let it reach the volumes. Raises NotYet while that is prepared."""
    services: Services = run.services
    source = str(run.params.from_host)
    services.network.bind_ports(run.resource, source)
    row = guest_orders.server_row(services, run.home, run.resource)
    server_volumes.connect_all(services, row, source)
    return {}


def bind_again(run: Run) -> None:
    """Bind the ports to the destination again, and let that one reach the volumes."""
    services: Services = run.services
    here = str(run.params.host)
    services.network.bind_ports(run.resource, here)
    row = guest_orders.server_row(services, run.home, run.resource)
    server_volumes.connect_back(services, row, here)


def order_return(run: Run) -> Order:
    """Have the source start the guest as it was."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    migration = services.cell(run.home).read(lambda tx: migration_of(run, tx))
    build = guest_orders.build_of(
        services,
        _as_it_was(services, row, migration),
        start=_ran(migration),
        holder=run.params.migration,
    )
    payload = GuestReturn(server_id=run.resource, build=build)
    return guest_orders.order(
        run, run.params.from_host, "guest_return", payload, resizing.DEADLINE_S
    )


def _ran(migration: Row) -> bool:
    return bool(migration["old_vm_state"] == states.ACTIVE)


def _as_it_was(services: Services, row: Row, migration: Row) -> dict[str, object]:
    disks = resizing.merged_disks(migration["old_disks"], row["disks"])
    source = migration["source_host"]
    return {
        **resizing.as_row(row, resizing.flavor_of(migration["old_flavor"]), disks),
        "host": source,
        "availability_zone": services.scheduling.zone_of(source),
    }


def exchange(run: Run) -> Output:
    """The server holds its old size; a keeper holds the new one until the destination has removed the guest."""
    services: Services = run.services
    keeper = cleanup.hold_of(run.operation, str(run.params.host))
    migration = run.params.migration

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if allocations.held_by(tx, migration):
            services.scheduling.hand_over(tx, run.resource, keeper, "INSTANCE")
            services.scheduling.hand_over(tx, migration, run.resource, "INSTANCE")
        old, now = run.params.old_flavor, services.now()
        mappings.place(tx, run.resource, cell=run.home, host=run.params.from_host, now=now)
        mappings.set_size(tx, run.resource, old.vcpus, old.memory_mib, now)

    services.world.write(put)
    return {}


def order_drop(run: Run) -> Order:
    """Have the destination remove the guest."""
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, run.params.host, "guest_delete", payload, 300.0)


def free(run: Run) -> Output:
    """Free what was claimed of the destination, unless it owes a cleanup: then that does."""
    services: Services = run.services
    if run.outputs[cleanup.DROPPED].get("parked") is True:
        return {}
    keeper = cleanup.hold_of(run.operation, str(run.params.host))

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.release(tx, keeper)

    services.world.write(put)
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server is what and where it was before."""
    services: Services = run.services
    guest, migration = run.outputs["guest"], migration_of(run, tx)
    row = servers.find(tx, run.resource)
    columns = {}
    if row is not None:
        disks = resizing.merged_disks(migration["old_disks"], row["disks"])
        columns = {
            "flavor": migration["old_flavor"],
            "disks": resizing.encoded(disks),
            "devices": guest["devices"],
            "host": migration["source_host"],
            "node": migration["source_node"],
            "availability_zone": services.scheduling.zone_of(migration["source_host"]),
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
    migrations.set_status(tx, run.params.migration, "reverted", services.now())


def unwound_record(tx: Tx, run: Run) -> None:
    """It is still on its destination, and can be confirmed or reverted again."""
    migrations.set_status(tx, run.params.migration, "finished", run.services.now())
    settling.fail(tx, run, states.TRANSITIONS[run.kind], step="claim")


SAGA = register(
    Saga(
        kind="revert_move",
        version=1,
        params=ResizeParams,
        steps=(
            Ask(
                "away",
                order_away,
                nothing,
                order_stay,
                resizing.DEADLINE_S,
                park_outside=cleanup.park,
            ),
            Step("ports", bind_back, bind_again, 60.0),
            Ask(
                "guest",
                order_return,
                reverted,
                moving.order_leave_again,
                resizing.DEADLINE_S,
                park_outside=cleanup.park,
                point_of_no_return=True,
            ),
            Step("claim", exchange, NO_UNDO, 60.0),
            Ask(cleanup.DROPPED, order_drop, nothing, NO_UNDO, 300.0, park_outside=cleanup.park),
            Step("free", free, NO_UNDO, 60.0, record=settle),
        ),
        unwound_record=unwound_record,
        cancellable=False,
    )
)
