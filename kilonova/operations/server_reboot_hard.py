"""Power off, define the guest anew from its record, plug it anew, start.

guest    the host does it; the record follows what the host says
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_reboot_hard", PowerAction.REBOOT_HARD)
