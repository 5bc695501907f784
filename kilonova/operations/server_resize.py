"""Resize a server on its host: another flavor, with the old claim and the old disks kept until it is confirmed.

    claim    the migration takes over the old claim, the server claims the new size, in one global transaction
    guest    the host shuts the guest down, keeps its disks aside, grows them, starts it in its new size

The quota counts the larger of both sizes from the acceptance on. Unwound, the server is as it was before.
"""

from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import flavors, mappings, migrations, quotas, servers
from kilonova.db.engine import Tx
from kilonova.objects.base import decode
from kilonova.objects.guest import GuestBuilt, GuestResize, GuestResizeRevert
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import DiskRequest, FlavorRecord, RequestedServer, ResizeParams
from kilonova.operations import accept, guest_orders, resizing, settling, states
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import Ask, Output, Run, Saga, Step, register

_decode = msgspec.json.decode
_encode = msgspec.json.encode


def claim(run: Run) -> Output:
    """Decide on the server's own host, then move the claims; done again it finds them moved."""
    services: Services = run.services
    params: ResizeParams = run.params
    mapping = services.world.read(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    if services.world.read(lambda tx: allocations.held_by(tx, params.migration)):
        return {"host": params.host}
    requested = decode(mapping["requested"], RequestedServer)
    wanted = requested.replace(
        flavor=params.new_flavor,
        requested_host=params.host,
        requested_node=None,
        force_host=False,
        hints={},
    )
    where = services.scheduling.place(wanted, avoid=frozenset())

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.hand_over(tx, run.resource, params.migration, "MIGRATION")
        services.scheduling.claim(tx, run.resource, where)

    services.world.write(put)
    return {"host": where["host"]}


def order_resize(run: Run) -> Order:
    """Describe the guest in its new size."""
    services: Services = run.services
    params: ResizeParams = run.params
    row = guest_orders.server_row(services, run.home, run.resource)
    disks = _new_disks(row["disks"], params)
    build = guest_orders.build_of(
        services,
        resizing.as_row(row, _new(params), disks),
        start=params.previous_vm_state == states.ACTIVE,
    )
    payload = GuestResize(server_id=run.resource, build=build, timeout_s=params.timeout_s)
    return guest_orders.order(run, row["host"], "guest_resize", payload, resizing.DEADLINE_S)


def order_revert(run: Run) -> Order:
    """Describe the guest as it was: its row has not changed yet."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    build = guest_orders.build_of(
        services, row, start=run.params.previous_vm_state == states.ACTIVE
    )
    payload = GuestResizeRevert(server_id=run.resource, build=build)
    return guest_orders.order(
        run, row["host"], "guest_resize", payload, resizing.DEADLINE_S, Direction.UNDO
    )


def resized(run: Run, answer: Answer) -> Output:
    """Keep what the host says of the guest."""
    result = unpack(answer.body, GuestBuilt)
    return {
        "power_state": result.power_state,
        "devices": _encode(result.devices).decode(),
    }


def settle(tx: Tx, run: Run, output: Output) -> None:
    """The server has its new size and waits to be confirmed."""
    params: ResizeParams = run.params
    now = run.services.now()
    row = servers.find(tx, run.resource)
    columns = {}
    if row is not None:
        columns = {
            "flavor": _encode(_new(params)).decode(),
            "disks": resizing.encoded(_new_disks(row["disks"], params)),
            "devices": output["devices"],
        }
    settling.succeed(
        tx,
        run,
        states.TRANSITIONS[run.kind],
        vm_state=states.RESIZED,
        power_state=output["power_state"],
        **columns,
    )
    migrations.set_status(tx, params.migration, "finished", now)


def unwound_record(tx: Tx, run: Run) -> None:
    """The server is as it was; its migration says that it failed."""
    migrations.set_status(tx, run.params.migration, "error", run.services.now())
    settling.fail(tx, run, states.TRANSITIONS[run.kind])


def _new(params: ResizeParams) -> FlavorRecord:
    if params.new_flavor is None:
        raise BadRequest("The resize names no flavor.")
    return params.new_flavor


def _new_disks(disks: str, params: ResizeParams) -> tuple[DiskRequest, ...]:
    old = params.old_flavor or _new(params)
    return resizing.disks_for(_decode(disks, type=list[DiskRequest]), old, _new(params))


SAGA = register(
    Saga(
        kind="server_resize",
        version=1,
        params=ResizeParams,
        steps=(
            Step("claim", claim, resizing.give_back, 60.0),
            Ask(
                "guest",
                order_resize,
                resized,
                order_revert,
                resizing.DEADLINE_S,
                record=settle,
                park_outside=park,
                queue="build",
            ),
        ),
        unwound=resizing.give_back,
        unwound_record=unwound_record,
    )
)


def start(
    services: Services, ctx: Context, found: Found, flavor_id: str, timeout_s: float = 60.0
) -> str:
    """Accept a resize; return the operation's id.

    Raises Conflict (locked, state), BadRequest (flavor unknown, the same, or without a disk), QuotaExceeded.
    """
    check_lock(ctx, found)
    transition = states.TRANSITIONS[SAGA.kind]
    row = found.row
    if row is None or row["vm_state"] not in transition.start or row["task_state"] is not None:
        raise accept.wrong_state(found.id, transition.verb, row)
    old = resizing.flavor_of(row["flavor"])
    new = _wanted(services, ctx, flavor_id, old)
    disks = _decode(row["disks"], type=list[DiskRequest])
    if new.root_gib == 0 and old.root_gib != 0 and not resizing.is_volume_backed(disks):
        raise BadRequest(
            "Server disk was unable to be resized because: Resize to zero disk flavor is not allowed."
        )
    migration, now = new_uuid(), services.now()

    def enlarge(tx: Tx) -> None:
        more = (new.vcpus - old.vcpus, new.memory_mib - old.memory_mib)
        project, user = found.mapping["project_id"], found.mapping["user_id"]
        quotas.check_growth(tx, project, user, vcpus=more[0], memory_mib=more[1])
        most = (max(new.vcpus, old.vcpus), max(new.memory_mib, old.memory_mib))
        mappings.set_size(tx, found.id, *most, now)

    def remember(tx: Tx, operation: str) -> None:
        _remember(tx, found, row, operation=operation, migration=migration, new=new, now=now)

    return accept.on_server(
        services,
        ctx,
        SAGA,
        found,
        transition,
        Also(world=enlarge, home=remember),
        timeout_s=timeout_s,
        migration=migration,
        new_flavor=new,
        old_flavor=old,
    )


def _wanted(services: Services, ctx: Context, flavor_id: str, old: FlavorRecord) -> FlavorRecord:
    row = services.world.read(
        lambda tx: flavors.find_for(tx, flavor_id, ctx.project_id, admin=ctx.is_admin)
    )
    if row is None or (row["disabled"] and row["flavorid"] != old.flavorid):
        raise BadRequest(f"Flavor {flavor_id[:80]} could not be found.")
    if row["flavorid"] == old.flavorid:
        raise BadRequest("When resizing, instances must change flavor!")
    return flavors.record(row)


def _remember(
    tx: Tx,
    found: Found,
    row: Any,
    *,
    operation: str,
    migration: str,
    new: FlavorRecord,
    now: float,
) -> None:
    """Write the migration, with what the server was."""
    migrations.add(
        tx,
        uuid=migration,
        server=found.id,
        project_id=found.mapping["project_id"],
        user_id=found.mapping["user_id"],
        operation=operation,
        kind="resize",
        status="migrating",
        source_host=row["host"],
        source_node=row["node"] or row["host"],
        dest_host=row["host"],
        dest_node=row["node"] or row["host"],
        old_flavor=row["flavor"],
        new_flavor=_encode(new).decode(),
        old_disks=row["disks"],
        old_vm_state=row["vm_state"],
        created_at=now,
        updated_at=now,
    )
