"""Directories of tests outside of ``tmp_path``: where another user has to pass, or a socket's path must be short.

Each is named after the process that made it, so that what a killed run left is swept by the next one.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "kilonova-test-"


def make(what: str = "place", mode: int = 0o700) -> Path:
    """Make a directory; its maker removes it."""
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{what}-{os.getpid()}-"))
    path.chmod(mode)
    return path


@contextlib.contextmanager
def place(what: str = "place", mode: int = 0o700) -> Iterator[Path]:
    """A directory that is gone with the block."""
    path = make(what, mode)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def sweep() -> None:
    """Remove directories whose maker is dead."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*-*"):
        pid = path.name.split("-")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)
