"""Bring a server of a dead host back on another one: evacuate.

place      decide on another host of its cell; what the server held of the dead host stays held; it claims the new one
ports      its ports are bound there, its volumes can be reached there
guest      the host makes the guest: of its image, or of the volume that it boots from
moved      the record says where it is; the dead host owes a cleanup: from here on only forward

Only a host that an operator forced down is left: that is the recorded statement that nothing of it runs any more (R13).
When the host returns, it starts nothing of the server and is told to remove it; then what was held of it is free.
Undone, the server is where it was.
"""

from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import mappings, migrations
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.guest import GuestDelete
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import EvacuateParams, FlavorRecord, RequestedServer
from kilonova.operations import (
    accept,
    cleanup,
    guest_orders,
    resizing,
    server_volumes,
    settling,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.server_create import built, order_unbuild
from kilonova.operations.server_unshelve import bind
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import (
    Ask,
    NoUndo,
    Output,
    Retreat,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)

TRANSITION = states.TRANSITIONS["server_evacuate"]
BUILD_S = 1800.0
_encode, _decode = msgspec.json.encode, msgspec.json.decode


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    host: str | None = None,
    force: bool = False,
    stay_off: bool = False,
) -> str:
    """Accept an evacuation; return the operation's id. host: exactly there (force: without asking the filters).

    stay_off: the server is SHUTOFF afterwards (from 2.95 on). Raises Conflict: the state; BadRequest: the host is in
    use, not fenced, unknown, or the one that it is on.
    """
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    check_hosts(services, row["host"], host)
    migration = new_uuid()
    move = resizing.Move(migration, "evacuation", status="accepted")

    def remember(tx: Tx, operation: str) -> None:
        resizing.remember(tx, found, row, move, operation=operation, now=services.now())

    return accept.on_server(
        services,
        ctx,
        SAGA,
        found,
        TRANSITION,
        Also(home=remember),
        migration=migration,
        to_host=host,
        force=force,
        stay_off=stay_off,
    )


def check_hosts(services: Services, source: str, target: str | None) -> None:
    """Refuse a host that may still run the server, and a target that cannot be one."""
    if services.hosts.is_up(source):
        raise BadRequest(f"Compute service of {source} is still in use.")
    state = services.hosts.find(source)
    if state is not None and not state.forced_down:
        raise BadRequest(
            f"Compute service of {source} is down, and nobody said that it is fenced. Make sure that it is off, then "
            "force it down: openstack compute service set --down."
        )
    if target is None:
        return
    if services.hosts.find(target) is None:
        raise BadRequest(f"Compute host {target[:80]} could not be found.")
    if target == source:
        raise BadRequest("The target host can't be the same one.")


# -- the steps


