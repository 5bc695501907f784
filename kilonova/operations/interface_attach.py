"""Attach a NIC to a server: its port is reserved before accept, because the answer shows it.

    turn     those that were accepted before have ended; undone by removing the reserved port
    port     the reserved port stands, bound to the server's host
    guest    the host plugs it and puts the NIC into the guest; the record has it then

Unwound, the guest has no such NIC, a port that was made for it is gone, one of the user's is let go.
"""

from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.network.interface import AddressTaken, NoAddressLeft, NotThere
from kilonova.objects.guest import DeviceAddress, NicAttached
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.port import BoundPort, NicPlan, RequestedNic
from kilonova.objects.server import InterfaceParams, NicRecord
from kilonova.operations import accept, guest_orders, interfaces, states, turns
from kilonova.operations.accept import Also, Found
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, StepFailed, register

KIND = "interface_attach"
ITEM = "nic"


def start(services: Services, ctx: Context, found: Found, asked: RequestedNic) -> BoundPort:
    """Accept the attach; return the port as it was reserved.

    Conflict when locked, in a state that does not allow it, or the port or address is in use; NotFound for an unknown
    network or port; BadRequest; Forbidden (quota, an external network).
    """
    accept.check_lock(ctx, found)
    row = accept.startable(found, states.TRANSITIONS[KIND])
    operation, project = ctx.operation or new_uuid(), str(found.mapping["project_id"])
    try:
        plan = _plan(services, ctx, project, asked)
        port = services.network.ensure_port((operation, ITEM), **_wanted(row, project, plan))
    except NotThere as exc:
        raise NotFound(exc.message) from exc
    except AddressTaken as exc:
        raise Conflict(exc.message) from exc
    except NoAddressLeft as exc:
        raise BadRequest(exc.message) from exc
    nic = NicRecord(
        port_id=port.port_id,
        network_id=port.network_id,
        network_name=port.network_name,
        mac=port.mac,
        mtu=port.mtu,
        item=ITEM,
        tag=plan.tag,
        preserve=port.preserve_on_delete,
        vif_type=port.vif_type,
    )
    try:
        accept.on_server(
            services,
            ctx,
            SAGA,
            found,
            states.TRANSITIONS[KIND],
            Also(operation=operation),
            nic=nic,
            availability_zone=row["availability_zone"] or "nova",
            hostname=row["hostname"],
            network_id=None if plan.port_id else plan.network_id,
            user_port=plan.port_id,
            fixed_ip=plan.fixed_ip,
        )
    except KilonovaError:
        services.network.remove_port((operation, ITEM))
        raise
    return port


def _plan(services: Services, ctx: Context, project: str, asked: RequestedNic) -> NicPlan:
    if asked.network_id or asked.port_id:
        services.network.check_quota(project, 0 if asked.port_id else 1)
        return services.network.plan(ctx, project, [asked])[0]
    try:
        plans = services.network.plan(ctx, project, None)
    except Conflict as exc:
        raise BadRequest(
            "More than one possible network found. Specify network ID(s) to select which one(s) to connect to."
        ) from exc
    if not plans:
        raise BadRequest(
            f"No specific network was requested and none are available for project '{project}'."
        )
    services.network.check_quota(project, 1)
    return plans[0].replace(tag=asked.tag)


def _wanted(row: Any, project: str, plan: NicPlan) -> dict[str, Any]:
    return {
        "project_id": project,
        "device_id": row["uuid"],
        "host": row["host"],
        "network_id": None if plan.port_id else plan.network_id,
        "port_id": plan.port_id,
        "availability_zone": row["availability_zone"] or "nova",
        "hostname": row["hostname"],
        "fixed_ip": plan.fixed_ip,
        "tag": plan.tag,
    }


def keep_port(run: Run) -> Output:
    """The reserved port stands; somebody may have deleted it since."""
    services: Services = run.services
    p: InterfaceParams = run.params
    port = services.network.ensure_port(
        (run.operation, ITEM),
        project_id=p.project_id,
        device_id=run.resource,
        host=p.host or "",
        network_id=p.network_id,
        port_id=p.user_port,
        availability_zone=p.availability_zone,
        hostname=p.hostname,
        fixed_ip=p.fixed_ip,
        tag=p.nic.tag,
    )
    if port.port_id != p.nic.port_id:
        raise StepFailed(f"Port {p.nic.port_id} could not be found.")
    return {}


def remove_port(run: Run) -> None:
    """Remove the port; one that the user made is only let go."""
    services: Services = run.services
    services.network.remove_port((run.operation, ITEM))


def order_attach(run: Run) -> Order:
    """Have the host put the NIC into the guest."""
    payload = interfaces.attach_payload(run)
    return guest_orders.order(
        run, run.params.host, "guest_attach_nic", payload, interfaces.DEADLINE_S
    )


def attached(run: Run, answer: Answer) -> Output:
    """Keep where the guest sees the NIC, and what the server's ports are now."""
    device = unpack(answer.body, NicAttached).device
    return {
        "device": msgspec.to_builtins(device),
        "columns": interfaces.follow(run.services, run.resource),
    }


def order_detach(run: Run) -> Order:
    """Have the host take it out again."""
    payload = interfaces.detach_payload(run)
    return guest_orders.order(
        run, run.params.host, "guest_attach_nic", payload, 120.0, Direction.UNDO
    )


def record(tx: Tx, run: Run, output: Output) -> None:
    """The server's record has the NIC; the operation is over."""
    device = msgspec.convert(output["device"], DeviceAddress)
    interfaces.put_nic(tx, run, output["columns"], device, there=True)
    interfaces.ended(tx, run, ok=True)


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=InterfaceParams,
        steps=(
            Step("turn", turns.turn, remove_port, turns.DEADLINE_S),
            Step("port", keep_port, NoUndo("reserved before accept: undone by turn"), 60.0),
            Ask(
                "guest",
                order_attach,
                attached,
                order_detach,
                interfaces.DEADLINE_S,
                record=record,
                park_outside=park,
            ),
        ),
        unwound_record=interfaces.failed,
    )
)
