"""Orders that change nothing: whether this host can take a guest that is to come."""

from kilonova.agent.guests import Bench, Verbs, Work, payload_of
from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestBuild
from kilonova.objects.move_orders import GuestChecked
from kilonova.objects.order import Direction
from kilonova.virt.driver import DriverError


class GuestChecks:
    """Questions that are asked before anything is touched elsewhere."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def verbs(self) -> Verbs:
        """Return what this part performs."""
        return {("guest_check", Direction.DO): self._check}

    def _check(self, work: Work) -> Versioned:
        build = payload_of(work, GuestBuild)
        refused = self._bench.driver.refuses(build)
        if refused is not None:
            raise DriverError(refused, elsewhere=True)
        return GuestChecked()
