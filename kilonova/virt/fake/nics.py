"""The part of a simulated host's driver that puts NICs into guests and takes them out."""

import msgspec

from kilonova.objects.guest import DeviceAddress, Nic, PowerState, TapNic
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.fake.host import FakeHost, free_address
from kilonova.virt.fake.world import FakeGuest, logged


class FakeNics(FakeHost):
    """NICs of guests that are there."""

    def attach_nic(self, server_id: str, nic: Nic, progress: Progress) -> DeviceAddress:
        """Put a NIC into a guest, whatever state it is in."""
        self._alive()
        guest = self._find(server_id)
        self._fail("attach_nic", server_id, guest.faults, progress)
        if not isinstance(nic, TapNic):
            raise DriverError("This host has no Open vSwitch.")
        guest = _with_nic(guest, nic)
        self._world.put(self._host, guest)
        return next(d for d in guest.devices if d.mac == nic.mac)

    def detach_nic(self, server_id: str, port_id: str, progress: Progress) -> bool:
        """Take a NIC out of a guest; simulated guests let go at once."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        if guest is None:
            return False
        self._fail("detach_nic", server_id, guest.faults, progress)
        existed = any(port == port_id for port, _ in guest.nics)
        if existed:
            self._world.put(self._host, _without_nic(guest, port_id))
        return existed


def _with_nic(guest: FakeGuest, nic: TapNic) -> FakeGuest:
    if any(port == nic.port_id for port, _ in guest.nics):
        return guest
    device = DeviceAddress(
        kind="nic", bus="pci", address=free_address(guest.devices), tag=nic.tag, mac=nic.mac
    )
    guest = msgspec.structs.replace(
        guest,
        nics=(*guest.nics, (nic.port_id, nic.mac)),
        devices=(*guest.devices, device),
    )
    if guest.power != PowerState.RUNNING:
        return guest
    return logged(guest, f"GUEST PLUG nic=eth{len(guest.nics) - 1} mac={nic.mac}")


def _without_nic(guest: FakeGuest, port_id: str) -> FakeGuest:
    place = [port for port, _ in guest.nics].index(port_id)
    mac = guest.nics[place][1]
    guest = msgspec.structs.replace(
        guest,
        nics=(*guest.nics[:place], *guest.nics[place + 1 :]),
        devices=tuple(d for d in guest.devices if d.mac != mac),
    )
    if guest.power != PowerState.RUNNING:
        return guest
    return logged(guest, f"GUEST UNPLUG nic=eth{place}")
