"""NUMA nodes and PCI devices of simulated hosts."""

from collections.abc import Iterable, Sequence

from kilonova.common.devices import SimulatedDevices
from kilonova.objects.host import HostDevice, HostNode


def nodes_of(
    count: int, cpus: int, memory_mib: int, dedicated: Sequence[int]
) -> tuple[HostNode, ...]:
    """Return the nodes of a host, CPUs and memory shared out evenly in turn; none when it has only one."""
    if count < 2:
        return ()
    alone = frozenset(dedicated)
    return tuple(
        HostNode(
            number=n,
            memory_mib=memory_mib // count,
            cpus=tuple(c for c in range(cpus) if c % count == n and c not in alone),
            dedicated=tuple(c for c in range(cpus) if c % count == n and c in alone),
        )
        for n in range(count)
    )


def devices_of(wanted: Iterable[SimulatedDevices]) -> tuple[HostDevice, ...]:
    """Return devices with addresses as real ones have them: one bus for each kind."""
    return tuple(
        HostDevice(
            address=f"0000:{0x81 + bus:02x}:{n // 8:02x}.{n % 8:x}",
            resource_class=kind.resource_class,
            traits=kind.traits,
            numa_node=kind.numa_node,
        )
        for bus, kind in enumerate(wanted)
        for n in range(kind.count)
    )
