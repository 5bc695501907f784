"""The part of the libvirt driver that changes a guest's disks: volumes put in and taken out, grown, copied."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt
import msgspec

from kilonova.objects.guest import DeviceAddress, FileDisk, Hardware, NbdDisk
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt import hotplug, regrown, swaps, xml
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.disks import SHARED_FILE
from kilonova.virt.libvirt.domains import Domains, is_active, text_of

GIB = 1 << 30


class LibvirtDisks(Domains):
    """The DiskDriver part."""

    def attach_disk(
        self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress
    ) -> tuple[DeviceAddress, ...]:
        """Put a volume into the guest and its definition. QEMU's lock of the file refuses a second writer."""
        progress("attaching the volume")
        domain = self._found(server_id)
        if isinstance(disk, FileDisk):
            if disk.shareable and disk.format != "raw":
                raise DriverError(SHARED_FILE)
            if not Path(disk.path).exists():
                raise DriverError("The volume is not on this host.", path=disk.path)
        record = self._record_of(server_id, domain)
        alias = f"ua-{disk.serial}"
        if disk.tag and record.tags.get(alias) != disk.tag:
            tags = {**record.tags, alias: disk.tag}
            self._disks.put_record(msgspec.structs.replace(record, tags=tags))
        bus = xml.bus_of(disk.bus, (record.hardware or Hardware()).disk_bus)
        known = self._disk(domain, disk.serial)
        used = xml.targets_of(text_of(domain)) | xml.targets_of(_now(domain))
        target = (
            xml.target_of(known) if known is not None else xml.free_target(used, bus, disk.device)
        )
        hotplug.attach(domain, xml.volume_element(disk, target, bus))
        return self.devices(server_id)

    def detach_disk(self, server_id: str, serial: str, progress: Progress) -> bool:
        """Take a volume out of the guest and its definition; Again until the guest let go of it."""
        domain = self._find(server_id)
        if domain is None:
            return False
        had = self._disk(domain, serial) is not None
        if had:
            self._asked.detach(server_id, domain, f"ua-{serial}", progress)
        record = self._disks.record(server_id)
        if record is not None and f"ua-{serial}" in record.tags:
            tags = {a: t for a, t in record.tags.items() if a != f"ua-{serial}"}
            self._disks.put_record(msgspec.structs.replace(record, tags=tags))
        return had

    def mirror_disk(self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress) -> None:
        """Have QEMU mirror the disk until the two are the same, and keep them so."""
        domain = self._found(server_id)
        element = self._must(domain, disk.serial)
        if is_active(domain):
            swaps.mirror(domain, element, swaps.wanted_element(disk, element), progress)
        elif not swaps.is_at(element, disk):
            raise DriverError("The server is off: its volume goes to no other place meanwhile.")

    def swap_disk(
        self,
        server_id: str,
        disk: NbdDisk | FileDisk,
        progress: Progress,
        *,
        decided: bool = False,
    ) -> None:
        """Have QEMU mirror the disk, and go over when the two are the same."""
        domain = self._found(server_id)
        element = self._must(domain, disk.serial)
        wanted = swaps.wanted_element(disk, element)
        if is_active(domain):
            swaps.swap(domain, element, wanted, progress)
        elif not decided and not swaps.is_at(element, disk):
            raise DriverError("The server is off: its volume goes to no other place meanwhile.")
        defined = xml.device_of(text_of(domain), f"ua-{disk.serial}")
        if defined is not None:
            swaps.keep(domain, defined, swaps.wanted_element(disk, defined))

    def devices(self, server_id: str) -> tuple[DeviceAddress, ...]:
        """Return what the guest is defined with."""
        domain = self._find(server_id)
        if domain is None:
            return ()
        return xml.devices_of(text_of(domain), self._record_of(server_id, domain).tags)

    def disk_serials(self, server_id: str) -> tuple[str, ...]:
        """Return the volumes of the definition, then what only the running guest still has."""
        domain = self._find(server_id)
        if domain is None:
            return ()
        found = (*xml.volumes_of(text_of(domain)), *xml.volumes_of(_now(domain)))
        return tuple(dict.fromkeys(found))

    def local_disks(self) -> dict[str, tuple[str, ...]]:
        """Return what is in the directories of servers, whether they have a domain or not."""
        return self._disks.found()

    def extend_disk(self, server_id: str, serial: str, size_gib: int) -> None:
        """Let QEMU grow the file of a running guest's disk; a guest that is off sees it at its next start."""
        domain = self._found(server_id)
        element = self._must(domain, serial)
        if element.get("type") != "file":
            raise DriverError("A volume of another host cannot grow while it is attached.")
        if not is_active(domain):
            return
        with telling("The disk could not be extended."):
            target, size = xml.target_of(element), size_gib * GIB
            if domain.blockInfo(target)[0] < size:
                domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def hold_disk(self, server_id: str, serial: str) -> None:
        """Put another connection below the disk of a running guest."""
        domain = self._found(server_id)
        element = self._must(domain, serial)
        if is_active(domain):
            regrown.hold(domain, element)

    def resume_disk(self, server_id: str, serial: str, size_gib: int | None) -> None:
        """Give the disk of a running guest a new connection of its own."""
        domain = self._found(server_id)
        element = self._disk(domain, serial)
        if element is not None and is_active(domain):
            regrown.resume(domain, element, None if size_gib is None else size_gib * GIB)

    def copy_disk(self, server_id: str, serial: str, target: Path, progress: Progress) -> None:
        """Copy by QEMU while the guest runs, by qemu-img when it does not."""
        domain = self._found(server_id)
        element = self._must(domain, serial)
        try:
            if not is_active(domain):
                self._copies.end(server_id, None, target)
                source = _file_of(element)
                self._tools.convert(source, target, progress, source_format=_format_of(element))
                return
            self._copies.copy(server_id, domain, element, target, progress)
        except DriverError:
            self.end_copy(server_id, target)
            raise
        if not target.exists():
            raise DriverError("The copy of the disk is gone.", path=str(target))

    def end_copy(self, server_id: str, target: Path) -> None:
        """End what writes the file and remove it."""
        self._copies.end(server_id, self._find(server_id), target)
        self._tools.end(target)

    # -- parts

    def _disk(self, domain: Any, serial: str) -> ET.Element | None:
        """Return a disk by its volume's id, or a local one by its name; of the running guest first."""
        for text in (_now(domain), text_of(domain)):
            for alias in (f"ua-{serial}", f"ua-disk-{serial}"):
                found = xml.device_of(text, alias)
                if found is not None:
                    return found
        return None

    def _must(self, domain: Any, serial: str) -> ET.Element:
        found = self._disk(domain, serial)
        if found is None:
            raise DriverError("The server has no such disk.", serial=serial)
        return found


def _now(domain: Any) -> str:
    """Return the XML of what runs, or of the definition when nothing does."""
    with telling("The guest cannot be looked at."):
        text: str = domain.XMLDesc(0)
    return text


def _format_of(element: ET.Element) -> str:
    driver = element.find("driver")
    return "qcow2" if driver is None else driver.get("type", "qcow2")


def _file_of(element: ET.Element) -> Path:
    source = element.find("source")
    path = None if source is None else source.get("file")
    if path is None:
        raise DriverError("A volume of another host is copied there.")
    return Path(path)
