"""Passwords and application credential secrets: hashed with scrypt, checked by few at a time, guesses counted.

source: RFC 7914; OWASP Password Storage Cheat Sheet (N=2^15, r=8, p=1 needs 32 MiB; N=2^14 is the floor here).
Nothing is written to disk for somebody who did not log in, and what memory keeps is bounded (RELIABILITY S39).
"""

import base64
import collections
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kilonova.common.clock import Clock
from kilonova.common.errors import Unavailable

LOG2_N, R, P = 14, 8, 1
_MAX_MEM = 64 << 20
FAILURES, WINDOW_S = 10, 60.0
REMEMBERED = 4096
FLOOD, FLOOD_WINDOW_S = 20, 10.0


def hash_secret(secret: str) -> str:
    """Return ``scrypt$14$8$1$salt$hash``; a new salt each time."""
    salt = os.urandom(16)
    return "$".join(
        (
            "scrypt",
            str(LOG2_N),
            str(R),
            str(P),
            _text(salt),
            _text(_derive(secret, salt, LOG2_N, R, P)),
        )
    )


def _derive(secret: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        secret.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << log2_n,
        r=r,
        p=p,
        maxmem=_MAX_MEM,
        dklen=32,
    )


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def matches(secret: str, stored: str | None) -> bool:
    """Tell whether ``secret`` belongs to the hash; takes as long when there is no hash, and is then False."""
    if stored is None:
        _derive(secret, b"\0" * 16, LOG2_N, R, P)
        return False
    _, log2_n, r, p, salt, want = stored.split("$")
    have = _derive(secret, _bytes(salt), int(log2_n), int(r), int(p))
    return hmac.compare_digest(have, _bytes(want))


class PasswordCheck:
    """Checks that use at most ``at_once`` cores, and refuse guessers.

    After 10 wrong answers for one name within a minute the name is locked until the minute is over, whether or not
    it exists. Under a flood of wrong answers (20 within 10 s over all names) nobody queues any more: requests above
    ``at_once`` are told to come back, so that callers with tokens keep being served.
    """

    def __init__(self, clock: Clock, at_once: int = 2, patience_s: float = 20.0) -> None:
        self._clock = clock
        self._slots = threading.BoundedSemaphore(at_once)
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._failures: collections.OrderedDict[bytes, list[float]] = collections.OrderedDict()
        self._recent: collections.deque[float] = collections.deque(maxlen=FLOOD)
        self._pepper = os.urandom(16)

    def check(self, name: str, secret: str, stored: str | None) -> bool:
        """Tell whether ``secret`` is right for ``name`` (any text that tells accounts apart), counting failures.

        stored: the hash, None for an account that does not exist or may not log in.
        Raises Unavailable when too many wait.
        """
        key = hashlib.blake2b(
            name.encode("utf-8", "surrogatepass"), key=self._pepper, digest_size=16
        ).digest()
        if self._locked(key):
            return False
        with self._slot():
            good = matches(secret, stored)
        with self._lock:
            if good:
                self._failures.pop(key, None)
            else:
                self._remember(key)
        return good

    def hash(self, secret: str) -> str:
        """Hash a new secret, within the same limit of cores."""
        with self._slot():
            return hash_secret(secret)

    def _locked(self, key: bytes) -> bool:
        with self._lock:
            times = self._failures.get(key)
            if times is None:
                return False
            since = self._clock.monotonic() - WINDOW_S
            return sum(t > since for t in times) >= FAILURES

    def _remember(self, key: bytes) -> None:
        now = self._clock.monotonic()
        times = [t for t in self._failures.pop(key, ()) if t > now - WINDOW_S]
        times.append(now)
        self._failures[key] = times[-FAILURES:]
        self._recent.append(now)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def _flooded(self) -> bool:
        with self._lock:
            full = len(self._recent) == FLOOD
            return full and self._clock.monotonic() - self._recent[0] < FLOOD_WINDOW_S

    @contextmanager
    def _slot(self) -> Iterator[None]:
        wait_s = 0.0 if self._flooded() else self._patience_s
        if not self._slots.acquire(timeout=wait_s):
            raise Unavailable("Too many passwords are being checked now; try again shortly.")
        try:
            yield
        finally:
            self._slots.release()
