"""The bus inside one process: a few threads deliver bytes; each subscription gets its messages one by one, in order.

Like the network one it promises nothing: what nobody takes is dropped, and a subscriber that falls behind by more than
``delivery.BACKLOG`` messages loses the oldest. Senders encode, receivers decode: bytes go in and come out.
"""

import itertools
import threading

from kilonova.bus.delivery import Call, Delivery, Taker
from kilonova.bus.interface import Handler, NobodyListens
from kilonova.common.errors import Unavailable

ROUTES = 50_000


class _Route:
    """Who gets messages of one subject: every single one, and of each group the next member."""

    __slots__ = ("groups", "singles")

    def __init__(self, members: list[Taker]) -> None:
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
        self._takers: list[Taker] = []
        self._routes: dict[str, _Route] = {}
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
            self._takers.append(taker)
            self._routes = {}
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
            self._routes = {}
        self._delivery.close()

    # -- for tests and decorators

    def pump(self) -> int:
        """Deliver what waits now on this thread; return how many messages. For ``workers=0``."""
        return self._delivery.pump()

    def drain(self, timeout_s: float = 30.0) -> None:
        """Wait until no message waits and no handler of one runs; TimeoutError after ``timeout_s`` seconds."""
        self._delivery.drain(lambda: list(self._takers), timeout_s)

    # -- inside

    def _find(self, subject: str) -> _Route:
        with self._lock:
            route = self._routes.get(subject)
            if route is None:
                route = _Route([t for t in self._takers if t.takes(subject)])
                if len(self._routes) >= ROUTES:
                    self._routes = {}
                self._routes[subject] = route
        return route

    def _forget(self, taker: Taker) -> None:
        with self._lock:
            if taker in self._takers:
                self._takers.remove(taker)
            self._routes = {}
