"""A bus that does its worst: every message 0 to n times, late, in any order. A test switch (RELIABILITY R7).

Requests pass undisturbed: they are read-only, and a lost one is an error that the caller sees.
"""

import heapq
import random
import threading
import time
from collections.abc import Callable

from kilonova.bus.interface import Bus, Handler, Subscription
from kilonova.bus.memory import MemoryBus
from kilonova.common.log import get_logger

log = get_logger(__name__)


class Disturbed:
    """Decorates a bus.

    seed: makes the disturbance repeatable. lose: probability that a message is lost altogether. duplicate: at most so
    many copies of each. delay_s: each copy arrives after a random time up to it, hence in any order.
    monotonic: the clock for delays; with one given nothing is delivered but by ``pump`` (single-threaded tests).
    """

    def __init__(
        self,
        bus: Bus,
        seed: int,
        *,
        duplicate: int = 3,
        lose: float = 0.0,
        delay_s: float = 0.05,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._bus = bus
        self._random = random.Random(seed)  # noqa: S311
        self._duplicate = duplicate
        self._lose = lose
        self._delay_s = delay_s
        self._manual = monotonic is not None
        self._monotonic = monotonic or time.monotonic
        self._due: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self._wake = threading.Condition()
        self._closed = False
        self.lost = 0
        self.doubled = 0
        self._thread: threading.Thread | None = None
        if not self._manual:
            self._thread = threading.Thread(target=self._run, name="bus-disturbed", daemon=True)
            self._thread.start()

    def publish(self, subject: str, body: bytes) -> None:
        """Publish some copies, some time."""
        with self._wake:
            if self._random.random() < self._lose:
                self.lost += 1
                return
            copies = self._random.randint(1, max(1, self._duplicate))
            self.doubled += copies - 1
            for _ in range(copies):
                at = self._monotonic() + self._random.uniform(0.0, self._delay_s)
                self._count += 1
                heapq.heappush(self._due, (at, self._count, subject, body))
            self._wake.notify()

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> Subscription:
        """Subscribe at the bus underneath."""
        return self._bus.subscribe(subject, handler, queue)

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask through the bus underneath."""
        return self._bus.request(subject, body, timeout_s)

    def deaf_s(self, last_s: float) -> float:
        """Return what the bus below says."""
        return self._bus.deaf_s(last_s)

    def close(self) -> None:
        """Lose what is still under way, then close the bus underneath."""
        with self._wake:
            self._closed = True
            self._due.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self._bus.close()

    def next_due(self) -> float | None:
        """Return when the next message arrives, in the clock's seconds; None when none is under way."""
        with self._wake:
            return self._due[0][0] if self._due else None

    def pump(self) -> int:
        """Deliver what is due on this thread (manual clock only); return how many messages."""
        moved = self._release()
        if isinstance(self._bus, MemoryBus):
            moved += self._bus.pump()
        return moved

    def _release(self) -> int:
        ready = []
        with self._wake:
            now = self._monotonic()
            while self._due and self._due[0][0] <= now:
                ready.append(heapq.heappop(self._due))
        for _, _, subject, body in ready:
            self._bus.publish(subject, body)
        return len(ready)

    def _run(self) -> None:
        while not self._closed:
            self._release()
            with self._wake:
                if self._closed:
                    return
                wait = self._due[0][0] - self._monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._wake.wait(wait)
