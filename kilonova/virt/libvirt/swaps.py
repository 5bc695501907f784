"""A running guest's disk goes over to other data: QEMU mirrors it there, then the guest writes there alone.

source: libvirt, virDomainBlockCopy and virDomainBlockJobAbort (PIVOT); QEMU docs, live block operations.
"""

import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from kilonova.objects.guest import FileDisk, NbdDisk
from kilonova.virt.driver import Aborted, Again, DriverError, Progress
from kilonova.virt.libvirt import xml
from kilonova.virt.libvirt.connection import telling

POLL_S = 0.3
_COPY = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
)


def mirror(domain: Any, element: ET.Element, wanted: ET.Element, progress: Progress) -> bool:
    """Copy a disk to ``wanted``, a disk element of the same target; Again until both have all. False: it is there.

    element: the disk as the guest has it now. A copy to somewhere else that is under way is ended first. From then on a
    write of the guest has worked when both places have it.
    """
    target = xml.target_of(element)
    mirror = element.find("mirror")
    if mirror is not None and not _same(mirror.find("source"), wanted.find("source")):
        _end(domain, target)
        mirror = None
    if mirror is None and _same(element.find("source"), wanted.find("source")):
        return False
    try:
        progress("copying the volume")
    except Aborted:
        if mirror is not None:
            _end(domain, target)
        raise
    with telling("The volume could not be copied."):
        if mirror is None:
            domain.blockCopy(target, ET.tostring(wanted, encoding="unicode"), {}, _COPY)
            raise Again(POLL_S)
        if mirror.get("ready") != "yes":
            if not domain.blockJobInfo(target, 0):
                raise DriverError("The volume could not be copied.")
            raise Again(POLL_S)
    return True


def swap(domain: Any, element: ET.Element, wanted: ET.Element, progress: Progress) -> None:
    """Bring a disk over to ``wanted``; as ``mirror``."""
    if mirror(domain, element, wanted, progress):
        with telling("The guest could not go over to the volume's copy."):
            domain.blockJobAbort(xml.target_of(element), libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def keep(domain: Any, defined: ET.Element, wanted: ET.Element) -> None:
    """Have the definition say the same, for later starts."""
    if not _same(defined.find("source"), wanted.find("source")):
        with telling("The guest's definition could not be changed."):
            text = ET.tostring(wanted, encoding="unicode")
            domain.updateDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def is_at(element: ET.Element, disk: NbdDisk | FileDisk) -> bool:
    """Tell whether a guest's disk is in a place."""
    return _same(element.find("source"), wanted_element(disk, element).find("source"))


def wanted_element(disk: NbdDisk | FileDisk, element: ET.Element) -> ET.Element:
    """Return the disk as it is to be, in the place of ``element``."""
    target = element.find("target")
    bus = "virtio" if target is None else target.get("bus", "virtio")
    wanted = xml.volume_element(disk, xml.target_of(element), bus)
    for name in ("address", "boot"):
        if (kept := element.find(name)) is not None:
            wanted.append(kept)
    return wanted


def _end(domain: Any, target: str) -> None:
    with telling("The copy of the volume could not be ended."):
        domain.blockJobAbort(target, 0)


def _same(one: ET.Element | None, other: ET.Element | None) -> bool:
    return one is not None and other is not None and _place(one) == _place(other)


def _place(source: ET.Element) -> tuple[str | None, ...]:
    host = source.find("host")
    where = {} if host is None else host.attrib
    return (source.get("file"), source.get("name"), *map(where.get, ("name", "port", "socket")))
