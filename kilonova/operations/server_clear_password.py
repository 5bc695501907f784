"""Forget the password that a guest posted: DELETE os-server-password.

guest    the host does it
"""

from kilonova.common.context import Context
from kilonova.objects.order import Order
from kilonova.objects.tool_orders import GuestClearPassword
from kilonova.operations import accept, guest_orders, states, tools
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.saga.definition import Run

TRANSITION = states.TRANSITIONS["server_clear_password"]


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept it. Raises Conflict."""
    return accept.on_server(services, ctx, SAGA, found, TRANSITION)


def order(run: Run) -> Order:
    """Have the host forget it."""
    payload = GuestClearPassword(server_id=run.resource)
    deadline = tools.DEADLINE_S
    return guest_orders.order(run, run.params.host, "guest_clear_password", payload, deadline)


SAGA = tools.tool_saga("server_clear_password", order)
