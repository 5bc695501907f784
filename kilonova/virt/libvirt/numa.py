"""NUMA nodes of a guest in its domain: what it sees, and where its memory and vCPUs are on the host.

source: libvirt documentation, *Domain XML format*: "CPU model and topology", "NUMA Node Tuning", "CPU Tuning".
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from kilonova.objects.guest import GuestNode
from kilonova.objects.host import HostNode
from kilonova.virt.driver import DriverError


def show(top: ET.Element, nodes: Sequence[GuestNode]) -> None:
    """Let the guest see its nodes: a part of its CPU, which is made when the domain names none."""
    if not nodes:
        return
    cpu = top.find("cpu")
    if cpu is None:
        cpu = ET.SubElement(top, "cpu")
    shown = ET.SubElement(cpu, "numa")
    for n in nodes:
        ET.SubElement(
            shown,
            "cell",
            id=str(n.number),
            cpus=_set(n.cpus),
            memory=str(n.memory_mib),
            unit="MiB",
        )


def place(top: ET.Element, nodes: Sequence[GuestNode], host: Sequence[HostNode]) -> None:
    """Keep each node of the guest to its node of the host. DriverError when the host has no such node."""
    placed = [n for n in nodes if n.host_node is not None]
    if not placed:
        return
    there = {h.number: h for h in host}
    missing = [n.host_node for n in placed if n.host_node not in there]
    if missing:
        raise DriverError("This host has no such NUMA node.", elsewhere=True, nodes=missing)
    tune = ET.SubElement(top, "cputune")
    for vcpu, node in sorted((v, n.host_node) for n in placed for v in n.cpus):
        own = there[node or 0]
        cpus = _set((*own.cpus, *own.dedicated))
        ET.SubElement(tune, "vcpupin", vcpu=str(vcpu), cpuset=cpus)
    memory = ET.SubElement(top, "numatune")
    every = _set(sorted(n.host_node or 0 for n in placed))
    ET.SubElement(memory, "memory", mode="strict", nodeset=every)
    for n in placed:
        ET.SubElement(
            memory, "memnode", cellid=str(n.number), mode="strict", nodeset=str(n.host_node)
        )


def _set(numbers: Iterable[int]) -> str:
    return ",".join(str(n) for n in numbers)
