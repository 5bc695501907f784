"""The console proxy of this process, and how it reaches the guests of the hosts that run here."""

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from kilonova.common.errors import Unavailable
from kilonova.console.proxy import ConsoleProxy, Where
from kilonova.operations.consoles import Consoles
from kilonova.operations.services import Services
from kilonova.server.plan import Plan
from kilonova.virt.consoles import ConsoleDriver
from kilonova.virt.driver import Driver

NOVNC = (Path("/usr/share/novnc"), Path("/var/cache/kilonova/novnc"))
"""Debian's package, installed by somebody, or unpacked by tools/install."""


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
        novnc=next((p for p in NOVNC if p.is_dir()), None),
    )
    proxy = ConsoleProxy(
        where, lambda: _hosts(services.public_url, s.console_url), lambda t: consoles.admit(t)
    )
    consoles = Consoles(services, proxy.address, open_)
    services.install(consoles=consoles)
    return proxy.close


def _hosts(*urls: str | None) -> set[str]:
    return {urlsplit(url).netloc for url in urls if url}
