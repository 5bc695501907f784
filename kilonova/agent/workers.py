"""Few threads for many hosts: jobs with a key run one at a time per key, and wait without holding a thread.

A job is a function without arguments. It returns None when it is done, or the seconds after which it wants to be called
again; until it is done no other job of its key begins, so a guest never has two at once.
"""

import collections
import heapq
import itertools
import threading
import time
from collections.abc import Callable

from kilonova.common.log import get_logger

log = get_logger(__name__)
Job = Callable[[], float | None]
Key = tuple[str, str]  # (host, server id or the name of a chore)


class Workers:
    """A bounded pool of threads, shared by all agents of a process. Safe from any thread."""

    def __init__(self, threads: int = 8, name: str = "agent") -> None:
        self._most = threads
        self._name = name
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._due = threading.Condition(self._lock)
        self._ready: collections.deque[tuple[Key, Job]] = collections.deque()
        self._held: dict[Key, collections.deque[Job] | None] = {}  # None: nothing waits behind it
        self._asleep: dict[Key, tuple[int, Job]] = {}  # jobs that wait to be called again
        self._timers: list[tuple[float, int, Key, Job | None]] = []
        self._count = itertools.count()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._timer: threading.Thread | None = None
        self._closed = False

    def submit(self, key: Key, job: Job) -> None:
        """Run ``job`` once those of its key that came before are done. After ``close`` nothing is taken."""
        with self._lock:
            self._submit(key, job)

    def after(self, delay_s: float, key: Key, job: Job) -> None:
        """Submit ``job`` when ``delay_s`` seconds have passed."""
        with self._lock:
            self._set_timer(delay_s, next(self._count), key, job)

    def wake(self, key: Key) -> None:
        """Call the job of ``key`` that waits to be called again at once; nothing when none waits."""
        with self._lock:
            slept = self._asleep.pop(key, None)
            if slept is not None:
                self._enqueue(key, slept[1])

    def close(self, wait: bool = True) -> None:
        """Take no more jobs and let those that run finish; jobs that wait are dropped. Safe to repeat."""
        with self._lock:
            self._closed = True
            self._ready.clear()
            self._timers.clear()
            self._asleep.clear()
            self._work.notify_all()
            self._due.notify_all()
            threads = [*self._threads, *([self._timer] if self._timer else [])]
        if wait:
            for t in threads:
                if t is not threading.current_thread():
                    t.join()

    # -- inside, with the lock held

    def _submit(self, key: Key, job: Job) -> None:
        if self._closed:
            return
        if key in self._held:
            queue = self._held[key]
            if queue is None:
                queue = self._held[key] = collections.deque()
            queue.append(job)
            return
        self._held[key] = None
        self._enqueue(key, job)

    def _enqueue(self, key: Key, job: Job) -> None:
        self._ready.append((key, job))
        if self._idle >= len(self._ready):
            self._work.notify()
        elif len(self._threads) < self._most:
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        else:
            self._work.notify()

    def _set_timer(self, delay_s: float, number: int, key: Key, job: Job | None) -> None:
        if self._closed:
            return
        at = time.monotonic() + delay_s
        heapq.heappush(self._timers, (at, number, key, job))
        if self._timer is None:
            self._timer = threading.Thread(
                target=self._tick, name=f"{self._name}-timer", daemon=True
            )
            self._timer.start()
        elif self._timers[0][1] == number:
            self._due.notify()

    def _finished(self, key: Key, again: float | None, job: Job) -> None:
        if again is not None:
            number = next(self._count)
            self._asleep[key] = (number, job)
            self._set_timer(again, number, key, None)
            return
        queue = self._held[key]
        if queue:
            self._enqueue(key, queue.popleft())
        else:
            del self._held[key]

    # -- threads

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._ready and not self._closed:
                    self._work.wait()
                self._idle -= 1
                if self._closed:
                    return
                key, job = self._ready.popleft()
            again: float | None = None
            try:
                again = job()
            except Exception:
                log.exception("a job of an agent failed", extra={"host": key[0], "key": key[1]})
            with self._lock:
                self._finished(key, again, job)

    def _tick(self) -> None:
        with self._lock:
            while not self._closed:
                if not self._timers:
                    self._due.wait()
                    continue
                wait = self._timers[0][0] - time.monotonic()
                if wait > 0:
                    self._due.wait(wait)
                    continue
                _, number, key, job = heapq.heappop(self._timers)
                if job is not None:
                    self._submit(key, job)
                    continue
                slept = self._asleep.get(key)
                if slept is not None and slept[0] == number:
                    del self._asleep[key]
                    self._enqueue(key, slept[1])
