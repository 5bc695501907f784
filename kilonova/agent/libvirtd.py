"""Our own libvirtd: one daemon per cloud in a private root, started by the root helper, detached from us.

Guests go on when libvirtd or we die; a new libvirtd over the same directories finds them. The daemon runs in the
host namespace of the cloud, so taps, bridges and QEMU live there. Consoles and displays must therefore use unix
sockets or files: their addresses are not reachable from outside the namespace.
"""

from typing import Protocol

import msgspec

from kilonova.common.errors import Unavailable


class LibvirtdDown(Unavailable):
    """libvirtd did not start or does not answer; facts hold the end of its log."""

    code = "libvirtd"


class LibvirtdInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A libvirtd that answers. uri: for libvirt.open(). pid: of the daemon. started: by this very call.

    moves: a directory in which QEMU may listen for guests that move here. certificates: from which QEMU reads this
    host's, and in which its agent may write.
    """

    uri: str
    pid: int
    socket: str
    qemu_user: str
    qemu_group: str
    log: str
    moves: str = ""
    certificates: str = ""
    started: bool = False


class LibvirtdStarter(Protocol):
    """The part of the root helper's client that this module needs."""

    def libvirtd_start(self) -> LibvirtdInfo: ...

    def libvirtd_stop(self) -> None: ...


def ensure(helper: LibvirtdStarter) -> LibvirtdInfo:
    """Return the running libvirtd, started if there is none; repeatable. Raises LibvirtdDown."""
    return helper.libvirtd_start()


def stop(helper: LibvirtdStarter) -> None:
    """End libvirtd, not the guests; fine when it does not run."""
    helper.libvirtd_stop()
