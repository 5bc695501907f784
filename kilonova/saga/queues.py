"""Queues in the conductor's memory: what is ready to run, and per-host limits (10 builds, 1 live migration out).

The limits are a courtesy to hosts, not a truth: after a restart operations in doubt enter again when they send again,
and several conductors share a limit evenly without asking each other (docs/decisions/several-conductors.md).
"""

import collections
import queue
import threading
from collections.abc import Mapping

Key = tuple[str, str]
DEFAULT_LIMITS = {"build": 10, "live_migration": 1}


class HostQueues:
    """Who may have an order of a queue at a host, and who is next. Safe from any thread."""

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = {**DEFAULT_LIMITS, **(limits or {})}
        self._lock = threading.Lock()
        self._inside: dict[tuple[str, str], set[Key]] = {}
        self._line: dict[tuple[str, str], collections.deque[Key]] = {}
        self._where: dict[Key, tuple[str, str]] = {}
        self._conductors = 1

    def share(self, conductors: int) -> None:
        """Use this process's part of each limit: one of ``conductors``, at least one place."""
        self._conductors = max(1, conductors)

    def _limit(self, name: str) -> int:
        return max(1, self._limits.get(name, 10) // self._conductors)

    def of_database(self, database: str) -> list[Key]:
        """Return who of a database has a place or stands in line."""
        with self._lock:
            return [key for key in self._where if key[0] == database]

    def enter(self, name: str, host: str, key: Key, *, force: bool = False) -> bool:
        """Take a place, or stand in line (False). ``force``: its order is out already, it counts in any case."""
        place = (name, host)
        with self._lock:
            old = self._where.get(key)
            if old is not None and old != place:
                self._remove(key)
            inside = self._inside.setdefault(place, set())
            if key in inside:
                return True
            line = self._line.setdefault(place, collections.deque())
            if force or len(inside) < self._limit(name):
                if key in line:
                    line.remove(key)
                inside.add(key)
                self._where[key] = place
                return True
            if key not in line:
                line.append(key)
                self._where[key] = place
            return False

    def leave(self, key: Key) -> list[Key]:
        """Give the place (in line) up; returns those that have got a place by it and may send now."""
        with self._lock:
            if key not in self._where:
                return []
            return self._remove(key)

    def _remove(self, key: Key) -> list[Key]:
        place = self._where.pop(key)
        inside, line = self._inside[place], self._line[place]
        if key in line:
            line.remove(key)
        inside.discard(key)
        moved: list[Key] = []
        while line and len(inside) < self._limit(place[0]):
            moved.append(line.popleft())
            inside.add(moved[-1])
        if not inside and not line:
            del self._inside[place], self._line[place]
        return moved

    def placed(self, key: Key) -> bool:
        """Tell whether ``key`` has a place (and does not stand in line)."""
        with self._lock:
            place = self._where.get(key)
            return place is not None and key in self._inside[place]

    def depth(self) -> dict[str, int]:
        """Return queue name -> how many stand in line."""
        with self._lock:
            counts: dict[str, int] = {}
            for (name, _), line in self._line.items():
                counts[name] = counts.get(name, 0) + len(line)
            return counts


class Ready:
    """Operations for the workers: a token per entry, urgent entries first. None ends one worker."""

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._urgent: collections.deque[Key | None] = collections.deque()
        self._normal: collections.deque[Key | None] = collections.deque()

    def put(self, key: Key | None, *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._normal).append(key)
        self._tokens.put(None)

    def get(self, block: bool = True) -> Key | None:
        """Return the next one; queue.Empty if there is none and ``block`` is false."""
        self._tokens.get(block)
        try:
            return self._urgent.popleft()
        except IndexError:
            return self._normal.popleft()
