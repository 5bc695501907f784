"""Set the administrator's password in a running guest, through its agent: changePassword.

guest    the host asks the guest's agent
"""

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import Conflict
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import Hardware
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.order import Order
from kilonova.objects.server import PasswordParams
from kilonova.objects.tool_orders import GuestPassword
from kilonova.operations import accept, guest_orders, states, tools
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.services import Services
from kilonova.saga.definition import Run

TRANSITION = states.TRANSITIONS["server_password"]


def start(services: Services, ctx: Context, found: Found, password: str) -> str:
    """Accept a new password. Raises Conflict: the state, or a guest without an agent."""
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    if not msgspec.json.decode(row["hardware"], type=Hardware).guest_agent:
        raise Conflict("QEMU guest agent is not enabled")
    ref = new_uuid()

    def keep(tx: Tx, operation: str) -> None:
        value, now = Secret(password), services.now()
        services.vault.put(tx, owner=operation, kind="password", value=value, now=now, id_=ref)

    return accept.on_server(
        services, ctx, SAGA, found, TRANSITION, Also(home=keep), password=ref, user=_user(row)
    )


def _user(row: Row) -> str:
    """Return whose password it is. source: Nova, os_admin_user, os_type."""
    image = guest_orders.system_of(row).image
    asked = ImageProperties.read({} if image is None else image.properties)
    usual = "Administrator" if asked.os_type == "windows" else "root"
    return asked.os_admin_user or usual


def order(run: Run) -> Order:
    """Have the host ask the guest's agent."""
    services: Services = run.services
    home = services.home(run.home)
    secret = home.read(lambda tx: services.vault.get(tx, run.params.password))
    payload = GuestPassword(server_id=run.resource, user=run.params.user, password=secret.reveal())
    return guest_orders.order(run, run.params.host, "guest_password", payload, tools.DEADLINE_S)


SAGA = tools.tool_saga("server_password", order, PasswordParams)
