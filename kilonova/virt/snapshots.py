"""The part of a driver that copies a disk for an image. Errors and ``progress`` as in driver.py."""

from pathlib import Path
from typing import NamedTuple, Protocol

from kilonova.objects.image_orders import Quiesce
from kilonova.virt.driver import Progress


class Copied(NamedTuple):
    """What the driver made: only it knows (SM-15). virtual_size: bytes of the disk inside."""

    disk_format: str
    container_format: str
    virtual_size: int


class SnapshotDriver(Protocol):
    """Copies of guests' disks."""

    def snapshot(
        self, server_id: str, serial: str, target: Path, quiesce: Quiesce, progress: Progress
    ) -> Copied:
        """Copy a disk as it is at one moment to ``target``, a new complete file; the guest may go on writing.

        Raises Again while it copies; a copy that was given up leaves no file. GuestMissing. DriverError: the guest's
        file systems must be held and cannot be, or there is no room.
        """
        ...
