"""Boot a rescued server from its own disk again: unrescue.

guest     the host turns the guest off, takes the rescue disk aside, and starts it from its own disk
forget    the rescue disk is removed

Undone before it runs, the guest is rescued as before.
"""

from kilonova.common.context import Context
from kilonova.common.errors import Conflict
from kilonova.db.engine import Tx
from kilonova.objects.order import Order
from kilonova.objects.server import ServerParams
from kilonova.operations import accept, guest_orders, remakes, settling, states
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, register

TRANSITION = states.TRANSITIONS["server_unrescue"]


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept the end of a rescue. Raises Conflict."""
    check_lock(ctx, found)
    return accept.on_server(services, ctx, SAGA, found, TRANSITION)


def order_unrescue(run: Run) -> Order:
    """Have the host start the guest from its own disk."""
    row = remakes.row_of(run)
    build = guest_orders.build_of(run.services, row)
    return remakes.remake(run, row, build)


def order_rescue(run: Run) -> Order:
    """Have the host rescue the guest as it was."""
    row = remakes.row_of(run)
    image = guest_orders.system_of(row).rescue
    if image is None:
        raise Conflict("The server was not rescued.")
    build = remakes.rescued(run.services, row, image)
    return remakes.restore(run, row, build)


def finish(tx: Tx, run: Run, output: Output) -> None:
    """Show the server as ACTIVE."""
    row = guest_orders.row_in(tx, run.resource)
    made = run.outputs["guest"]
    settling.succeed(
        tx,
        run,
        TRANSITION,
        vm_state=states.ACTIVE,
        power_state=made["power_state"],
        devices=made["devices"],
        system_metadata=remakes.with_rescue(row, None),
    )


def fail(tx: Tx, run: Run) -> None:
    """The server is rescued as before."""
    settling.fail(tx, run, TRANSITION)


SAGA = register(
    Saga(
        kind="server_unrescue",
        version=1,
        params=ServerParams,
        steps=(
            Ask(
                "guest",
                order_unrescue,
                remakes.made,
                order_rescue,
                remakes.DEADLINE_S,
                park_outside=park,
                point_of_no_return=True,
            ),
            Ask(
                "forget",
                remakes.forget,
                remakes.forgotten,
                NoUndo("what was put aside is not needed any more"),
                300.0,
                record=finish,
                park_outside=park,
            ),
        ),
        unwound_record=fail,
    )
)
