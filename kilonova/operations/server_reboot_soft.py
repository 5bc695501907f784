"""Reboot through ACPI; the host makes it a hard reboot when the guest does not obey.

guest    the host does it; the record follows what the host says
"""

from kilonova.objects.guest import PowerAction
from kilonova.operations.power import power_saga

SAGA = power_saga("server_reboot_soft", PowerAction.REBOOT_SOFT)
