"""Who owns a state directory: the kernel's lock on a file in it, which the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path

import msgspec

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


class Place:
    """One conductor's place on this machine, and the incarnations of who had it before: they are dead for certain.

    Its lock is the kernel's, so that a conductor that starts again need not wait for its own old leases to run out.
    """

    def __init__(self, directory: Path, most: int = 64) -> None:
        """Take the first place that is free. Raises Conflict when there is none."""
        self._fd: int | None = None
        for n in range(most):
            path = directory / f"conductor-{n}.lock"
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._fd = fd
            break
        if self._fd is None:
            raise Conflict(f"{most} conductors run on {directory} already.")
        self._names = self._read(self._fd)

    @staticmethod
    def _read(fd: int) -> dict[str, list[str]]:
        """Return database -> names; nothing when the file was cut off by a crash: the leases run out then."""
        try:
            return msgspec.json.decode(os.pread(fd, 1 << 20, 0) or b"{}", type=dict[str, list[str]])
        except msgspec.MsgspecError:
            return {}

    def before(self, database: str) -> list[str]:
        """Return the incarnations in a database whose process is gone, and this process's own earlier ones."""
        return self._names.get(database, [])

    def note(self, database: str, names: list[str]) -> None:
        """Keep the incarnations that whoever comes next may declare dead; on disk when this returns."""
        self._names = {**self._names, database: names}
        if self._fd is not None:
            data = msgspec.json.encode(self._names)
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
            os.fsync(self._fd)

    def close(self) -> None:
        """Let go; closing twice is fine."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
