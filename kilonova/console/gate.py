"""Where consoles of a host's guests are fetched: one TCP port, TLS with a certificate of this very start, and tickets.

Whom the port lets in has a ticket: it came over the bus, which knows who may hear it, is good once and for seconds, and
stands for one console of one run of one guest. The certificate came the same way, so no authority is needed.
"""

import contextlib
import datetime
import hashlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.log import get_logger
from kilonova.console.carry import carry
from kilonova.objects.query import ConsoleWay

log = get_logger(__name__)
LIFE_S = 15.0
HELLO_S = 10.0
MOST = 256
"""Connections at once, and tickets at once."""
TICKET_BYTES = 43
"""Of a ticket, as it is said."""
Opener = Callable[[], socket.socket]


@dataclass(frozen=True)
class GateAddress:
    """listen, port (0: any): where it listens. reached_at: what others are told, None: where it listens."""

    listen: str = "127.0.0.1"
    port: int = 0
    reached_at: str | None = None


@dataclass
class _Tickets:
    """Digest of a ticket -> what it opens and until when."""

    held: dict[bytes, tuple[Opener, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, opener: Opener, now: float) -> str:
        ticket = secrets.token_urlsafe(32)
        with self.lock:
            self.held = {k: v for k, v in self.held.items() if v[1] > now}
            if len(self.held) >= MOST:
                raise Unavailable("Too many consoles are being opened on this host.")
            self.held[_digest(ticket.encode())] = opener, now + LIFE_S
        return ticket

    def take(self, ticket: bytes, now: float) -> Opener | None:
        with self.lock:
            found = self.held.pop(_digest(ticket), None)
        return found[0] if found is not None and found[1] > now else None


class ConsoleGate:
    """The gate of a process, for all its hosts. It listens when the first console is asked for."""

    def __init__(
        self, address: GateAddress, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._now = monotonic
        self._tickets = _Tickets()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._certificate = ""
        self._open = 0

    def offer(self, opener: Opener) -> ConsoleWay:
        """Return the way to a console; ``opener`` is called when somebody comes. Raises Unavailable."""
        with self._lock:
            listener = self._listener or self._listen()
        return ConsoleWay(
            address=self._address.reached_at or self._address.listen,
            port=listener.getsockname()[1],
            ticket=self._tickets.add(opener, self._now()),
            certificate=self._certificate,
        )

    def close(self) -> None:
        """Let nobody in any more; consoles that are open end with the process."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self) -> socket.socket:
        where = self._address
        try:
            listener = socket.create_server(
                (where.listen, where.port),
                family=socket.AF_INET6 if ":" in where.listen else socket.AF_INET,
                backlog=64,
            )
        except OSError as exc:
            raise Unavailable(
                "This host's consoles cannot be reached.", why=str(exc), port=where.port
            ) from exc
        self._certificate, context = _identity()
        self._listener = listener
        threading.Thread(
            target=self._serve, args=(listener, context), name="console-gate", daemon=True
        ).start()
        return listener

    def _serve(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                full = self._open >= MOST
                self._open += not full
            if full:
                sock.close()
                continue
            threading.Thread(
                target=self._connection, args=(sock, context), name="console-guest", daemon=True
            ).start()

    def _connection(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        try:
            with sock, contextlib.suppress(OSError):
                sock.settimeout(HELLO_S)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                with context.wrap_socket(sock, server_side=True) as secure:
                    self._admit(secure)
        finally:
            with self._lock:
                self._open -= 1

    def _admit(self, secure: ssl.SSLSocket) -> None:
        """Let in who has a ticket. Raises OSError when the other end breaks off."""
        said = b""
        while len(said) < TICKET_BYTES:
            piece = secure.recv(TICKET_BYTES - len(said))
            if not piece:
                return
            said += piece
        opener = self._tickets.take(said, self._now())
        if opener is None:
            log.warning("a console was asked for with a wrong ticket")
            return
        try:
            guest = opener()
        except KilonovaError as exc:
            log.info("a console could not be opened", extra={"why": exc.message})
            return
        carry(secure, guest)


def _digest(ticket: bytes) -> bytes:
    return hashlib.sha256(ticket).digest()


def _identity() -> tuple[str, ssl.SSLContext]:
    """Return a new certificate in PEM, and what serves with it. The key is never a file on a disk."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Kilonova consoles")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with open(os.memfd_create("console-gate"), "wb", buffering=0) as file:
        file.write(pem + secret)
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return pem.decode(), context
