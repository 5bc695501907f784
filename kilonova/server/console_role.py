"""Consoles of a process: the proxy of a whole cloud, what an api does for proxies elsewhere, and such a proxy."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kilonova.bus.interface import Bus, NobodyListens
from kilonova.common import memory
from kilonova.common.deployment import Tables
from kilonova.common.errors import Conflict, Forbidden, Unavailable
from kilonova.console.proxy import ConsoleProxy, Where
from kilonova.console.reach import reach
from kilonova.objects import base
from kilonova.objects.console import ConsoleAdmit, ConsoleAdmitted
from kilonova.objects.query import ConsoleWay
from kilonova.operations.consoles import ADMIT, Consoles
from kilonova.operations.services import Services
from kilonova.server.configured import connect
from kilonova.server.plan import Plan
from kilonova.virt.consoles import ConsoleDriver
from kilonova.virt.driver import Driver

if TYPE_CHECKING:
    from kilonova.bus.nats import NatsBus

NOVNC = (Path("/usr/share/novnc"), Path("/var/cache/kilonova/novnc"))
"""Debian's package, installed by somebody, or unpacked by tools/install."""
ADMIT_S = 15.0
_REFUSALS = {e.code: e for e in (Forbidden, Conflict)}


def start(plan: Plan, services: Services, driver_of: Callable[[str], Driver]) -> Callable[[], None]:
    """Install the consoles; return what closes them. The proxy listens when the first console is asked for."""

    def open_(host: str, server: str, kind: str, boot: str) -> socket.socket:
        driver = driver_of(host)
        if not isinstance(driver, ConsoleDriver):
            raise Unavailable("This host has no consoles.", host=host)
        return driver.open_console(server, kind, boot)

    s = plan.settings
    where = Where(
        listen=plan.listen,
        port=0 if plan.port == 0 else s.console_port,
        url=s.console_url,
        tls=plan.tls,
        novnc=_novnc(),
    )
    proxy = ConsoleProxy(
        where, lambda: _hosts(services.public_url, s.console_url), lambda t: consoles.admit(t)
    )
    consoles = Consoles(services, proxy.address, open_)
    services.install(consoles=consoles)
    return proxy.close


def serve(services: Services, url: str | None) -> Callable[[], None]:
    """Make consoles' URLs for a proxy in another process, and admit its callers; return what ends that."""

    def address() -> str:
        if url is None:
            raise Unavailable("This deployment names no console proxy: console_url is not set.")
        return url.rstrip("/")

    consoles = Consoles(services, address)
    services.install(consoles=consoles)
    return consoles.serve().close


class ConsoleProcess:
    """The console proxy as a process of its own: no database, one question on the bus, and the host that it names."""

    def __init__(self, plan: Plan, tables: Tables) -> None:
        self.plan = plan
        self._tables = tables
        self._bus: NatsBus | None = None
        self._proxy: ConsoleProxy | None = None

    def start(self) -> None:
        """Listen. Raises Unavailable when the port cannot be had."""
        memory.few_arenas()
        base.prepare()
        bus = self._bus = connect(self._tables, "console")
        s, table = self.plan.settings, self._tables.console
        where = Where(
            listen=table.listen,
            port=table.port,
            url=s.console_url,
            tls=(table.cert, table.key) if table.cert and table.key else None,
            novnc=_novnc(),
        )
        origins = _hosts(self.plan.public_url, s.console_url)
        self._proxy = ConsoleProxy(where, lambda: origins, lambda token: admit(bus, token))
        try:
            self._proxy.address()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop listening; consoles that are open end."""
        if self._proxy is not None:
            self._proxy.close()
        if self._bus is not None:
            self._bus.close()


def admit(bus: Bus, token: str) -> socket.socket:
    """Return a socket to what a token stands for. Forbidden, Conflict: as Consoles.admit; Unavailable."""
    try:
        reply = bus.request(ADMIT, base.encode(ConsoleAdmit(token=token)), ADMIT_S)
    except NobodyListens as exc:
        raise Unavailable("The cloud does not answer at this time.") from exc
    body = base.decode(reply, ConsoleAdmitted).body
    if isinstance(body, ConsoleWay):
        return reach(body)
    raise _REFUSALS.get(body.code, Unavailable)(body.message)


def _novnc() -> Path | None:
    return next((p for p in NOVNC if p.is_dir()), None)


def _hosts(*urls: str | None) -> set[str]:
    return {urlsplit(url).netloc for url in urls if url}
