"""The part of a driver that gives a guest another size, and can take it back. Errors and progress: driver.py."""

from typing import Protocol, runtime_checkable

from kilonova.objects.guest import DeviceAddress, GuestBuild, Hardware
from kilonova.virt.driver import Progress

Made = tuple[int, Hardware, tuple[DeviceAddress, ...]]


@runtime_checkable
class ResizeDriver(Protocol):
    """Resizes on one host. Every method is repeatable; what is kept aside goes with confirm_resize."""

    def resize(self, build: GuestBuild, timeout_s: float, progress: Progress) -> Made:
        """Shut the guest down (at once after ``timeout_s``), keep its local disks aside, make it as ``build`` says.

        Disks only grow; swap is made anew. Raises Again while the guest shuts down; DriverError: a disk would shrink,
        or there is no room. GuestMissing.
        """
        ...

    def confirm_resize(self, server_id: str) -> bool:
        """Remove what was kept aside; tell whether anything was. Fine when there is no such guest."""
        ...

    def revert_resize(self, build: GuestBuild, progress: Progress) -> Made:
        """Make the guest what it was: what was kept aside and what is in its place change places.

        ``resize`` changes them back, confirm_resize drops what is aside. Fine when nothing was kept: the disks are left
        as they are then. GuestMissing.
        """
        ...
