"""The two ends of a connection: lines and bodies come in, answers go out.

cheroot reads and writes by Python's slowest files, a call of several per header line, sends headers and body apart, and
copies what is left of a large answer at every send.
"""

import socket
from typing import Any

_RECEIVE = 64 * 1024
_LARGE = 256 * 1024
_JOINED = 64 * 1024


class Reader:
    """What cheroot asks of ``conn.rfile``. Raises OSError, TimeoutError among them, as the socket does."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._at = 0
        self.bytes_read = 0

    def has_data(self) -> bool:
        """Tell whether something came that was not asked for yet (the next request)."""
        return self._at < len(self._buffer)

    def readline(self, size: int | None = None) -> bytes:
        """Return a line with its end, at most ``size`` bytes of it; what came before the end of the stream."""
        most = 1 << 62 if size is None or size < 0 else size
        while most:
            end = self._buffer.find(b"\n", self._at, self._at + most) + 1
            if end == 0 and len(self._buffer) - self._at >= most:
                end = self._at + most
            if end == 0 and not self._fill():
                end = len(self._buffer)
            if end != 0 or not self._buffer:
                return self._take(end)
        return b""

    def read(self, size: int | None = None) -> bytes:
        """Return ``size`` bytes (all if None or negative), fewer only at the end of the stream."""
        have = len(self._buffer) - self._at
        if size is not None and 0 <= size <= have:
            return self._take(self._at + size)
        pieces = [self._take(len(self._buffer))]
        left = -1 if size is None or size < 0 else size - have
        while left != 0:
            piece = self._sock.recv(_LARGE if left < 0 else min(left, _LARGE))
            if not piece:
                break
            pieces.append(piece)
            self.bytes_read += len(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def close(self) -> None:
        """The socket is the connection's to close."""
        self._buffer, self._at = b"", 0

    def _fill(self) -> bool:
        piece = self._sock.recv(_RECEIVE)
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        return bool(piece)

    def _take(self, end: int) -> bytes:
        out = self._buffer[self._at : end]
        self.bytes_read += len(out)
        if end >= len(self._buffer):
            self._buffer, self._at = b"", 0
        else:
            self._at = end
        return out


class Writer:
    """What cheroot asks of ``conn.wfile``; each send has the socket's time limit. Raises OSError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self._hold_next = False
        self.bytes_written = 0

    def hold(self) -> None:
        """Let what is written next (headers) wait for what follows it, or for ``release``."""
        self._hold_next = True

    def write(self, data: bytes) -> int:
        """Send all of ``data``; return its length."""
        size = len(data)
        if self._hold_next:
            self._hold_next = False
            self._held = data
            return size
        if self._held:
            held, self._held = self._held, b""
            if size <= _JOINED:
                data = held + data
            else:
                self._send(held)
        self._send(data)
        return size

    def release(self) -> None:
        """Send what is held."""
        self._hold_next = False
        if self._held:
            self.write(b"")

    def _send(self, data: bytes) -> None:
        self.bytes_written += len(data)
        sent = self._sock.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._sock.send(rest) :]


def make_file(sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
    """Return the end of a connection that cheroot asks for."""
    return Reader(sock) if "r" in mode else Writer(sock)
