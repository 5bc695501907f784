"""Save the guest's memory to disk and stop it.

guest    the host does it; the record follows what the host says
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_suspend", PowerAction.SUSPEND)
