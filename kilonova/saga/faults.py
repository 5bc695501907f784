"""Fault points: what a test makes go wrong, where, and whether it was reached.

A point is (step, direction, when): ``before`` the effect, ``after`` it (done, not yet journaled), ``recorded``
(journaled); an order is doubled at ``sent``.
The last act of an unwind is the step ``unwound`` of direction undo. Production passes no Faults and pays nothing.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kilonova.common.errors import KilonovaError

ERROR, BUG, KILL, LOST, TWICE, PAUSE = "error", "bug", "kill", "lost", "twice", "pause"
BEFORE, SENT, AFTER, RECORDED = "before", "sent", "after", "recorded"
UNWOUND = "unwound"


class Killed(BaseException):
    """The process died here. The engine never handles it; the test makes a new Engine on the same databases."""


class Injected(KilonovaError):
    """An error that a test asked for; not retryable."""

    code = "injected"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    kind: error (a KilonovaError) | bug (a ValueError) | kill | lost (the effect happened, the reply did not come)
        | twice (the effect happens twice) | pause (``Faults.pause`` is called).
    times: how often in a row. skip: how many passages go well before.
    """

    step: str
    direction: str
    when: str
    kind: str
    times: int = 1
    skip: int = 0

    def __str__(self) -> str:
        return f"{self.kind}@{self.step}:{self.direction}:{self.when}"


class Faults:
    """The faults of one test case; keep one object over several engines, so that each fault strikes once."""

    def __init__(self, *faults: Fault, pause: Callable[[Fault], None] | None = None) -> None:
        self.faults = faults
        self._pause = pause
        self._passed = [0] * len(faults)
        self._hits = [0] * len(faults)
        self._lock = threading.Lock()

    def at(self, step: str, direction: str, when: str) -> str | None:
        """Strike, if a fault is due here: raise, pause, or return what the runner must do (``lost``, ``twice``)."""
        fault = self._take(step, direction, when)
        if fault is None:
            return None
        if fault.kind == KILL:
            raise Killed(str(fault))
        if fault.kind == ERROR:
            raise Injected("An injected error.", at=str(fault))
        if fault.kind == BUG:
            raise ValueError(f"injected: {fault}")
        if fault.kind == PAUSE and self._pause is not None:
            self._pause(fault)
        return fault.kind

    def _take(self, step: str, direction: str, when: str) -> Fault | None:
        with self._lock:
            for i, f in enumerate(self.faults):
                if (f.step, f.direction, f.when) != (step, direction, when):
                    continue
                self._passed[i] += 1
                if self._passed[i] > f.skip and self._hits[i] < f.times:
                    self._hits[i] += 1
                    return f
        return None

    @property
    def missed(self) -> list[Fault]:
        """Faults that never struck: a test with one of them proved nothing."""
        return [f for f, n in zip(self.faults, self._hits, strict=True) if n == 0]
