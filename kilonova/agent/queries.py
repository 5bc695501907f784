"""Answers to questions about a host and its guests, straight from the hypervisor; nothing is changed or journaled."""

import time
from collections.abc import Callable

import msgspec

from kilonova import __version__
from kilonova.agent.heartbeat import list_guests
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.console.gate import ConsoleGate
from kilonova.objects import query as q
from kilonova.objects.base import Versioned, decode, encode
from kilonova.virt.consoles import ConsoleDriver
from kilonova.virt.migration import MigrationDriver
from kilonova.virt.volumes import VolumeStore
from kilonova.virt.whole import HostDriver

log = get_logger(__name__)


def machine_uptime() -> float:
    """Return for how many seconds this machine runs; simulated hosts all run on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Queries:
    """Answers for one host; safe from any thread."""

    def __init__(
        self,
        host: str,
        boot_id: str,
        driver: HostDriver,
        verbs: tuple[str, ...],
        password: Callable[[str], str] = lambda server_id: "",
        uptime: Callable[[], float | None] = machine_uptime,
        gate: ConsoleGate | None = None,
        volumes: VolumeStore | None = None,
    ) -> None:
        self._host = host
        self._boot = boot_id
        self._driver = driver
        self._verbs = verbs
        self._password = password
        self._uptime = uptime
        self._gate = gate
        self._volumes = volumes

    def reply(self, body: bytes) -> bytes:
        """Return the encoded QueryReply to an encoded Query; every fault is a QueryFailed."""
        answer: Versioned
        try:
            query = decode(body, q.Query)
            answer = self._ask(query.body)
        except KilonovaError as exc:
            answer = q.QueryFailed(code=exc.code, message=exc.message)
        except Exception:  # the RPC dispatch loop
            log.exception("a query failed by a bug", extra={"host": self._host})
            answer = q.QueryFailed(code="internal", message="The host failed by an internal error.")
        return encode(q.QueryReply(host=self._host, body=answer))  # type: ignore[arg-type]

    def _ask(self, what: Versioned) -> Versioned:
        driver = self._driver
        match what:
            case q.ConsoleLogQuery():
                return q.ConsoleLog(text=driver.console_log(what.server_id, what.lines))
            case q.PasswordQuery():
                return self._belongings(what)
            case q.DiagnosticsQuery():
                facts = driver.diagnostics(what.server_id)
                return q.Diagnostics(facts=msgspec.Raw(msgspec.json.encode(facts)))
            case q.ConsoleQuery():
                if not isinstance(driver, ConsoleDriver):
                    return q.QueryFailed(code="driver", message="This host has no consoles.")
                return q.ConsoleReady(boot=driver.console_boot(what.server_id, what.kind))
            case q.ConsoleOpenQuery():
                return self._hold_console(what)
            case q.GuestStateQuery():
                return q.GuestPresence(power_state=driver.guests().get(what.server_id))
            case q.LiveMoveQuery():
                if not isinstance(driver, MigrationDriver):
                    return q.QueryFailed(code="driver", message="This host moves no servers live.")
                return driver.live_move(what.server_id)
            case q.ConfigDriveQuery():
                if not isinstance(driver, MigrationDriver):
                    return q.QueryFailed(code="driver", message="This host moves no servers live.")
                return q.ConfigDrive(packed=driver.config_drive_of(what.server_id))
            case q.GuestsQuery():
                return q.Guests(guests=list_guests(driver))
            case q.GuestPartsQuery():
                return self._parts()
            case q.CapabilitiesQuery():
                return q.Capabilities(
                    driver=driver.name,
                    release=__version__,
                    boot_id=self._boot,
                    inventory=driver.inventory(),
                    verbs=self._verbs,
                    uptime_s=self._uptime(),
                )
        return q.QueryFailed(code="unknown_query", message="This host does not know that question.")

    def _belongings(self, what: q.PasswordQuery) -> Versioned:
        driver = self._driver
        variables = None
        if what.variables and isinstance(driver, MigrationDriver):
            variables = driver.variables_of(what.server_id)
        return q.PostedPassword(text=self._password(what.server_id), variables=variables)

    def _hold_console(self, what: q.ConsoleOpenQuery) -> Versioned:
        driver, gate = self._driver, self._gate
        if gate is None or not isinstance(driver, ConsoleDriver):
            return q.QueryFailed(code="driver", message="This host has no consoles.")
        server, kind, boot = what.server_id, what.kind, what.boot
        if driver.console_boot(server, kind) != boot:
            return q.QueryFailed(code="driver", message="The server was started again since.")
        return gate.offer(lambda: driver.open_console(server, kind, boot))

    def _parts(self) -> Versioned:
        driver = self._driver
        parts = [
            (server_id, tuple(sorted(driver.disk_serials(server_id))), driver.ports(server_id))
            for server_id in sorted(driver.guests())
        ]
        files = () if self._volumes is None else self._volumes.files()
        return q.GuestParts(
            guests=tuple(parts),
            disks=tuple(sorted(driver.local_disks().items())),
            volumes=tuple((f.kind, f.id) for f in files if f.kind in ("volume", "snapshot")),
        )
