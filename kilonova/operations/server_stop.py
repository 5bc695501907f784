"""Stop a server: ACPI first, power off when the guest does not obey in time.

guest    the host does it; the record follows what the host says
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_stop", PowerAction.STOP)
