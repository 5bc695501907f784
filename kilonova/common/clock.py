"""Time as an argument: wall clock, monotonic clock and their text forms."""

import datetime
import functools
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests inject a ManualClock."""

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._mono = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._mono

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        with self._lock:
            self._now += seconds
            self._mono += seconds

    def jump(self, seconds: float) -> None:
        """Move the wall clock only, forward or back, as NTP or an operator does."""
        with self._lock:
            self._now += seconds


SYSTEM = SystemClock()


_EPOCH = datetime.datetime(1970, 1, 1)  # without a zone, as it is shown


def iso(seconds: float) -> str:
    """Return ``2026-11-21T06:23:00Z``, the form the compute API uses."""
    return _iso(int(seconds))


@functools.lru_cache(maxsize=4096)
def _iso(seconds: int) -> str:
    t = time.gmtime(seconds)
    return (
        f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}Z"
    )


def iso_micro(seconds: float) -> str:
    """Return ``2026-11-21T06:23:00.000000`` without a zone (launched_at, updated_at of services)."""
    moment = _EPOCH + datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds")


def parse_iso(text: str) -> float:
    """Return seconds since the epoch of an ISO 8601 text; no zone means UTC. ValueError if it is none."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()
