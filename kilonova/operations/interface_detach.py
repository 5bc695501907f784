"""Detach a NIC from a server.

turn     wait for operations that were accepted before
guest    the host takes the NIC out of the guest, as soon as the guest lets go; undone by putting it in again
forget   the server's record loses it: the point of no return
port     its port is removed; one that the user made is only let go
"""

from kilonova.common.context import Context
from kilonova.common.errors import NotFound
from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.server import InterfaceParams
from kilonova.operations import accept, guest_orders, interfaces, states
from kilonova.operations.accept import Found
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.operations.turns import TURN
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

KIND = "interface_detach"


def start(services: Services, ctx: Context, found: Found, port_id: str) -> str:
    """Accept the detach; return the operation's id. Conflict when locked or busy, NotFound without such a NIC."""
    accept.check_lock(ctx, found)
    row = accept.startable(found, states.TRANSITIONS[KIND])
    nic = next((n for n in interfaces.recorded(row) if n.port_id == port_id), None)
    if nic is None:
        raise NotFound(f"Port {port_id} is not attached to instance {found.id}")
    return accept.on_server(services, ctx, SAGA, found, states.TRANSITIONS[KIND], nic=nic)


def order_detach(run: Run) -> Order:
    """Have the host take the NIC out of the guest."""
    payload = interfaces.detach_payload(run)
    return guest_orders.order(
        run, run.params.host, "guest_detach_nic", payload, interfaces.DEADLINE_S
    )


def detached(run: Run, answer: Answer) -> Output:
    """The guest has no such NIC; these are the server's ports without it."""
    nic = run.params.nic
    return {"columns": interfaces.follow(run.services, run.resource, but=nic.port_id)}


def order_attach(run: Run) -> Order:
    """Have the host put it in again."""
    payload = interfaces.attach_payload(run)
    return guest_orders.order(
        run, run.params.host, "guest_detach_nic", payload, 120.0, Direction.UNDO
    )


def decide(run: Run) -> Output:
    """Nothing outside: what this step does is its record."""
    return {}


def forget(tx: Tx, run: Run, output: Output) -> None:
    """The server's record has the NIC no longer."""
    interfaces.put_nic(tx, run, dict(run.outputs["guest"]["columns"]), None, there=False)


def remove_port(run: Run) -> Output:
    """Remove the port; one that the user made is only let go."""
    services: Services = run.services
    if any(
        p.port_id == run.params.nic.port_id for p in interfaces.ports_of(services, run.resource)
    ):
        services.network.remove_port(port_id=run.params.nic.port_id)
    return {}


def end(tx: Tx, run: Run, output: Output) -> None:
    """The operation is over."""
    interfaces.ended(tx, run, ok=True)


SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=InterfaceParams,
        steps=(
            TURN,
            Ask(
                "guest",
                order_detach,
                detached,
                order_attach,
                interfaces.DEADLINE_S,
                park_outside=park,
            ),
            Step(
                "forget",
                decide,
                NoUndo("nothing is undone after it"),
                30.0,
                record=forget,
                point_of_no_return=True,
            ),
            Step("port", remove_port, NoUndo("only forward"), 60.0, record=end),
        ),
        unwound_record=interfaces.failed,
    )
)
