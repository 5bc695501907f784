"""Bring a soft-deleted server back.

guest    the host starts it; undone, it turns it off again
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_restore", PowerAction.START, PowerAction.STOP)
