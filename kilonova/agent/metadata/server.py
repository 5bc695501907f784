"""The metadata service: answers guests on 169.254.169.254 of each network, on sockets that the root helper opened.

A guest is known by (network, source address), which anti-spoofing makes true: no header is believed. A guest has
two connections at a time and 10 s for each request, so that a slow one does not hold up the others.
source: Nova user documentation "Metadata service"; password: nova/api/metadata/password.py
"""

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from kilonova.agent.helper.client import HelperError
from kilonova.agent.metadata import documents
from kilonova.agent.metadata.store import FileMetadataStore, Served
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.netstate import NetworkState

log = get_logger(__name__)
MAX_HEAD = 16 * 1024
MAX_PASSWORD = 1020  # bytes
TIMEOUT_S = 10.0
RETRY_S = 2.0
WORKERS = 16  # threads, started as they are needed
PER_GUEST = 2  # connections of one guest at a time
MAX_WAITING = 256

Answer = tuple[HTTPStatus, str, bytes]
OnPassword = Callable[[str, str], None]  # (server id, password as posted)


class MetadataService:
    """Serves the documents of a store. ``serve_networks`` says where; sockets come and go with the networks."""

    def __init__(
        self,
        store: FileMetadataStore,
        open_socket: Callable[[str], socket.socket],
        on_password: OnPassword | None = None,
    ) -> None:
        self._store = store
        self._open = open_socket
        self._on_password = on_password
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._open_sockets: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._stopped = False
        self._busy: Counter[tuple[str, str]] = Counter()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="metadata")
        self._thread = threading.Thread(target=self._loop, name="metadata", daemon=True)
        self._thread.start()

    # -- where

    def serve_networks(self, networks: dict[str, NetworkState]) -> None:
        """Serve these networks from now on (those that have a DHCP address), and no others. Repeatable."""
        with self._lock:
            self._wanted = {
                id_ for id_, n in networks.items() if any(s.dhcp_server for s in n.subnets)
            }
        self._poke()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def served(self) -> set[str]:
        """Return the networks whose socket is open."""
        with self._lock:
            return set(self._open_sockets)

    def close(self) -> None:
        """Stop answering; the documents stay."""
        self._stopped = True
        self._poke()
        self._thread.join()
        self._pool.shutdown(wait=True)
        for sock in self._open_sockets.values():
            sock.close()
        self._wake.close()
        self._woken.close()
        self._selector.close()

    def _settle(self) -> bool:
        """Open and close sockets until they are as wanted; tell whether they are."""
        with self._lock:
            wanted, have = set(self._wanted), set(self._open_sockets)
        for network_id in have - wanted:
            with self._lock:
                sock = self._open_sockets.pop(network_id)
            self._selector.unregister(sock)
            sock.close()
        complete = True
        for network_id in wanted - have:
            try:
                sock = self._open(network_id)
            except (HelperError, KilonovaError, OSError) as exc:
                log.warning("no metadata socket", extra={"network": network_id, "why": str(exc)})
                complete = False
                continue
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, network_id)
            with self._lock:
                self._open_sockets[network_id] = sock
        return complete

    def _loop(self) -> None:
        complete = True
        while not self._stopped:
            for key, _ in self._selector.select(None if complete else RETRY_S):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
            complete = self._settle()

    def _accept(self, listener: socket.socket, network_id: str) -> None:
        try:
            sock, peer = listener.accept()
        except OSError:
            return
        guest = (network_id, str(peer[0]))
        with self._lock:
            if self._busy[guest] >= PER_GUEST or self._busy.total() >= MAX_WAITING:
                sock.close()  # too many at once: the guest tries again
                return
            self._busy[guest] += 1
        self._pool.submit(self._serve, sock, *guest)

    # -- one connection, one answer

    def _serve(self, sock: socket.socket, network_id: str, address: str) -> None:
        try:
            with sock, contextlib.suppress(OSError):
                method, path, body = _read(sock)
                status, kind, content = self.answer(network_id, address, method, path, body)
                head = (
                    f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(content)}\r\nX-Content-Type-Options: nosniff\r\n"
                    "Connection: close\r\n\r\n"
                )
                sock.settimeout(TIMEOUT_S)
                sock.sendall(head.encode() + (b"" if method == "HEAD" else content))
        finally:
            with self._lock:
                self._busy[network_id, address] -= 1
                if not self._busy[network_id, address]:
                    del self._busy[network_id, address]

    def answer(self, network_id: str, address: str, method: str, path: str, body: bytes) -> Answer:
        """Return (status, content type, body) of a request; pure but for the password."""
        served = self._store.find(network_id, address)
        if served is None:
            return _say(HTTPStatus.NOT_FOUND, "no server has this address")
        if method == "":
            return _say(HTTPStatus.BAD_REQUEST, "not a request")
        parts = [part for part in path.split("/") if part]
        if len(parts) == 3 and parts[0] == "openstack" and parts[2] == "password":
            if parts[1] not in (*documents.OPENSTACK_VERSIONS[1:], "latest"):
                return _say(HTTPStatus.NOT_FOUND, "no such path")
            return self._password(served, method, body)
        if method not in ("GET", "HEAD"):
            return _say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET")
        found = documents.lookup(served.document, served.devices, path)
        if found is None:
            return _say(HTTPStatus.NOT_FOUND, "no such path")
        return HTTPStatus.OK, *found

    def _password(self, served: Served, method: str, body: bytes) -> Answer:
        if method in ("GET", "HEAD"):
            return HTTPStatus.OK, "text/plain; charset=UTF-8", (served.password or "").encode()
        if method != "POST":
            return _say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST")
        if len(body) > MAX_PASSWORD:
            return _say(HTTPStatus.BAD_REQUEST, "the request is too large")
        server_id, text = served.document.server_id, body.decode(errors="replace")
        if not self._store.set_password(server_id, text):
            return _say(HTTPStatus.CONFLICT, "there is a password already")
        if self._on_password is not None:
            self._on_password(server_id, text)
        return HTTPStatus.OK, "text/plain; charset=UTF-8", b""


def _say(status: HTTPStatus, text: str) -> Answer:
    return status, "text/plain; charset=UTF-8", (text + "\n").encode()


def _receive(sock: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the guest is too slow")
    sock.settimeout(left)
    return sock.recv(4096)


def _read(sock: socket.socket) -> tuple[str, str, bytes]:
    """Read one request: (method, path, body); ("", "", b"") when it is none. Raises OSError."""
    deadline = time.monotonic() + TIMEOUT_S
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = _receive(sock, deadline)
        if not chunk or len(data) > MAX_HEAD:
            return "", "", b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", "", b""
    fields = {
        k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])
    }
    length = fields.get("content-length", "0")
    wanted = min(int(length), MAX_PASSWORD + 1) if length.isdigit() else 0
    while len(body) < wanted:
        chunk = _receive(sock, deadline)
        if not chunk:
            break
        body += chunk
    return words[0], unquote(urlsplit(words[1]).path), body
