"""The part of a driver that makes a guest another one in place: rebuild, rescue, unrescue. Errors as in driver.py."""

from typing import NamedTuple, Protocol, runtime_checkable

from kilonova.objects.guest import DeviceAddress, GuestBuild, Hardware
from kilonova.virt.driver import Progress

Made = tuple[int, Hardware, tuple[DeviceAddress, ...]]


class Change(NamedTuple):
    """How. anew: local disks made anew. mark: names new files. timeout_s: of the shutdown, 0: at once.

    drive: a config drive is made anew; it always is when a disk is.
    """

    anew: tuple[str, ...] = ()
    mark: str = ""
    timeout_s: float = 0.0
    drive: bool = False


@runtime_checkable
class RemakeDriver(Protocol):
    """Every method is repeatable. Nothing is lost before ``forget_aside``."""

    def remake(self, build: GuestBuild, change: Change, progress: Progress) -> Made:
        """Make a guest what ``build`` says. What takes long is made first, while the guest runs as it was.

        Disks that are made anew, or not in ``build``, are put aside. Raises Again while the guest shuts down.
        """
        ...

    def restore(self, build: GuestBuild, drop: tuple[str, ...], progress: Progress) -> Made:
        """Take ``remake`` back: what is aside comes back, ``drop`` is removed; an untouched guest stays as it is."""
        ...

    def forget_aside(self, server_id: str) -> bool:
        """Remove what is aside; tell whether there was anything. Fine when there is no guest."""
        ...
