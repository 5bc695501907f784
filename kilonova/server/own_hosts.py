"""What this machine is called as a host, and the other real hosts on it."""

import platform
from collections.abc import Sequence


def own_name() -> str:
    """Return what this machine is called as a host: one word."""
    return platform.node().partition(".")[0] or "host1"


def own_hosts(cells: Sequence[str], hosts: int, name: str | None = None) -> list[tuple[str, str]]:
    """Return (cell, name) of the real hosts of this machine: over the cells in turn, itself the first."""
    first = name or own_name()
    names = [first, *(f"{first}-{n + 2}" for n in range(hosts - 1))]
    return [(cells[n % len(cells)], one) for n, one in enumerate(names)]
