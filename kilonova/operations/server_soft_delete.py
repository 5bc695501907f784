"""Turn a server off and hide it, so that it can be restored: a delete while ``reclaim_instance_interval_s`` is set.

quota    it counts no more
guest    the host turns it off; undone, it starts it again if it ran
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga
from kilonova.operations.soft_deletion import LEAVE

SAGA = power_saga("server_soft_delete", PowerAction.STOP, PowerAction.START, LEAVE)
