"""What guests print: the log of the first serial port, bounded, and its last lines."""

import os
from pathlib import Path

KEEP_BYTES = 1 << 20
"""So much is ever kept or shown; the file may grow to twice that between two looks."""


def prepare(log: Path) -> None:
    """Make an empty log if there is none; libvirtd appends to it."""
    if not log.exists():
        log.touch(mode=0o640)


def rotate(log: Path) -> bool:
    """When the log is over KEEP_BYTES keep the newest in ``.1`` and empty it; tell whether that was so.

    QEMU has it open for appending and goes on at the new end. Bytes printed between the copy and the cut are lost.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return False
    if size <= KEEP_BYTES:
        return False
    part = log.with_suffix(".part")
    part.write_bytes(_tail(log, KEEP_BYTES))
    part.chmod(0o600)
    os.replace(part, log.with_suffix(".1"))
    os.truncate(log, 0)
    return True


def read(log: Path, lines: int | None) -> str:
    """Return the last ``lines`` lines (None: all that is kept) as text, at most KEEP_BYTES; "" without a log."""
    data = _tail(log, KEEP_BYTES)
    if len(data) < KEEP_BYTES:
        data = _tail(log.with_suffix(".1"), KEEP_BYTES - len(data)) + data
    if lines is not None:
        kept = data.splitlines(keepends=True)
        data = b"".join(kept[max(0, len(kept) - lines) :]) if lines > 0 else b""
    return data.decode("utf-8", errors="replace")


def _tail(path: Path, most: int) -> bytes:
    """Return at most the last ``most`` bytes; b"" when there is no such file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            return file.read(most)
    except FileNotFoundError:
        return b""
