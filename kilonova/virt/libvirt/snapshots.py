"""The part of the libvirt driver that copies disks for images."""

from pathlib import Path

from kilonova.objects.image_orders import Quiesce
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt.guest_disks import LibvirtDisks
from kilonova.virt.snapshots import Copied


class Snapshots(LibvirtDisks):
    """Copies of the disks of guests that are there."""

    def snapshot(
        self, server_id: str, serial: str, target: Path, quiesce: Quiesce, progress: Progress
    ) -> Copied:
        """Copy a disk; this host cannot hold a guest's file systems yet, so an image that needs that is refused."""
        self._found(server_id)
        if quiesce == Quiesce.REQUIRE:
            raise DriverError("This host cannot hold the guest's file systems.")
        self.copy_disk(server_id, serial, target, progress)
        with target.open("rb") as file:  # QEMU docs, interop/qcow2: bytes 24-31
            head = file.read(32)
        return Copied("qcow2", "bare", int.from_bytes(head[24:32], "big"))
