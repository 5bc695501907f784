"""The HTTP server in the process: cheroot, mended where large or hostile bodies meet it.

cheroot 11 reads a whole chunk of a chunked body at once, whatever its announced size; it reads what a refused request
left unread into memory; and it keeps a connection on which an unread chunked body would be taken for the next request.
Here a body passes in pieces, and a connection with an unread body is closed after a bounded, polite wait.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from cheroot import server as cheroot
from cheroot import wsgi

from kilonova.common.errors import BadRequest
from kilonova.http.connection import make_file
from kilonova.http.request import SPARE

_LINE = 4096
_TRAILERS = 64
_PIECE = 64 * 1024
_POLITE_BYTES = 64 << 20
_KEEP_ALIVE_BYTES = 64 * 1024


class ChunkedBody:
    """A chunked request body, read in pieces no larger than asked for. source: RFC 9112, section 7.1."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._left = 0  # bytes of the current chunk
        self._first = True
        self.finished = False

    def read(self, size: int | None = None) -> bytes:
        """Return up to ``size`` bytes (all if None or negative), b"" at the end; BadRequest when it is broken."""
        out: list[bytes] = []
        want = -1 if size is None else size
        while want != 0 and not self.finished:
            if self._left == 0:
                self._next_chunk()
                continue
            piece = self._source.read(self._left if want < 0 else min(want, self._left))
            if not piece:
                self._broken()
            self._left -= len(piece)
            want -= len(piece) if want > 0 else 0
            out.append(piece)
        return out[0] if len(out) == 1 else b"".join(out)

    def _line(self) -> bytes:
        line: bytes = self._source.readline(_LINE)
        if not line.endswith(b"\r\n"):
            self._broken()
        return line[:-2]

    def _next_chunk(self) -> None:
        if not self._first and self._line() != b"":
            self._broken()
        self._first = False
        digits = self._line().partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            self._broken()
        self._left = int(digits, 16)
        if self._left == 0:
            for _ in range(_TRAILERS):
                if self._line() == b"":
                    self.finished = True
                    return
            self._broken()

    def _broken(self) -> None:
        self.finished = True
        raise BadRequest("The chunked request body broke off or is malformed.")

    def readline(self, size: int | None = None) -> bytes:
        """Return a line; byte by byte, since nobody needs it."""
        line = b""
        while (size is None or size < 0 or len(line) < size) and (byte := self.read(1)):
            line += byte
            if byte == b"\n":
                break
        return line

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Return the remaining lines."""
        return list(self)

    def __iter__(self) -> "ChunkedBody":
        return self

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def close(self) -> None:
        """Nothing of our own is open."""


class _Request(cheroot.HTTPRequest):
    def respond(self) -> None:
        if self.chunked_read:
            self.rfile = ChunkedBody(self.conn.rfile)
        else:
            length = int(self.inheaders.get(b"Content-Length", 0))
            self.rfile = cheroot.KnownLengthRFile(self.conn.rfile, length)
        try:
            self.server.gateway(self).respond()
            if self.ready:
                self.ensure_headers_sent()
            if self.chunked_write:
                self.conn.wfile.write(b"0\r\n\r\n")
        finally:
            self.conn.wfile.release()
        if self.close_connection:
            self._drain()

    def _unread(self) -> bool:
        if isinstance(self.rfile, ChunkedBody):
            return not self.rfile.finished
        return bool(getattr(self.rfile, "remaining", 0) > _KEEP_ALIVE_BYTES)

    def send_headers(self) -> None:
        if self._unread():
            self.close_connection = True
        self.conn.wfile.hold()
        super().send_headers()

    def _drain(self) -> None:
        """Take what the client still sends, so that it reads our answer before the connection goes."""
        left = _POLITE_BYTES
        try:
            while left > 0 and (piece := self.rfile.read(_PIECE)):
                left -= len(piece)
        except (OSError, BadRequest):
            return


class _Connection(cheroot.HTTPConnection):
    RequestHandlerClass = _Request

    def __init__(self, server: Any, sock: Any, makefile: Any = None) -> None:
        super().__init__(server, sock, make_file)


class _Lasting:
    """A stream with a thread of its own: the pool is one larger until it is closed. It ends when the server stops."""

    def __init__(self, pool: Any, closing: threading.Event, stream: Any) -> None:
        self._pool: Any = pool
        self._closing = closing
        self._stream = stream
        pool.grow(1)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if self._closing.is_set():
                return
            yield piece

    def close(self) -> None:
        """The stream ended, or who read it went away; safe to repeat."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._stream.close()
            pool.shrink(1)


class HttpServer:
    """Serve one WSGI application from threads of this process. port 0: the system picks one, see ``port``."""

    def __init__(
        self,
        application: Callable[..., Any],
        host: str,
        port: int,
        *,
        threads: int = 4,
        timeout_s: int = 30,
        tls: tuple[str, str] | None = None,
    ) -> None:
        self._application = application
        self._closing = threading.Event()
        self._server = wsgi.Server(
            (host, port), self._call, numthreads=threads, timeout=timeout_s, request_queue_size=128
        )
        self._server.ConnectionClass = _Connection
        self._server.server_name = "kilonova"
        self._server.max_request_header_size = 64 * 1024
        if tls is not None:
            from cheroot.ssl.builtin import BuiltinSSLAdapter

            self._server.ssl_adapter = BuiltinSSLAdapter(*tls)
        self._server.prepare()
        self.host = host
        self.port = int(self._server.bind_addr[1])
        self._thread: threading.Thread | None = None

    def _call(self, environ: Any, start_response: Any) -> Any:
        environ[SPARE] = self._lasting
        return self._application(environ, start_response)

    def _lasting(self, stream: Any) -> _Lasting:
        return _Lasting(self._server.requests, self._closing, stream)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread = threading.Thread(target=self._server.serve, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop taking requests, let those under way end, close the port. Safe to repeat."""
        self._closing.set()
        self._server.stop()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None
