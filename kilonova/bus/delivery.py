"""How a process hands messages to its handlers: a few threads, one message at a time per subscriber, in order.

Shared by every bus. A subscriber that falls behind by more than ``BACKLOG`` messages loses the oldest. Requests are
served beside messages, on threads of their own, so that handlers may ask each other.
"""

import collections
import queue
import threading
import time
from collections.abc import Callable

from kilonova.bus.interface import Handler
from kilonova.common.log import get_logger

log = get_logger(__name__)
BACKLOG = 65_536
BATCH = 64
REQUESTS = 16
"""So many requests at a time; further ones wait for a thread within their time limit."""


class Taker:
    """One subscriber; its messages wait in ``box`` and one thread at a time takes them out."""

    __slots__ = ("_forget", "box", "busy", "closed", "group", "handler", "lock", "subject", "words")

    def __init__(
        self, subject: str, handler: Handler, group: str | None, forget: Callable[["Taker"], None]
    ) -> None:
        self._forget = forget
        self.subject = subject
        self.words = tuple(subject.split("."))
        self.handler = handler
        self.group = group
        self.box: collections.deque[tuple[str, bytes]] | None = None  # made by the first message
        self.busy = False
        self.closed = False
        self.lock = threading.Lock()

    def close(self) -> None:
        """Take no more messages; those that wait are dropped."""
        if not self.closed:
            self.closed = True
            self._forget(self)
            with self.lock:
                self.box = None

    def takes(self, subject: str) -> bool:
        """Tell whether messages of a subject are for it."""
        words = subject.split(".")
        return len(words) == len(self.words) and all(
            mine in ("*", word) for mine, word in zip(self.words, words, strict=True)
        )


class Call:
    """A request on its way to one subscriber; ``answered`` is called once, with None when there is no reply."""

    __slots__ = ("answered", "body", "subject", "to")

    def __init__(
        self, to: Taker, subject: str, body: bytes, answered: Callable[[bytes | None], None]
    ) -> None:
        self.to = to
        self.subject = subject
        self.body = body
        self.answered = answered


class Delivery:
    """The threads. workers: how many deliver messages; 0: only ``pump`` does, on the thread of its caller (tests)."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._due: queue.SimpleQueue[Taker | None] = queue.SimpleQueue()
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._servants: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._deliver, name=f"bus-{n}", daemon=True)
            for n in range(workers)
        ]
        for t in self._threads:
            t.start()

    def put(self, taker: Taker, subject: str, body: bytes) -> None:
        """Lay a message into a subscriber's box; returns at once."""
        with taker.lock:
            if taker.box is None:
                taker.box = collections.deque(maxlen=BACKLOG)
            taker.box.append((subject, body))
            if taker.busy:
                return
            taker.busy = True
        self._due.put(taker)

    def call(self, call: Call) -> None:
        """Have a request served; without workers on this very thread."""
        if self._workers == 0:
            self._serve(call)
            return
        with self._lock:
            if self._closed:
                return
            if self._idle == 0 and len(self._servants) < REQUESTS:
                name = f"bus-request-{len(self._servants)}"
                t = threading.Thread(target=self._serve_all, name=name, daemon=True)
                self._servants.append(t)
                t.start()
            else:
                self._idle = max(0, self._idle - 1)
        self._calls.put(call)

    def close(self) -> None:
        """Deliver nothing more; handlers that run are waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._due.put(None)
        for _ in self._servants:
            self._calls.put(None)
        for t in (*self._threads, *self._servants):
            if t is not threading.current_thread():
                t.join()

    def pump(self) -> int:
        """Deliver what waits now on this thread; return how many messages. For ``workers=0``."""
        delivered = 0
        for _ in range(self._due.qsize()):
            try:
                taker = self._due.get_nowait()
            except queue.Empty:
                break
            if taker is not None:
                delivered += self._empty(taker)
        return delivered

    def drain(self, takers: Callable[[], list[Taker]], timeout_s: float) -> None:
        """Wait until no message waits and no handler of one runs; TimeoutError after ``timeout_s`` seconds."""
        end = time.monotonic() + timeout_s
        while any(t.busy for t in takers()):
            if time.monotonic() > end:
                raise TimeoutError("the bus does not come to rest")
            if self._workers == 0:
                self.pump()
            else:
                time.sleep(0.001)

    # -- threads

    def _deliver(self) -> None:
        while True:
            taker = self._due.get()
            if taker is None:
                return
            self._empty(taker)

    def _empty(self, taker: Taker) -> int:
        """Deliver up to BATCH messages of one subscriber; when more wait, stand in line again."""
        done = 0
        while done < BATCH:
            with taker.lock:
                if not taker.box:
                    taker.busy = False
                    return done
                subject, body = taker.box.popleft()
            if self._closed or taker.closed:
                continue
            done += 1
            handle(taker.handler, subject, body)
        self._due.put(taker)
        return done

    def _serve_all(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            self._serve(call)
            with self._lock:
                self._idle += 1

    def _serve(self, call: Call) -> None:
        to = call.to
        call.answered(None if to.closed else handle(to.handler, call.subject, call.body))


def handle(handler: Handler, subject: str, body: bytes) -> bytes | None:
    """Call a handler; what it raises is a bug that is logged, and no reply."""
    try:
        return handler(subject, body)
    except Exception:
        log.exception("a message could not be handled", extra={"subject": subject})
        return None
