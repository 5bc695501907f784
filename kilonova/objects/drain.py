"""What rests in the journal of a drain."""

from kilonova.objects.base import Versioned


class DrainParams(Versioned, frozen=True, kw_only=True):
    """Parameters of a drain of a host. cold: servers that run may be turned off for their move.

    at_once: so many servers are moved at the same time. reason: why the host is disabled. was_disabled: before it.
    """

    host: str
    cold: bool = False
    at_once: int = 4
    reason: str = ""
    was_disabled: bool = False
