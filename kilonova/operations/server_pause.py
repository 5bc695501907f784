"""Freeze a running guest in memory.

guest    the host does it; the record follows what the host says
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_pause", PowerAction.PAUSE)
