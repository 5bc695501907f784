"""Names of resource classes and traits: the standard ones from os-resource-classes and os-traits, and CUSTOM_ ones."""

import functools
import re

VCPU, PCPU, MEMORY_MB, DISK_GB = "VCPU", "PCPU", "MEMORY_MB", "DISK_GB"
NODE_VCPU, NODE_MEMORY_MB = "CUSTOM_NUMA_VCPU", "CUSTOM_NUMA_MEMORY_MB"
"""What guests with NUMA nodes take of one node of a host, besides what they take of the host as a whole."""
NODE, DEVICE = "HW_NUMA_ROOT", "COMPUTE_MANAGED_PCI_DEVICE"
"""Traits of the providers below a host that its NUMA nodes and devices are."""
DISABLED = "COMPUTE_STATUS_DISABLED"
SHARES = "MISC_SHARES_VIA_AGGREGATE"
MAX_UNIT = 2**31 - 1

CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}")

UNITS = {
    VCPU: ("vCPUs", ""),
    PCPU: ("dedicated CPUs", ""),
    MEMORY_MB: ("memory", "MiB"),
    DISK_GB: ("disk", "GiB"),
    NODE_VCPU: ("vCPUs of one NUMA node", ""),
    NODE_MEMORY_MB: ("memory of one NUMA node", "MiB"),
}
"""resource class -> (what a person calls it, unit)"""


@functools.cache
def standard_classes() -> tuple[str, ...]:
    """Return the standard resource classes, in their published order."""
    import os_resource_classes

    return tuple(os_resource_classes.STANDARDS)


@functools.cache
def standard_traits() -> frozenset[str]:
    """Return the standard traits."""
    import os_traits

    return frozenset(os_traits.get_traits())


def amount(resource_class: str, n: int) -> str:
    """Return ``2048 MiB``, or ``4`` for classes without a unit."""
    unit = UNITS.get(resource_class, ("", ""))[1]
    return f"{n} {unit}" if unit else str(n)


def called(resource_class: str) -> str:
    """Return what a person calls a resource class."""
    return UNITS.get(resource_class, (resource_class, ""))[0]
