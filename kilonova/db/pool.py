"""A few connections for many threads: opened when needed, the last one used is the next one given."""

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kilonova.common.errors import Unavailable

WAIT_S = 15.0
CLOSE_S = 5.0
SILENT_S = 0.5
"""A server that could not be reached is not tried again for so long: who asks is told at once."""


class Closable(Protocol):
    """What a pool holds."""

    def close(self) -> None: ...


S = TypeVar("S", bound=Closable)


class Pool(Generic[S]):
    """At most ``most`` sessions; ``open_`` makes one and may fail."""

    def __init__(self, name: str, open_: Callable[[], S], most: int) -> None:
        self._name = name
        self._open = open_
        self._most = most
        self._idle: list[S] = []
        self._used = 0
        self._silent_until = 0.0
        self._closed = False
        self._free = threading.Condition()

    def take(self) -> S:
        """Return a session for this thread alone. Raises Unavailable."""
        with self._free:
            end = time.monotonic() + WAIT_S
            while self._used >= self._most and not self._closed:
                if not self._free.wait(end - time.monotonic()) and time.monotonic() >= end:
                    raise Unavailable("The database is too busy. Try again.", database=self._name)
            if self._closed:
                raise Unavailable("the database is closed", database=self._name)
            if not self._idle and time.monotonic() < self._silent_until:
                raise Unavailable("The database does not answer. Try again.", database=self._name)
            self._used += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._open()
        except BaseException as exc:
            with self._free:
                self._used -= 1
                self._silent_until = time.monotonic() + SILENT_S
                self._free.notify()
            if not isinstance(exc, Exception):
                raise
            raise Unavailable(
                "The database does not answer. Try again.", database=self._name, why=str(exc)
            ) from exc

    def give(self, session: S) -> None:
        """Give a session back."""
        with self._free:
            self._used -= 1
            kept = not self._closed
            if kept:
                self._idle.append(session)
            self._free.notify_all()
        if not kept:
            session.close()

    def drop(self, session: S) -> None:
        """Give back one that is of no use any more; the idle ones, which may be no better, go with it."""
        with self._free:
            self._used -= 1
            idle, self._idle = self._idle, []
            self._free.notify_all()
        for one in (session, *idle):
            one.close()

    def close(self) -> None:
        """Close every session, those in use when they are given back; wait a little for them."""
        with self._free:
            self._closed = True
            idle, self._idle = self._idle, []
            self._free.notify_all()
            end = time.monotonic() + CLOSE_S
            while self._used and time.monotonic() < end:
                self._free.wait(end - time.monotonic())
        for one in idle:
            one.close()
