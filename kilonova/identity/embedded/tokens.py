"""Tokens: Fernet, with keys that rotate. A token holds ids and numbers only; what they stand for is looked up.

source: https://github.com/fernet/spec
"""

import base64
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from kilonova.common.clock import Clock
from kilonova.common.errors import Unauthorized

REQUIRES_AUTH = "The request you have made requires authentication."
DAY_S = 86400.0


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What is inside a token. scope_kind: "" (unscoped), project, domain, system; scope_id "all" for system."""

    methods: tuple[str, ...]
    user_id: str
    user_generation: int
    scope_kind: str
    scope_id: str
    scope_generation: int
    issued_at: float
    expires_at: float
    audit_ids: tuple[str, ...]  # its own, then that of the token it was made from
    credential_id: str | None = None


def new_audit_id() -> str:
    """Return a random name for a token that may appear in logs."""
    return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Payload)


class KeyRing:
    """The keys of one directory (0700, files 0600, named by the second of their making).

    The newest key signs. A new one is made every ``rotate_s``; an old one goes when no living token can need it.
    Several processes may share the directory: a token of an unknown key makes us look again.
    """

    def __init__(
        self, directory: Path, clock: Clock, life_s: float, rotate_s: float = 7 * DAY_S
    ) -> None:
        self._dir = directory
        self._clock = clock
        self._life_s = life_s
        self._rotate_s = rotate_s
        self._lock = threading.Lock()
        self._multi: Any = None
        self._newest = 0.0
        self._seen: tuple[str, ...] = ()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._names():
            self._make()
        self._load()

    def _names(self) -> list[str]:
        names = [
            p.name
            for p in self._dir.iterdir()
            if p.suffix == ".key" and p.stem.isascii() and p.stem.isdigit()
        ]
        return sorted(names, key=lambda n: int(n[:-4]), reverse=True)

    def _make(self) -> None:
        """Write a new newest key; fine if another process does so at the same time."""
        from cryptography.fernet import Fernet

        newest = max((int(n[:-4]) for n in self._names()), default=0)
        number = max(int(self._clock.now()), newest + 1)
        draft = self._dir / f".{os.getpid()}.{number}.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as f:
            f.write(Fernet.generate_key())
            f.flush()
            os.fsync(f.fileno())
        try:
            os.link(draft, self._dir / f"{number}.key")
        except FileExistsError:
            pass
        finally:
            draft.unlink()

    def _load(self) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        names = self._names()
        keys = [Fernet((self._dir / n).read_bytes()) for n in names]
        self._multi = MultiFernet(keys)
        self._newest = float(names[0][:-4])
        self._seen = tuple(names)

    def rotate(self) -> None:
        """Make a new key, and drop those that were replaced longer ago than a token lives."""
        with self._lock:
            self._make()
            names = self._names()
            for newer, name in itertools.pairwise(names):
                if int(newer[:-4]) + self._life_s < self._clock.now():
                    (self._dir / name).unlink(missing_ok=True)
            self._load()

    def seal(self, payload: Payload) -> str:
        """Return the token for ``payload``."""
        if self._clock.now() - self._newest > self._rotate_s:
            self.rotate()
        data: bytes = self._multi.encrypt_at_time(_encoder.encode(payload), int(self._clock.now()))
        return data.decode().rstrip("=")

    def open(self, token: str) -> Payload:
        """Return what is in ``token``; Unauthorized for one that we did not make. Expiry is not looked at."""
        from cryptography.fernet import InvalidToken

        if not 100 < len(token) < 2000 or not token.isascii():
            raise Unauthorized(REQUIRES_AUTH)
        raw = (token + "=" * (-len(token) % 4)).encode()
        try:
            data = self._multi.decrypt(raw)
        except InvalidToken:
            if not self._reload():
                raise Unauthorized(REQUIRES_AUTH) from None
            try:
                data = self._multi.decrypt(raw)
            except InvalidToken:
                raise Unauthorized(REQUIRES_AUTH) from None
        try:
            return _decoder.decode(data)
        except msgspec.MsgspecError as exc:
            raise Unauthorized(REQUIRES_AUTH) from exc

    def _reload(self) -> bool:
        """Read the directory again; tell whether its keys changed."""
        with self._lock:
            if tuple(self._names()) == self._seen:
                return False
            self._load()
            return True
