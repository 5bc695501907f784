"""The part of the libvirt driver that changes a guest's disks."""

from pathlib import Path

from kilonova.objects.guest import DeviceAddress, FileDisk, NbdDisk
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt.domains import Domains

NOT_YET = "This host cannot change the disks of a server yet."


class LibvirtDisks(Domains):
    """The DiskDriver part."""

    def attach_disk(
        self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress
    ) -> tuple[DeviceAddress, ...]:
        """Refuse."""
        raise DriverError(NOT_YET)

    def detach_disk(self, server_id: str, serial: str, progress: Progress) -> bool:
        """Nothing was attached."""
        return False

    def devices(self, server_id: str) -> tuple[DeviceAddress, ...]:
        """Say nothing."""
        return ()

    def disk_serials(self, server_id: str) -> tuple[str, ...]:
        """Nothing was attached."""
        return ()

    def extend_disk(self, server_id: str, serial: str, size_gib: int) -> None:
        """Refuse."""
        raise DriverError(NOT_YET)

    def copy_disk(self, server_id: str, serial: str, target: Path, progress: Progress) -> None:
        """Refuse."""
        raise DriverError(NOT_YET)

    def end_copy(self, server_id: str, target: Path) -> None:
        """Nothing was copied."""
