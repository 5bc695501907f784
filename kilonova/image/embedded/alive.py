"""Which processes take uploads in: a kernel lock on the images' directory, dropped when its holder dies."""

import fcntl
import os
from pathlib import Path


class Alive:
    """One process's hold. first: nobody else takes uploads in, so what is half done was left by the dead."""

    def __init__(self, directory: Path) -> None:
        self._fd: int | None = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.first = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.first = False
            self.share()

    def share(self) -> None:
        """Let others in beside us, once what was left is swept."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go; safe to repeat."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
