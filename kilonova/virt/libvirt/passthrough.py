"""What of a real host guests may have alone: PCI devices that the operator allowed, NUMA nodes, dedicated CPUs.

source: Linux, sysfs-bus-pci and sysfs-devices-node; libvirt, *Domain XML format*, "Host device assignment".
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from kilonova.common.devices import DeviceSpec, class_of, numbers
from kilonova.common.log import get_logger
from kilonova.objects.guest import PassedDevice
from kilonova.objects.host import HostDevice, HostNode
from kilonova.virt.driver import DriverError

log = get_logger(__name__)
SYS = Path("/sys")
_ADDRESS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_BRIDGE = "0x06"  # class of bridges, which no guest can have


def host_devices(specs: Sequence[DeviceSpec], sys: Path = SYS) -> tuple[HostDevice, ...]:
    """Return the devices of this host that a specification allows, the first one that does deciding its class."""
    found = []
    for path in sorted((sys / "bus/pci/devices").glob("*")) if specs else ():
        vendor, product = (_text(path / n).removeprefix("0x") for n in ("vendor", "device"))
        spec = next((s for s in specs if s.allows(path.name, vendor, product)), None)
        if spec is None or _text(path / "class").startswith(_BRIDGE):
            continue
        node = _text(path / "numa_node")
        found.append(
            HostDevice(
                address=path.name,
                resource_class=class_of(spec.resource_class, vendor, product),
                traits=spec.traits,
                numa_node=int(node) if node.isdigit() else None,
            )
        )
    return tuple(found)


def host_nodes(dedicated: Iterable[int] = (), sys: Path = SYS) -> tuple[HostNode, ...]:
    """Return the NUMA nodes of this host; none when it has one only."""
    alone, found = frozenset(dedicated), []
    for path in sorted((sys / "devices/system/node").glob("node[0-9]*")):
        cpus = numbers(_text(path / "cpulist"))
        memory = re.search(r"MemTotal:\s*(\d+) kB", _text(path / "meminfo"))
        found.append(
            HostNode(
                number=int(path.name.removeprefix("node")),
                memory_mib=int(memory[1]) // 1024 if memory else 0,
                cpus=tuple(sorted(cpus - alone)),
                dedicated=tuple(sorted(cpus & alone)),
            )
        )
    return tuple(sorted(found, key=lambda n: n.number)) if len(found) > 1 else ()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def refuses(passed: Iterable[PassedDevice], allowed: Iterable[HostDevice]) -> str | None:
    """Return which device this host does not give to guests, or None."""
    there = {d.address for d in allowed}
    return next(
        (
            f"This host has no device {d.address} for guests."
            for d in passed
            if d.address not in there
        ),
        None,
    )


def alias_of(device: PassedDevice) -> str:
    """Return our alias of a device."""
    return "ua-pci-" + re.sub(r"[^0-9a-f]", "-", device.address)


def address_of(alias: str) -> str:
    """Return the address on the host from our alias."""
    domain, bus, slot, function = alias.removeprefix("ua-pci-").split("-")
    return f"{domain}:{bus}:{slot}.{function}"


def element(device: PassedDevice) -> ET.Element:
    """Return one device of the host. libvirt takes it from its driver, and gives it back afterwards (managed)."""
    match = _ADDRESS.fullmatch(device.address)
    if match is None:
        raise DriverError("The address of a device is none.", address=device.address)
    top = ET.Element("hostdev", mode="subsystem", type="pci", managed="yes")
    place = dict(zip(("domain", "bus", "slot", "function"), match.groups(), strict=True))
    source = ET.SubElement(top, "source")
    ET.SubElement(source, "address", {k: f"0x{v}" for k, v in place.items()})
    ET.SubElement(top, "alias", name=alias_of(device))
    return top
