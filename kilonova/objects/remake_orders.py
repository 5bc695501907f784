"""What a host agent is told when a guest becomes another one in place (rebuild, rescue). Payloads of Order and Answer.

verb of the Order      payload          answer payload
guest_remake           GuestRemake      GuestBuilt     off, disks exchanged, defined anew, started
guest_forget           GuestForget      GuestGone      what was put aside is removed
The undo of guest_remake is an Order with verb guest_remake, direction undo and a GuestRestore payload.
"""

from typing import ClassVar

from kilonova.objects.base import Version, Versioned, since
from kilonova.objects.guest import GuestBuild


class GuestRemake(Versioned, frozen=True, kw_only=True):
    """Make a guest what ``build`` says; build.start: whether it runs afterwards.

    anew: local disks that are made anew, the old ones put aside. Disks that ``build`` has not are put aside too.
    mark: names the files of this order apart from others'. timeout_s: of the guest's shutdown, 0: at once.
    drive: the config drive is made anew too, although no local disk is.
    """

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    build: GuestBuild
    mark: str
    anew: tuple[str, ...] = ()
    timeout_s: float = 0.0
    drive: bool = since(1, 1, default=False)


class GuestRestore(Versioned, frozen=True, kw_only=True):
    """Make a guest what it was, as ``build`` says; one that was not touched stays as it is.

    drop: local disks that are removed. build.start: whether it ran.
    """

    server_id: str
    build: GuestBuild
    drop: tuple[str, ...] = ()


class GuestForget(Versioned, frozen=True, kw_only=True):
    """Remove all that was put aside."""

    server_id: str
