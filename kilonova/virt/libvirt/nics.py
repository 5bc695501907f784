"""The part of the libvirt driver that puts NICs into guests and takes them out."""

import msgspec

from kilonova.objects.guest import DeviceAddress, Hardware, Nic, TapNic
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt import hotplug, xml
from kilonova.virt.libvirt.domains import Domains


class Nics(Domains):
    """NICs of guests that are there."""

    def attach_nic(self, server_id: str, nic: Nic, progress: Progress) -> DeviceAddress:
        """Put a NIC into the guest and its definition; the record first, so that a boot of the host plugs its tap."""
        if not isinstance(nic, TapNic):
            raise DriverError("This host has no Open vSwitch.")
        progress("connecting the network")
        domain = self._found(server_id)
        record = self._record_of(server_id, domain)
        if nic.port_id not in record.ports:
            more = (*record.ports, nic.port_id)
            tags = {**record.tags, f"ua-{nic.port_id}": nic.tag} if nic.tag else record.tags
            self._disks.put_record(msgspec.structs.replace(record, ports=more, tags=tags))
        tap = self._taps.tap_of(nic.port_id)
        element = xml.nic_element(nic, tap, record.hardware or Hardware())
        bus, address = xml.address_of(hotplug.attach(domain, element))
        return DeviceAddress(kind="nic", bus=bus, address=address, tag=nic.tag, mac=nic.mac)

    def detach_nic(self, server_id: str, port_id: str, progress: Progress) -> bool:
        """Take a NIC out of the guest and its definition; the record last."""
        domain = self._find(server_id)
        if domain is None:
            return False
        existed = self._asked.detach(server_id, domain, f"ua-{port_id}", progress)
        record = self._record_of(server_id, domain)
        if port_id in record.ports:
            left = tuple(p for p in record.ports if p != port_id)
            self._disks.put_record(msgspec.structs.replace(record, ports=left))
        return existed
