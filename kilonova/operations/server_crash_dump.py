"""Give a guest an NMI, for which its system may write a crash dump: trigger_crash_dump.

guest    the host does it
"""

from kilonova.common.context import Context
from kilonova.objects.order import Order
from kilonova.objects.tool_orders import GuestNmi
from kilonova.operations import accept, guest_orders, states, tools
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.services import Services
from kilonova.saga.definition import Run

TRANSITION = states.TRANSITIONS["server_crash_dump"]


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept it. Raises Conflict."""
    check_lock(ctx, found)
    return accept.on_server(services, ctx, SAGA, found, TRANSITION)


def order(run: Run) -> Order:
    """Have the host give the guest an NMI."""
    payload = GuestNmi(server_id=run.resource)
    return guest_orders.order(run, run.params.host, "guest_nmi", payload, tools.DEADLINE_S)


SAGA = tools.tool_saga("server_crash_dump", order)
