"""The bus inside one process: a few threads deliver bytes; each subscription gets its messages one by one, in order.

Like the network one it promises nothing: what nobody takes is dropped, and a subscriber that falls behind by more than
``delivery.BACKLOG`` messages loses the oldest. Senders encode, receivers decode: bytes go in and come out.
"""

import itertools
import threading
from typing import Any

from kilonova.bus.delivery import Call, Delivery, Taker
from kilonova.bus.interface import Handler, NobodyListens
from kilonova.common.errors import Unavailable

ROUTES = 50_000


class _Route:
    """Who gets messages of one subject: every single one, and of each group the next member."""

    __slots__ = ("groups", "singles")

    def __init__(self, members: tuple[Taker, ...]) -> None:
        self.singles = [s for s in members if s.group is None]
        groups: dict[str, list[Taker]] = {}
        for s in members:
            if s.group is not None:
                groups.setdefault(s.group, []).append(s)
        self.groups = [(g, itertools.count()) for g in groups.values()]

    def pick(self) -> list[Taker]:
        if not self.groups:
            return self.singles
        return self.singles + [g[next(n) % len(g)] for g, n in self.groups]


class _Takers:
    """All subscribers, found by subject without looking at each: a host has several, and hosts are thousands."""

    def __init__(self) -> None:
        self._exact: dict[str, list[Taker]] = {}
        self._patterns: dict[tuple[int, str], list[Taker]] = {}  # by number of words, and the first

    def _box(self, taker: Taker) -> tuple[dict[Any, list[Taker]], object]:
        if "*" in taker.words:
            return self._patterns, (len(taker.words), taker.words[0])
        return self._exact, taker.subject

    def add(self, taker: Taker) -> None:
        table, key = self._box(taker)
        table.setdefault(key, []).append(taker)

    def drop(self, taker: Taker) -> None:
        table, key = self._box(taker)
        found = table.get(key, [])
        if taker in found:
            found.remove(taker)
            if not found:
                del table[key]

    def of(self, subject: str) -> tuple[Taker, ...]:
        many = subject.count(".") + 1
        found = list(self._exact.get(subject, ()))
        for first in (subject.partition(".")[0], "*"):
            found += [t for t in self._patterns.get((many, first), ()) if t.takes(subject)]
        return tuple(found)

    def all(self) -> list[Taker]:
        found = [t for takers in self._exact.values() for t in takers]
        return found + [t for takers in self._patterns.values() for t in takers]

    def clear(self) -> None:
        self._exact.clear()
        self._patterns.clear()


class _Reply:
    __slots__ = ("body", "done")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.body: bytes | None = None

    def put(self, body: bytes | None) -> None:
        self.body = body
        self.done.set()


class MemoryBus:
    """The one-process bus.

    workers: threads that deliver; 0: only ``pump`` delivers, on the thread of its caller (tests). A handler gets its
    messages one at a time, requests beside them.
    """

    def __init__(self, workers: int = 4) -> None:
        self._lock = threading.Lock()
        self._takers = _Takers()
        self._routes: dict[str, _Route] = {}
        self._alike: dict[tuple[Taker, ...], _Route] = {}  # of subjects that only patterns take
        self._closed = False
        self._delivery = Delivery(workers)

    # -- the interface

    def publish(self, subject: str, body: bytes) -> None:
        """Put a message into the box of everyone who takes it; returns at once."""
        route = self._routes.get(subject)
        if route is None:
            route = self._find(subject)
        for taker in route.pick():
            self._delivery.put(taker, subject, body)

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> Taker:
        """Call ``handler`` on a bus thread for each message, one at a time; ``*`` stands for one word."""
        taker = Taker(subject, handler, queue, self._forget)
        with self._lock:
            if self._closed:
                raise Unavailable("The bus is closed.")
            self._takers.add(taker)
            self._changed(taker)
        return taker

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one subscriber on a thread of its own pool; its publications may be waiting, that is no matter."""
        takers = self._find(subject).pick()
        if not takers or self._closed:
            raise NobodyListens("Nobody answers.", subject=subject)
        reply = _Reply()
        self._delivery.call(Call(takers[0], subject, body, reply.put))
        if not reply.done.wait(timeout_s):
            raise NobodyListens("Nobody answered in time.", subject=subject, timeout_s=timeout_s)
        if reply.body is None:
            raise NobodyListens("Nobody answers.", subject=subject)
        return reply.body

    def deaf_s(self, last_s: float) -> float:
        """Return 0: what is said in this process arrives."""
        return 0.0

    def close(self) -> None:
        """Deliver nothing more; handlers that run are waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._takers.clear()
            self._routes, self._alike = {}, {}
        self._delivery.close()

    # -- for tests and decorators

    def pump(self) -> int:
        """Deliver what waits now on this thread; return how many messages. For ``workers=0``."""
        return self._delivery.pump()

    def drain(self, timeout_s: float = 30.0) -> None:
        """Wait until no message waits and no handler of one runs; TimeoutError after ``timeout_s`` seconds."""
        self._delivery.drain(self._all, timeout_s)

    # -- inside

    def _find(self, subject: str) -> _Route:
        with self._lock:
            route = self._routes.get(subject)
            if route is None:
                members = self._takers.of(subject)
                if any(t.subject == subject for t in members):
                    route = _Route(members)
                else:
                    route = self._alike.setdefault(members, _Route(members))
                if len(self._routes) >= ROUTES:
                    self._routes = {}
                self._routes[subject] = route
        return route

    def _all(self) -> list[Taker]:
        with self._lock:
            return self._takers.all()

    def _changed(self, taker: Taker) -> None:
        """Forget the ways that a subscriber which came or went is part of. The lock is held."""
        if "*" in taker.words:
            self._routes, self._alike = {}, {}
        else:
            self._routes.pop(taker.subject, None)

    def _forget(self, taker: Taker) -> None:
        with self._lock:
            self._takers.drop(taker)
            self._changed(taker)
