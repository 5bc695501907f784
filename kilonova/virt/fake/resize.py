"""Resizes of simulated guests."""

from typing import TypeGuard

import msgspec

from kilonova.objects.guest import Disk, GuestBuild, LocalDisk, PowerState
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.fake.disks import defined
from kilonova.virt.fake.guests import booted
from kilonova.virt.fake.host import FakeHost
from kilonova.virt.fake.world import RUNS, FakeGuest, FakeSize
from kilonova.virt.resize import Made


class FakeResizes(FakeHost):
    """Keeps what a guest was until the resize is confirmed or reverted."""

    def resize(self, build: GuestBuild, timeout_s: float, progress: Progress) -> Made:
        """Give a guest another size; its old disks are kept and counted."""
        self._alive()
        guest = self._find(build.server_id)
        self._fail("resize", guest.server, guest.faults, progress)
        if guest.kept is None or guest.kept.reverted:
            guest = self._aside(guest, reverted=False)
        before = {} if guest.kept is None else guest.kept.sizes
        if any(d.size_gib < before.get(d.name, 0) for d in build.disks if _grows(d)):
            raise DriverError("A disk of the server cannot shrink.")
        return self._as(guest, build)

    def confirm_resize(self, server_id: str) -> bool:
        """Forget what a guest was."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        self._fail("confirm", server_id, () if guest is None else guest.faults, lambda _: None)
        if guest is None or guest.kept is None:
            return False
        self._world.put(self._host, msgspec.structs.replace(guest, kept=None))
        return True

    def revert_resize(self, build: GuestBuild, progress: Progress) -> Made:
        """Make a guest what it was."""
        self._alive()
        guest = self._find(build.server_id)
        self._fail("revert", guest.server, guest.faults, progress)
        if guest.kept is not None and not guest.kept.reverted:
            guest = self._aside(guest, reverted=True)
        return self._as(guest, build)

    def _aside(self, guest: FakeGuest, *, reverted: bool) -> FakeGuest:
        """Turn a guest off and keep what it is now aside."""
        was = FakeSize(
            vcpus=guest.vcpus,
            memory_mib=guest.memory_mib,
            sizes=guest.sizes,
            reverted=reverted,
        )
        guest = msgspec.structs.replace(guest, kept=was, power=int(PowerState.SHUTDOWN))
        self._world.put(self._host, guest)
        return guest

    def _as(self, guest: FakeGuest, build: GuestBuild) -> Made:
        guest = msgspec.structs.replace(
            guest,
            vcpus=build.vcpus,
            memory_mib=build.memory_mib,
        )
        guest = defined(guest, build)
        if build.start and guest.power not in RUNS:
            guest = booted(guest)
        elif not build.start:
            guest = msgspec.structs.replace(guest, power=int(PowerState.SHUTDOWN))
        self._world.put(self._host, guest)
        return guest.power, guest.hardware, guest.devices


def _grows(disk: Disk) -> TypeGuard[LocalDisk]:
    return isinstance(disk, LocalDisk) and not disk.size_mib
