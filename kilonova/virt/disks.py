"""The part of a driver that changes a guest's disks while it exists. Errors and ``progress`` as in driver.py."""

from pathlib import Path
from typing import Protocol

from kilonova.objects.guest import DeviceAddress, FileDisk, NbdDisk
from kilonova.virt.driver import Progress


class DiskDriver(Protocol):
    """Disks of guests by serial: a volume's serial is its id, a local disk's its name. Every method is repeatable."""

    def attach_disk(
        self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress
    ) -> tuple[DeviceAddress, ...]:
        """Give a guest a disk, at once when it runs, and at every later start; return all its devices.

        GuestMissing. DriverError: no room on the bus, or the volume has another writer.
        """
        ...

    def detach_disk(self, server_id: str, serial: str, progress: Progress) -> bool:
        """Take a disk out; tell whether the guest had it. Raises Again until the guest let go of it."""
        ...

    def mirror_disk(self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress) -> None:
        """Copy what a running guest has to another place of its volume, and from then on write what it writes to both.

        When this returns each place has all that the guest was told is written, until ``swap_disk`` to either. Raises
        and overwrites as that does.
        """
        ...

    def swap_disk(
        self,
        server_id: str,
        disk: NbdDisk | FileDisk,
        progress: Progress,
        *,
        decided: bool = False,
    ) -> None:
        """Bring a guest over to another place of the volume ``disk.serial``, while it runs: all it has is copied there.

        What was there is overwritten. Raises Again while it copies. GuestMissing; DriverError: the guest is off, or the
        place cannot be reached; one that has the disk there already is left as it is. decided: that place has all, so a
        guest that is off starts there.
        """
        ...

    def devices(self, server_id: str) -> tuple[DeviceAddress, ...]:
        """Return where a guest sees its NICs and disks, with their tags; empty when there is no guest."""
        ...

    def disk_serials(self, server_id: str) -> tuple[str, ...]:
        """Return the serials of the volumes that a guest is defined with or has now; empty when there is no guest."""
        ...

    def local_disks(self) -> dict[str, tuple[str, ...]]:
        """Return every server of which this host has files: id -> names of its local disks, () for none; for audits."""
        ...

    def extend_disk(self, server_id: str, serial: str, size_gib: int) -> None:
        """Let a running guest see that a disk has grown; grows the file too. DriverError where it cannot."""
        ...

    def hold_disk(self, server_id: str, serial: str) -> None:
        """Have a running guest's requests to a disk over NBD wait when its export ends, until ``resume_disk``.

        GuestMissing. DriverError: the guest has no such disk, or it is busy.
        """
        ...

    def resume_disk(self, server_id: str, serial: str, size_gib: int | None) -> None:
        """Undo ``hold_disk``, and let a running guest see a disk of that size; fine without the disk. GuestMissing."""
        ...

    def copy_disk(self, server_id: str, serial: str, target: Path, progress: Progress) -> None:
        """Copy a disk as it is at one moment to ``target``, a new complete qcow2 file; the guest may go on writing.

        Raises Again while it copies: ``target`` is not to be read before this returned. A copy that failed or was
        aborted leaves no file; one that nobody asks for any more is ended by ``end_copy``. GuestMissing.
        """
        ...

    def end_copy(self, server_id: str, target: Path) -> None:
        """Give up a copy to ``target`` and remove that file; fine when there is none, or no guest."""
        ...
