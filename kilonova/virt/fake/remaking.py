"""Simulated guests that become others in place; what was put aside is remembered and counted."""

import msgspec

from kilonova.objects.guest import GuestBuild, LocalDisk, PowerState
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.fake.disks import defined
from kilonova.virt.fake.guests import booted, fresh
from kilonova.virt.fake.host import FakeHost
from kilonova.virt.fake.world import RUNS, FakeGuest
from kilonova.virt.remaking import Change, Made


class FakeRemaking(FakeHost):
    """The RemakeDriver part."""

    def remake(self, build: GuestBuild, change: Change, progress: Progress) -> Made:
        """Exchange disks and boot; remake_fail strikes before anything is touched, remake_fail_late afterwards."""
        self._alive()
        guest = self._world.guests(self._host).get(build.server_id)
        self._fail("remake", build.server_id, build.faults, progress)
        if guest is None:
            guest = fresh(build)
        names = {d.name for d in build.disks if isinstance(d, LocalDisk)}
        gone = (*change.anew, *(d for d in guest.disks if d not in names))
        old = {d: guest.images.get(d, "") for d in gone if d in guest.disks}
        guest = msgspec.structs.replace(
            guest, aside={**old, **guest.aside}, power=int(PowerState.SHUTDOWN)
        )
        self._world.put(self._host, guest)
        if self._world.faults.strikes(
            "remake_fail_late", self._host, build.server_id, build.faults
        ):
            raise DriverError("The guest could not be started.", fault="remake_fail_late")
        made = {
            d.name: d.image_id or ""
            for d in build.disks
            if isinstance(d, LocalDisk) and (d.name in change.anew or d.name not in guest.images)
        }
        kept = {k: v for k, v in guest.images.items() if k in names}
        anew = build.drive_name if change.anew or change.drive else ""
        drives = {k: v for k, v in guest.drives.items() if k != anew}
        guest = msgspec.structs.replace(guest, images={**kept, **made}, drives=drives)
        return self._become(guest, build)

    def restore(self, build: GuestBuild, drop: tuple[str, ...], progress: Progress) -> Made:
        """Put back what is aside."""
        self._alive()
        guest = self._find(build.server_id)
        self._fail("restore", guest.server, guest.faults, progress)
        names = tuple(d.name for d in build.disks if isinstance(d, LocalDisk))
        if not guest.aside and guest.disks == names and (guest.power in RUNS or not build.start):
            return guest.power, guest.hardware, guest.devices
        images = {k: v for k, v in {**guest.images, **guest.aside}.items() if k not in drop}
        return self._become(msgspec.structs.replace(guest, images=images, aside={}), build)

    def forget_aside(self, server_id: str) -> bool:
        """Forget it."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        if guest is None or not guest.aside:
            return False
        self._fail("forget", server_id, guest.faults, lambda _: None)
        self._world.put(self._host, msgspec.structs.replace(guest, aside={}))
        return True

    def _become(self, guest: FakeGuest, build: GuestBuild) -> Made:
        guest = msgspec.structs.replace(
            guest,
            name=build.name,
            hardware=build.hardware if build.hardware.machine else guest.hardware,
            generation=build.metadata.generation,
            faults=build.faults,
        )
        guest = defined(guest, build)
        if build.start:
            guest = booted(guest)
        self._world.put(self._host, guest)
        return guest.power, guest.hardware, guest.devices