def wanted(run: Run, row: Row) -> RequestedServer:
    """Return what the scheduler is asked."""
    services: Services = run.services
    mapping = services.world.read(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    requested = decode(mapping["requested"], RequestedServer)
    p: EvacuateParams = run.params
    return requested.replace(
        flavor=_decode(row["flavor"], type=FlavorRecord),
        image=guest_orders.system_of(row).image,
        availability_zone=None if p.force else row["requested_zone"],
        requested_host=p.to_host,
        requested_node=None,
        force_host=p.force,
    )


def place(run: Run) -> Output:
    """Choose another host and claim it, in one global transaction; done again, it finds what it chose."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    source = str(run.params.host)
    retreats: Any = run.outputs.get("retreats", ())
    avoid = {source, *(str(note["host"]) for note in retreats)}
    chosen = services.scheduling.place_again(wanted(run, row), run.home, avoid=avoid)
    keeper = cleanup.hold_of(run.operation, source)

    def claim(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        mapping = mappings.find(tx, run.resource)
        if mapping is None:
            raise NotFound(f"Instance {run.resource} could not be found.")
        if mapping["host"] == source:
            services.scheduling.hand_over(tx, run.resource, keeper, "INSTANCE")
        services.scheduling.claim(tx, run.resource, chosen)
        mappings.place(tx, run.resource, cell=run.home, host=chosen["host"], now=services.now())

    services.world.write(claim)
    return {k: chosen[k] for k in ("host", "node", "zone")}


def unplace(run: Run) -> None:
    """Hold of the old host what was held of it, and nothing of another; fine when nothing was claimed."""
    services: Services = run.services
    source = str(run.params.host)
    keeper = cleanup.hold_of(run.operation, source)

    def put_back(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        mapping = mappings.find(tx, run.resource)
        if mapping is None or mapping["host"] == source:
            return
        services.scheduling.release(tx, run.resource)
        services.scheduling.hand_over(tx, keeper, run.resource, "INSTANCE")
        mappings.place(tx, run.resource, cell=run.home, host=source, now=services.now())

    services.world.write(put_back)


def unbind(run: Run) -> None:
    """Bind the ports to the old host again, and let that one reach the volumes when it is back."""
    services: Services = run.services
    bind_back(run, guest_orders.server_row(services, run.home, run.resource))


def bind_back(run: Run, row: Row) -> None:
    """Let the old host have the ports and volumes of a server's record."""
    source = str(run.params.host)
    run.services.network.bind_ports(run.resource, source)
    server_volumes.connect_back(run.services, row, source)


def order_guest(run: Run) -> Order:
    """Have the new host make the guest."""
    services: Services = run.services
    return order_of(run, guest_orders.server_row(services, run.home, run.resource))


def order_of(run: Run, row: Row) -> Order:
    """Return the order to make the guest of a record on the host that was chosen."""
    host, start = run.outputs["place"]["host"], end_state(run) == states.ACTIVE
    build = guest_orders.build_of(run.services, {**dict(row), "host": host}, start=start)
    return guest_orders.order(run, host, "guest_build", build, BUILD_S)


def end_state(run: Run) -> str:
    """Return the vm_state that the server has afterwards."""
    off = run.params.stay_off or run.params.previous_vm_state == states.STOPPED
    return states.STOPPED if off else states.ACTIVE


def failed(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's."""
    message = answer.message or "The host could not build the server."
    if answer.elsewhere and run.params.to_host is None:
        note = {"host": run.outputs["place"]["host"], "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def arrive(run: Run) -> Output:
    """Nothing but the record changes now."""
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server is on its new host; what the old one has of it is to be removed when it returns."""
    params: EvacuateParams = run.params
    where, result = run.outputs["place"], run.outputs["guest"]
    settling.succeed(
        tx,
        run,
        TRANSITION,
        vm_state=end_state(run),
        power_state=result["power_state"],
        step="moved",
        host=where["host"],
        node=where["node"],
        availability_zone=where["zone"],
        hardware=result["hardware"],
        devices=result["devices"],
    )
    now = run.services.now()
    migrations.set_dest(tx, params.migration, where["host"], where["node"], now)
    migrations.set_status(tx, params.migration, "done", now)
    owe(tx, run)


def owe(tx: Tx, run: Run) -> None:
    """Have the old host, when it returns, remove what it has; what is held of it is held until then."""
    source = str(run.params.host)
    order = guest_orders.order(
        run, source, "guest_delete", GuestDelete(server_id=run.resource), 300.0
    )
    keeper = cleanup.hold_of(run.operation, source)
    cleanup.put_record(tx, run.operation, order, run.services.now(), holds=(keeper,))


def fail(tx: Tx, run: Run) -> None:
    """The server is where it was."""
    migrations.set_status(tx, run.params.migration, "failed", run.services.now())
    settling.fail(tx, run, TRANSITION)


SAGA = register(
    Saga(
        kind="server_evacuate",
        version=1,
        params=EvacuateParams,
        steps=(
            Step("place", place, unplace, 30.0),
            Step("ports", bind, unbind, 60.0),
            Ask(
                "guest",
                order_guest,
                built,
                order_unbuild,
                BUILD_S,
                failed=failed,
                park_outside=cleanup.park,
                queue="build",
            ),
            Step(
                cleanup.EVACUATED,
                arrive,
                NoUndo("only the record changes"),
                30.0,
                record=settle,
                point_of_no_return=True,
            ),
        ),
        unwound_record=fail,
    )
)
