"""Resize a server: another flavor, with the old claim and the old disks kept until it is confirmed.

    claim    a host is chosen; the migration takes over the old claim, the server claims the new size
    guest    on the same host: it shuts the guest down, keeps its disks aside, grows them, starts it in its new size
    …        on another host: the steps of moving.py

The quota counts the larger of both sizes from the acceptance on. Unwound, the server is as it was before.
"""

from collections.abc import Mapping

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db import flavors, mappings, migrations, quotas, servers
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestBuilt, GuestResize, GuestResizeRevert
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import DiskRequest, FlavorRecord, ResizeParams
from kilonova.operations import (
    accept,
    guest_orders,
    move_events,
    moving,
    resizing,
    settling,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, Output, Run, Saga, register

_decode = msgspec.json.decode
_encode = msgspec.json.encode


def order_resize(run: Run) -> Order:
    """Describe the guest in its new size."""
    services: Services = run.services
    params: ResizeParams = run.params
    row = guest_orders.server_row(services, run.home, run.resource)
    disks = moving.new_disks(row, params)
    build = guest_orders.build_of(
        services,
        resizing.as_row(row, moving.new_flavor(params), disks),
        start=params.previous_vm_state == states.ACTIVE,
    )
    payload = GuestResize(server_id=run.resource, build=build, timeout_s=params.timeout_s)
    return guest_orders.order(run, row["host"], "guest_resize", payload, resizing.DEADLINE_S)


def order_revert(run: Run) -> Order:
    """Describe the guest as it was: its row has not changed yet."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    build = guest_orders.build_of(
        services,
        row,
        start=run.params.previous_vm_state == states.ACTIVE,
        holder=run.params.migration,
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
            "flavor": _encode(moving.new_flavor(params)).decode(),
            "disks": resizing.encoded(moving.new_disks(row, params)),
            "devices": output["devices"],
        }
    move_events.tell_arriving(tx, run)
    settling.succeed(
        tx,
        run,
        states.TRANSITIONS[run.kind],
        vm_state=states.RESIZED,
        power_state=output["power_state"],
        **columns,
    )
    migrations.set_status(tx, params.migration, "finished", now)


def moves(params: ResizeParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server gets to another host."""
    return not moving.stays(params, outputs)


SAGA = register(
    Saga(
        kind="server_resize",
        version=1,
        params=ResizeParams,
        steps=(
            moving.CLAIM,
            Ask(
                "guest",
                order_resize,
                resized,
                order_revert,
                resizing.DEADLINE_S,
                record=settle,
                park_outside=park,
                queue="build",
                skip=moves,
            ),
            *moving.STEPS,
        ),
        unwound=resizing.give_back,
        unwound_record=moving.unwound_record,
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
    row = accept.startable(found, transition)
    resizing.check_host(services, row)
    old = resizing.flavor_of(row["flavor"])
    new = wanted_flavor(services, ctx, flavor_id, old)
    services.scheduling.check_flavor(new, guest_orders.system_of(row).image)
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
        move = resizing.Move(migration, "resize", new)
        resizing.remember(tx, found, row, move, operation=operation, now=now)

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
        elsewhere=not services.setting("allow_resize_to_same_host", True),
    )


def wanted_flavor(
    services: Services, ctx: Context, flavor_id: str, old: FlavorRecord
) -> FlavorRecord:
    """Return the flavor that a resize asks for. BadRequest, in Nova's words."""
    row = services.world.read(
        lambda tx: flavors.find_for(tx, flavor_id, ctx.project_id, admin=ctx.is_admin)
    )
    if row is None or (row["disabled"] and row["flavorid"] != old.flavorid):
        raise BadRequest(f"Flavor {flavor_id[:80]} could not be found.")
    if row["flavorid"] == old.flavorid:
        raise BadRequest("When resizing, instances must change flavor!")
    return flavors.record(row)
