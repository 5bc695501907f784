"""Agents and messages on the test's own thread, driven by a ManualClock: what the fault tests of servers run on."""

import collections
import heapq
import itertools
from typing import Any

from kilonova.agent.workers import Job, Key
from kilonova.bus.disturbed import Disturbed
from kilonova.bus.interface import Handler, Subscription
from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock

_CHORES = frozenset(("heartbeat", "purge", "exports"))


class PumpWorkers:
    """``Workers`` without threads: ``pump`` runs what is due, by the manual clock. One job at a time per key."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._ready: collections.deque[tuple[Key, Job]] = collections.deque()
        self._held: dict[Key, collections.deque[Job]] = {}
        self._asleep: dict[Key, tuple[int, Job]] = {}
        self._timers: list[tuple[float, int, Key, Job | None]] = []
        self._count = itertools.count()
        self._closed = False

    def submit(self, key: Key, job: Job) -> None:
        if self._closed:
            return
        queue = self._held.get(key)
        if queue is not None:
            queue.append(job)
            return
        self._held[key] = collections.deque()
        self._ready.append((key, job))

    def after(self, delay_s: float, key: Key, job: Job) -> None:
        at = self._clock.monotonic() + delay_s
        heapq.heappush(self._timers, (at, next(self._count), key, job))

    def wake(self, key: Key) -> None:
        slept = self._asleep.pop(key, None)
        if slept is not None:
            self._ready.append((key, slept[1]))

    def close(self, wait: bool = True) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        self._asleep.clear()

    def pump(self) -> int:
        """Run every job that is ready or due; return how many."""
        now, n = self._clock.monotonic(), 0
        while self._timers and self._timers[0][0] <= now:
            _, number, key, job = heapq.heappop(self._timers)
            if job is not None:
                self.submit(key, job)
            elif key in self._asleep and self._asleep[key][0] == number:
                self._ready.append((key, self._asleep.pop(key)[1]))
        for _ in range(len(self._ready)):
            key, job = self._ready.popleft()
            n += 1
            again = job()
            if again is not None:
                number = next(self._count)
                self._asleep[key] = (number, job)
                at = self._clock.monotonic() + again
                heapq.heappush(self._timers, (at, number, key, None))
            elif self._held[key]:
                self._ready.append((key, self._held[key].popleft()))
            else:
                del self._held[key]
        return n

    def next_due(self) -> float | None:
        """Return when the next job is due, chores that never end left out."""
        return min((at for at, _, key, _ in self._timers if key[1] not in _CHORES), default=None)


class SingleBus:
    """A bus that delivers when it is pumped, and runs the agents' jobs then too."""

    def __init__(self, clock: ManualClock, disturbed: int | None = None, lose: float = 0.1) -> None:
        self.workers = PumpWorkers(clock)
        self.plain = MemoryBus(workers=0)
        self.bus: MemoryBus | Disturbed = self.plain
        if disturbed is not None:
            self.bus = Disturbed(
                self.plain, disturbed, lose=lose, delay_s=30.0, monotonic=clock.monotonic
            )
        self.chores: list[Any] = []  # called with nothing at each pump; return how much they did

    def publish(self, subject: str, body: bytes) -> None:
        # Heartbeats and events of hosts are not what is disturbed: a host that is silent for a minute is down.
        target = self.plain if subject.startswith("report.") else self.bus
        target.publish(subject, body)

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> Subscription:
        return self.bus.subscribe(subject, handler, queue)

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        return self.plain.request(subject, body, timeout_s)

    def deaf_s(self, last_s: float) -> float:
        return 0.0

    def pump(self) -> int:
        done = self.bus.pump() + self.workers.pump()
        return done + sum(int(chore()) for chore in self.chores)

    def next_due(self) -> float | None:
        first = self.bus.next_due() if isinstance(self.bus, Disturbed) else None
        return min((t for t in (first, self.workers.next_due()) if t is not None), default=None)

    def close(self) -> None:
        self.workers.close()
        self.bus.close()
