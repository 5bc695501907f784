"""The part of a simulated host's driver that copies disks for images."""

import errno
from pathlib import Path

from kilonova.objects.image_orders import Quiesce
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.fake.disks import FakeDisks
from kilonova.virt.fake.world import RUNS
from kilonova.virt.snapshots import Copied


class FakeSnapshots(FakeDisks):
    """Copies of the disks of guests that are there."""

    def snapshot(
        self, server_id: str, serial: str, target: Path, quiesce: Quiesce, progress: Progress
    ) -> Copied:
        """Write an empty disk of the right size: a simulated guest has nothing on its own."""
        self._alive()
        guest = self._find(server_id)
        self._fail("snapshot", server_id, guest.faults, progress)
        wanted = quiesce == Quiesce.REQUIRE and guest.power in RUNS
        if wanted and not guest.hardware.guest_agent:
            raise DriverError("The guest's file systems cannot be held: it has no guest agent.")
        if self._world.faults.strikes("snapshot_no_room", self._host, server_id, guest.faults):
            target.write_bytes(bytes(1000))
            raise OSError(errno.ENOSPC, "No space left on device")
        self.copy_disk(server_id, serial, target, progress)
        return Copied("qcow2", "bare", guest.sizes.get(serial, 0) << 30)
