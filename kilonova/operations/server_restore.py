"""Bring a soft-deleted server back.

quota    it counts again, if there is room
guest    the host starts it; undone, it turns it off again
"""

from kilonova.common.context import Context
from kilonova.objects.guest import PowerAction
from kilonova.operations import power
from kilonova.operations.accept import Found
from kilonova.operations.power import power_saga
from kilonova.operations.services import Services
from kilonova.operations.soft_deletion import ENTER, check_room

SAGA = power_saga("server_restore", PowerAction.START, PowerAction.STOP, ENTER)


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept a restore; return its id. QuotaExceeded; Conflict."""
    services.world.read(lambda tx: check_room(tx, found.mapping))
    return power.start(services, ctx, SAGA, found)
