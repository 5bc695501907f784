"""Carries bytes between a TLS connection and a plain socket on one thread.

OpenSSL's connections are not for two threads at once, which one thread per direction would need.
"""

import contextlib
import select
import socket
import ssl

PIECE = 64 << 10
_READ, _WRITE = select.POLLIN, select.POLLOUT


class _Way:
    """Bytes on their way in one direction. ended: nothing more comes."""

    __slots__ = ("ended", "waiting")

    def __init__(self) -> None:
        self.waiting = b""
        self.ended = False

    @property
    def hungry(self) -> bool:
        return not self.waiting and not self.ended


def carry(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    """Carry both ways until either side ends; what that side said is still delivered. Closes both."""
    with secure, plain, contextlib.suppress(OSError):
        secure.setblocking(False)
        plain.setblocking(False)
        _Carrier(secure, plain).run()


class _Carrier:
    def __init__(self, secure: ssl.SSLSocket, plain: socket.socket) -> None:
        self._secure = secure
        self._plain = plain
        self._up = _Way()  # from TLS to the plain side
        self._down = _Way()
        self._extra = 0  # what TLS itself waits for, whichever direction we wanted

    def run(self) -> None:
        """Raises OSError when a side breaks."""
        while not (self._over(self._up) or self._over(self._down)):
            if not self._step():
                self._wait()

    @staticmethod
    def _over(way: _Way) -> bool:
        return way.ended and not way.waiting

    def _step(self) -> bool:
        """Move what can be moved now; tell whether anything was."""
        self._extra = 0
        moved = [self._read_secure(), self._write_plain(), self._read_plain(), self._write_secure()]
        return any(moved)

    def _wait(self) -> None:
        secure = self._extra or (_WRITE if self._down.waiting else 0)
        secure |= _READ if self._up.hungry else 0
        plain = _WRITE if self._up.waiting else 0
        plain |= _READ if self._down.hungry else 0
        poll = select.poll()
        for sock, events in ((self._secure, secure), (self._plain, plain)):
            if events:  # else a side that hung up would wake us for ever
                poll.register(sock, events)
        poll.poll()

    def _read_secure(self) -> bool:
        if not self._up.hungry:
            return False
        try:
            data = self._secure.recv(PIECE)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._extra = _WRITE
            return False
        self._up.waiting, self._up.ended = data, not data
        return True

    def _read_plain(self) -> bool:
        if not self._down.hungry:
            return False
        try:
            data = self._plain.recv(PIECE)
        except BlockingIOError:
            return False
        self._down.waiting, self._down.ended = data, not data
        return True

    def _write_secure(self) -> bool:
        if not self._down.waiting:
            return False
        try:
            sent = self._secure.send(self._down.waiting)
        except ssl.SSLWantWriteError:
            return False
        except ssl.SSLWantReadError:
            self._extra = _READ
            return False
        self._down.waiting = self._down.waiting[sent:]
        return True

    def _write_plain(self) -> bool:
        if not self._up.waiting:
            return False
        try:
            sent = self._plain.send(self._up.waiting)
        except BlockingIOError:
            return False
        self._up.waiting = self._up.waiting[sent:]
        return True
