"""Who owns a state directory: the kernel's lock on a file in it, which the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path

from kilonova.common.errors import Conflict


class StateLock:
    """Hold the lock of a state directory; while it is held, every older incarnation of the engine is dead.

    The file names the holder's pid for people; only the lock counts. shared: conductors that own by lease (leases.py)
    hold it together, and keep out a process that would think itself alone; nobody is dead because of it.
    """

    def __init__(self, directory: Path, name: str = "owner.lock", *, shared: bool = False) -> None:
        """Take the lock at once. Raises Conflict when another process holds it in a way that excludes this one."""
        self.path = directory / name
        self._fd: int | None = os.open(
            self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            self._fd = None
            raise Conflict(
                f"The state directory {directory} is in use by process {pid or '(unknown)'}."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    @property
    def held(self) -> bool:
        return self._fd is not None

    def close(self) -> None:
        """Let go; closing twice is fine. The file stays: removing it would let two holders in."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
