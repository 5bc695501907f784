"""What rests in the journal of a drain."""

from typing import ClassVar

from kilonova.objects.base import Version, Versioned, since


class DrainParams(Versioned, frozen=True, kw_only=True):
    """Parameters of a drain of a host. cold: servers that run may be turned off for their move.

    across_cells: to another cell, when their own has no other host for them.
    at_once: so many servers are moved at the same time. reason: why the host is disabled. was_disabled: before it.
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    cold: bool = False
    at_once: int = 4
    reason: str = ""
    was_disabled: bool = False
    across_cells: bool = since(1, 1, default=False)
