"""Which kinds of orders a host performs beyond building, deleting and powering guests: one line per part."""

from kilonova.agent.guest_nics import GuestNics
from kilonova.agent.guests import Bench, Part


def parts_of(bench: Bench) -> list[Part]:
    """Return the parts of one host."""
    return [GuestNics(bench)]
