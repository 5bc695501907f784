"""An engine looked at from outside, and run without threads: what tests and the command line do with it."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kilonova.bus.interface import Bus
from kilonova.common.clock import Clock
from kilonova.common.errors import NotFound
from kilonova.db.engine import Database
from kilonova.saga import journal
from kilonova.saga.leases import RENEW_S
from kilonova.saga.ownership import Ownership
from kilonova.saga.queues import HostQueues, Key, Ready


class Stepping:
    """The half of the engine that waits for operations, counts them, and runs them on the caller's thread."""

    databases: Mapping[str, Database]
    ownership: Ownership
    queues: HostQueues
    crashed: BaseException | None
    _bus: Bus
    _clock: Clock
    _endings: threading.Condition
    _held: dict[Key, bool]
    _lock: threading.Lock
    _ready: Ready

    if TYPE_CHECKING:

        def now(self) -> float: ...
        def sweep(self, limit: int = ...) -> int: ...
        def _answering(self) -> list[Database]: ...
        def _run(self, key: Key) -> None: ...

    def depth(self) -> dict[str, int]:
        """Return how many operations run (or are about to), wait, and stand in line for a host."""
        with self._lock:
            running = len(self._held)
        rows = sum(db.read(journal.waiting) for db in self._answering())
        return {"running": running, "waiting": rows, "queued": sum(self.queues.depth().values())}

    def wait(self, database: str, operation: str, timeout_s: float = 30.0) -> str:
        """Return the final state of an operation once it has ended, for tests and the command line.

        Raises TimeoutError after ``timeout_s`` real seconds, NotFound; Killed when a fault killed this engine.
        """
        end = time.monotonic() + timeout_s
        db = self.databases[database]
        while True:
            row = db.read(lambda tx: journal.find_row(tx, operation))
            if row is None:
                raise NotFound(f"Operation {operation} could not be found.")
            if row["ended_at"] is not None:
                state: str = row["state"]
                return state
            if self.crashed is not None:
                raise self.crashed
            with self._endings:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"operation {operation} is {row['state']} at {row['step']!r}"
                    )
                self._endings.wait(min(left, 0.05))

    def step_once(self) -> bool:
        """Run one operation on this thread as far as it goes; False when none is ready. For tests without threads."""
        try:
            key = self._ready.get(block=False)
        except queue.Empty:
            return False
        if key is not None:
            self._run(key)
        return True

    def run_until_idle(self, *, advance: bool = True, limit: int = 100_000) -> None:
        """Run everything on this thread until nothing is live, or nothing can move without time passing.

        With a bus that has ``pump``, its messages are delivered here too. ``advance``: let a ManualClock go on to the
        next wake-up; operations that never end then raise RuntimeError after ``limit`` rounds.
        """
        pump: Callable[[], int] = getattr(self._bus, "pump", lambda: 0)
        for _ in range(limit):
            if self.step_once() or pump() or self.sweep():
                continue
            if not advance or not self._advance():
                return
        raise RuntimeError("the engine does not come to rest")

    def _advance(self) -> bool:
        """Move a ManualClock to the next event; False when there is none."""
        move: Callable[[float], None] | None = getattr(self._clock, "advance", None)
        if move is None:
            return False
        next_due: Callable[[], float | None] = getattr(self._bus, "next_due", lambda: None)
        wakes = [db.read(journal.next_wake) for db in self._answering()]
        waits = [at - self.now() for at in wakes if at is not None]
        message = next_due()
        if message is not None:
            waits.append(message - self._clock.monotonic())
        if not waits:
            return False
        if self.ownership.shared:
            waits.append(RENEW_S)  # no further at once: a lease must not run out between two sweeps
        move(max(0.001, min(waits) + 0.001))
        return True
