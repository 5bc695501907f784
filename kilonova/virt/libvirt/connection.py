"""The connection to libvirtd: opened again when it breaks, with its events; libvirt's errors become ours.

One thread per process turns libvirt's event loop. Handlers are called from it and must not call libvirt.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from kilonova.common.log import get_logger
from kilonova.virt.driver import DriverError, GuestMissing, HypervisorDown

log = get_logger(__name__)
OnLifecycle = Callable[[str, int, int], None]  # (domain uuid, event, detail)
LONGEST_RETRY_S = 10.0
_DOWN = frozenset({libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_CONNECT})
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _turn_event_loop() -> None:
    """Start the event loop thread of this process; before any connection is opened. Safe to repeat."""
    global _loop
    with _loop_lock:
        if _loop is not None:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_turn, name="libvirt-events", daemon=True)
        _loop.start()


def _turn() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.warning("libvirt's event loop stumbled")


@contextmanager
def telling(what: str, *, elsewhere: bool = False) -> Iterator[None]:
    """Turn libvirt's errors inside into ours: GuestMissing, HypervisorDown, or DriverError with text ``what``."""
    try:
        yield
    except libvirt.libvirtError as exc:
        code = exc.get_error_code()
        facts: dict[str, Any] = {"libvirt": exc.get_error_message(), "libvirt_code": code}
        if code == libvirt.VIR_ERR_NO_DOMAIN:
            raise GuestMissing("The server has no guest on this host.", **facts) from exc
        if exc.get_error_domain() == libvirt.VIR_FROM_RPC or code in _DOWN:
            raise HypervisorDown(
                "The hypervisor of the host does not answer.", elsewhere=True, **facts
            ) from exc
        raise DriverError(what, elsewhere=elsewhere, **facts) from exc


class Connection:
    """One libvirtd. Safe from any thread."""

    def __init__(self, uri: Callable[[], str], on_lifecycle: OnLifecycle) -> None:
        """uri: returns where libvirtd listens; called before each attempt, so it may start the daemon first."""
        _turn_event_loop()
        self._uri = uri
        self._on_lifecycle = on_lifecycle
        self._lock = threading.Lock()
        self._conn: Any = None
        self._closed = threading.Event()
        self._mending: threading.Thread | None = None
        self.on_reconnect: Callable[[], None] = lambda: None

    def get(self) -> Any:
        """Return an open virConnect. Raises HypervisorDown."""
        with self._lock:
            if self._closed.is_set():
                raise HypervisorDown("The connection to the hypervisor is closed.")
            if self._conn is None:
                self._conn = self._open()
            return self._conn

    def close(self) -> None:
        """Let go of libvirtd; guests go on. Safe to repeat."""
        self._closed.set()
        with self._lock:
            conn, self._conn = self._conn, None
            mending = self._mending
        if conn is not None:
            self._let_go(conn)
        if mending is not None and mending is not threading.current_thread():
            mending.join()

    def _open(self) -> Any:
        try:
            conn = libvirt.open(self._uri())
        except libvirt.libvirtError as exc:
            raise HypervisorDown(
                "The hypervisor of the host does not answer.",
                elsewhere=True,
                libvirt=exc.get_error_message(),
            ) from exc
        with telling("The hypervisor's events cannot be heard."):
            conn.setKeepAlive(5, 3)
            conn.registerCloseCallback(self._lost, conn)
            conn.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
            )
        return conn

    def _lifecycle(self, _conn: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._on_lifecycle(domain.UUIDString(), event, detail)

    def _lost(self, conn: Any, reason: int, opaque: Any) -> None:
        """The event loop says that the connection is gone: another thread opens it again."""
        log.warning("the connection to libvirtd is lost", extra={"reason": reason})
        with self._lock:
            if self._conn is not opaque or self._closed.is_set():
                return
            self._conn = None
            self._mending = threading.Thread(
                target=self._mend, args=(opaque,), name="libvirt-reconnect", daemon=True
            )
            self._mending.start()

    def _mend(self, old: Any) -> None:
        self._let_go(old)
        wait = 0.2
        while not self._closed.is_set():
            try:
                self.get()
            except DriverError as exc:
                log.info("libvirtd does not answer yet", extra={"facts": str(exc.facts)})
                self._closed.wait(wait)
                wait = min(wait * 2, LONGEST_RETRY_S)
            else:
                log.info("connected to libvirtd again")
                self.on_reconnect()
                return

    @staticmethod
    def _let_go(conn: Any) -> None:
        try:
            conn.unregisterCloseCallback()
        except libvirt.libvirtError:
            log.debug("the close callback was gone already")
        try:
            conn.close()
        except libvirt.libvirtError:
            log.debug("the connection was closed already")
