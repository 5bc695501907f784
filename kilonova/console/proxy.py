"""The console proxy: websockets on one side, a guest's display or serial port on the other. Threads, two per console.

Plain GETs are answered with noVNC's own files, by a list made once: no path of a request ever names a file. A websocket
needs a token in its query and an Origin that is ours (S18, S28, S29).
"""

import contextlib
import http
import mimetypes
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.log import get_logger

log = get_logger(__name__)
PIECE = 64 << 10
MOST = 64
"""Consoles at once; one more is refused."""
_KINDS = {".html", ".js", ".css", ".svg", ".png", ".json", ".woff", ".ttf", ".oga", ".mp3"}
Admit = Callable[[str], socket.socket]


@dataclass(frozen=True)
class Where:
    """Where the proxy listens. port 0: any. url: how others reach it, None: by what it listens on."""

    listen: str
    port: int
    url: str | None = None
    tls: tuple[str, str] | None = None
    novnc: Path | None = None


class ConsoleProxy:
    """Starts when its address is first asked for."""

    def __init__(self, where: Where, origins: Callable[[], set[str]], admit: Admit) -> None:
        """origins: hosts (``name[:port]``) of pages that may open a console, beside the proxy's own."""
        self._where = where
        self._origins = origins
        self._admit = admit
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._open = 0
        self._files: dict[str, Path] = {}

    def address(self) -> str:
        """Return the base URL; the proxy listens when this returns. Raises Unavailable when it cannot."""
        with self._lock:
            if self._server is None:
                self._server = self._start()
            port = self._server.socket.getsockname()[1]
        if self._where.url is not None:
            return self._where.url.rstrip("/")
        scheme = "https" if self._where.tls else "http"
        host = f"[{self._where.listen}]" if ":" in self._where.listen else self._where.listen
        return f"{scheme}://{host}:{port}"

    def close(self) -> None:
        """Stop listening; consoles that are open end."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()

    def _start(self) -> Server:
        where = self._where
        context = None
        if where.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(*where.tls)
        if where.novnc is not None and where.novnc.is_dir():
            for path in where.novnc.rglob("*"):
                if path.is_file() and path.suffix in _KINDS:
                    self._files[f"/{path.relative_to(where.novnc)}"] = path
        try:
            server = serve(
                self._handle,
                where.listen,
                where.port,
                ssl=context,
                compression=None,
                max_size=1 << 20,
                process_request=self._request,
                select_subprotocol=_subprotocol,
                server_header=None,
            )
        except OSError as exc:
            raise Unavailable(
                f"The console proxy cannot listen on port {where.port}: {exc.strerror}. Set console_port to a free one."
            ) from exc
        threading.Thread(target=server.serve_forever, name="consoles", daemon=True).start()
        return server

    # -- requests

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket, and refuse a websocket that must not be opened."""
        path = urlsplit(request.path).path
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return self._file(path)
        origin = urlsplit(request.headers.get("Origin", ""))
        own = request.headers.get("Host", "")
        if not origin.netloc or origin.netloc not in self._origins() | {own}:
            return _answer(http.HTTPStatus.FORBIDDEN, b"This page may not open consoles.\n")
        if self._open >= MOST:
            return _answer(http.HTTPStatus.SERVICE_UNAVAILABLE, b"Too many consoles are open.\n")
        tokens = parse_qs(urlsplit(request.path).query).get("token", [])
        try:
            sock = self._admit(tokens[0] if tokens else "")
        except KilonovaError as exc:
            return _answer(exc.status, f"{exc.message}\n".encode())
        connection.guest = sock  # type: ignore[attr-defined]
        return None

    def _file(self, path: str) -> Response:
        file = self._files.get(path)
        if file is None:
            known = b"Not found.\n" if self._files else b"noVNC is not installed on this machine.\n"
            return _answer(http.HTTPStatus.NOT_FOUND, known)
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        kind = "text/javascript" if file.suffix == ".js" else kind
        return _answer(http.HTTPStatus.OK, file.read_bytes(), kind)

    def _handle(self, connection: ServerConnection) -> None:
        """Carry bytes both ways until either side ends."""
        guest: socket.socket = connection.guest  # type: ignore[attr-defined]
        with self._lock:
            self._open += 1
        down = threading.Thread(target=_down, args=(guest, connection), name="console", daemon=True)
        down.start()
        try:
            for message in connection:
                guest.sendall(message.encode() if isinstance(message, str) else message)
        except (ConnectionClosed, OSError):
            log.debug("a console ended")
        finally:
            with contextlib.suppress(OSError):
                guest.shutdown(socket.SHUT_RDWR)
            down.join(10)
            guest.close()
            with self._lock:
                self._open -= 1


def _down(guest: socket.socket, connection: ServerConnection) -> None:
    with contextlib.suppress(OSError, ConnectionClosed):
        while data := guest.recv(PIECE):
            connection.send(data)
    connection.close()


def _subprotocol(connection: ServerConnection, offered: Any) -> Any:
    """Take "binary" where the page offers it; older noVNC does."""
    return "binary" if "binary" in offered else None


def _answer(status: http.HTTPStatus, body: bytes, kind: str = "text/plain") -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, body)
