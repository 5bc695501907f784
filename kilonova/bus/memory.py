"""The bus inside one process: a few threads deliver bytes; each subscription gets its messages one by one, in order.

Like the network one it promises nothing: what nobody takes is dropped, and a subscriber that falls behind by more than
``BACKLOG`` messages loses the oldest. Senders encode, receivers decode: bytes go in and come out.
"""

import collections
import itertools
import queue
import threading
import time
from collections.abc import Callable

from kilonova.bus.interface import Handler, NobodyListens
from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger

log = get_logger(__name__)
BACKLOG = 65_536
BATCH = 64
ROUTES = 50_000
REQUESTS = 16
"""So many requests at a time; further ones wait for a thread within their time limit."""


class _Subscription:
    """One subscriber; its messages wait in ``box`` and one thread at a time takes them out."""

    __slots__ = ("_bus", "box", "busy", "closed", "group", "handler", "lock", "subject", "words")

    def __init__(self, bus: "MemoryBus", subject: str, handler: Handler, group: str | None) -> None:
        self._bus = bus
        self.subject = subject
        self.words = tuple(subject.split("."))
        self.handler = handler
        self.group = group
        self.box: collections.deque[tuple[str, bytes]] = collections.deque(maxlen=BACKLOG)
        self.busy = False
        self.closed = False
        self.lock = threading.Lock()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._bus._forget(self)

    def takes(self, subject: str) -> bool:
        words = subject.split(".")
        return len(words) == len(self.words) and all(
            mine in ("*", word) for mine, word in zip(self.words, words, strict=True)
        )


class _Route:
    """Who gets messages of one subject: every single one, and of each group the next member."""

    __slots__ = ("groups", "singles")

    def __init__(self, members: list[_Subscription]) -> None:
        self.singles = [s for s in members if s.group is None]
        groups: dict[str, list[_Subscription]] = {}
        for s in members:
            if s.group is not None:
                groups.setdefault(s.group, []).append(s)
        self.groups = [(g, itertools.count()) for g in groups.values()]

    def pick(self) -> list[_Subscription]:
        if not self.groups:
            return self.singles
        return self.singles + [g[next(n) % len(g)] for g, n in self.groups]


class _Request:
    __slots__ = ("body", "done", "reply", "subject", "to")

    def __init__(self, to: _Subscription, subject: str, body: bytes) -> None:
        self.to = to
        self.subject = subject
        self.body = body
        self.done = threading.Event()
        self.reply: bytes | None = None


class MemoryBus:
    """The one-process bus.

    workers: threads that deliver; 0: only ``pump`` delivers, on the thread of its caller (tests). A handler gets its
    messages one at a time, requests beside them.
    """

    def __init__(self, workers: int = 4) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._subscriptions: list[_Subscription] = []
        self._routes: dict[str, _Route] = {}
        self._due: queue.SimpleQueue[_Subscription | None] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._requesters: list[threading.Thread] = []
        self._idle_requesters = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._deliver, name=f"bus-{n}", daemon=True)
            for n in range(workers)
        ]
        for t in self._threads:
            t.start()

    # -- the interface

    def publish(self, subject: str, body: bytes) -> None:
        """Put a message into the box of everyone who takes it; returns at once."""
        route = self._routes.get(subject)
        if route is None:
            route = self._find(subject)
        for s in route.pick():
            with s.lock:
                s.box.append((subject, body))
                if s.busy:
                    continue
                s.busy = True
            self._due.put(s)

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> _Subscription:
        """Call ``handler`` on a bus thread for each message, one at a time; ``*`` stands for one word."""
        s = _Subscription(self, subject, handler, queue)
        with self._lock:
            if self._closed:
                raise Unavailable("The bus is closed.")
            self._subscriptions.append(s)
            self._routes = {}
        return s

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one subscriber on a thread of its own pool; its publications may be waiting, that is no matter."""
        takers = self._find(subject).pick()
        if not takers or self._closed:
            raise NobodyListens("Nobody answers.", subject=subject)
        r = _Request(takers[0], subject, body)
        if self._workers == 0:
            self._reply(r)
        else:
            self._hand_over(r)
            if not r.done.wait(timeout_s):
                raise NobodyListens(
                    "Nobody answered in time.", subject=subject, timeout_s=timeout_s
                )
        if r.reply is None:
            raise NobodyListens("Nobody answers.", subject=subject)
        return r.reply

    def close(self) -> None:
        """Deliver nothing more; handlers that run are waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._subscriptions.clear()
            self._routes = {}
        for _ in self._threads:
            self._due.put(None)
        for _ in self._requesters:
            self._requests.put(None)
        for t in (*self._threads, *self._requesters):
            if t is not threading.current_thread():
                t.join()

    # -- for tests and decorators

    def pump(self) -> int:
        """Deliver what waits now on this thread; return how many messages. For ``workers=0``."""
        delivered = 0
        for _ in range(self._due.qsize()):
            try:
                s = self._due.get_nowait()
            except queue.Empty:
                break
            if s is not None:
                delivered += self._empty(s)
        return delivered

    def drain(self, timeout_s: float = 30.0) -> None:
        """Wait until no message waits and no handler of one runs; TimeoutError after ``timeout_s`` seconds."""
        end = time.monotonic() + timeout_s
        while any(s.busy for s in list(self._subscriptions)):
            if time.monotonic() > end:
                raise TimeoutError("the bus does not come to rest")
            if self._workers == 0:
                self.pump()
            else:
                time.sleep(0.001)

    # -- inside

    def _find(self, subject: str) -> _Route:
        with self._lock:
            route = self._routes.get(subject)
            if route is None:
                route = _Route([s for s in self._subscriptions if s.takes(subject)])
                if len(self._routes) >= ROUTES:
                    self._routes = {}
                self._routes[subject] = route
        return route

    def _forget(self, s: _Subscription) -> None:
        with self._lock:
            if s in self._subscriptions:
                self._subscriptions.remove(s)
            self._routes = {}
        s.box.clear()

    def _deliver(self) -> None:
        while True:
            s = self._due.get()
            if s is None:
                return
            self._empty(s)

    def _empty(self, s: _Subscription) -> int:
        """Deliver up to BATCH messages of one subscriber; when more wait, stand in line again."""
        done = 0
        while done < BATCH:
            with s.lock:
                if not s.box:
                    s.busy = False
                    return done
                subject, body = s.box.popleft()
            if self._closed or s.closed:
                continue
            done += 1
            _call(s.handler, subject, body)
        self._due.put(s)
        return done

    def _hand_over(self, r: _Request) -> None:
        with self._lock:
            if self._idle_requesters == 0 and len(self._requesters) < REQUESTS:
                t = threading.Thread(
                    target=self._serve, name=f"bus-request-{len(self._requesters)}", daemon=True
                )
                self._requesters.append(t)
                t.start()
            else:
                self._idle_requesters = max(0, self._idle_requesters - 1)
        self._requests.put(r)

    def _serve(self) -> None:
        while True:
            r = self._requests.get()
            if r is None:
                return
            self._reply(r)
            with self._lock:
                self._idle_requesters += 1

    def _reply(self, r: _Request) -> None:
        if not r.to.closed:
            r.reply = _call(r.to.handler, r.subject, r.body)
        r.done.set()


def _call(handler: Callable[[str, bytes], bytes | None], subject: str, body: bytes) -> bytes | None:
    try:
        return handler(subject, body)
    except Exception:
        log.exception("a message could not be handled", extra={"subject": subject})
        return None
