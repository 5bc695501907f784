"""The deployment's pin: everybody writes what the oldest service that takes part can read (OBJ-10).

Every process of the control plane registers its release and the versions of its objects; hosts do when they register.
The pin is stored; it only rises, by itself, once nobody older is left. Who is older than the pin is refused.
"""

import importlib
import pkgutil
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import kilonova.objects
from kilonova import __version__
from kilonova.bus import interface as bus
from kilonova.common.clock import iso
from kilonova.common.errors import Conflict, KilonovaError
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger
from kilonova.db import hosts, service_processes
from kilonova.db.engine import Tx
from kilonova.db.service_processes import Versions
from kilonova.objects.base import Version, manifest, speak
from kilonova.operations.services import Services

log = get_logger(__name__)
EVERY_S = 10.0
HOSTS_EVERY_S = 60.0
SILENT_S = 60.0
HOST_SILENT_S = 3600.0
"""A host that is down holds the pin so long: it may come back with the release that it had."""
BUS = "bus"


def own_versions() -> Versions:
    """Return what this release reads and writes: every object, and the bus's subjects."""
    for module in pkgutil.iter_modules(kilonova.objects.__path__):
        importlib.import_module(f"kilonova.objects.{module.name}")
    return {**manifest(), BUS: bus.VERSION}


def oldest(manifests: Iterable[Mapping[str, Version]]) -> Versions:
    """Return, for each type, the oldest version among those that know it."""
    out: Versions = {}
    for one in manifests:
        for name, version in one.items():
            out[name] = min(out.get(name, version), version)
    return out


def behind(versions: Mapping[str, Version], pin: Mapping[str, Version]) -> list[str]:
    """Return the types of which a service reads less than is written."""
    return sorted(n for n, v in pin.items() if n in versions and versions[n] < v)


@dataclass(frozen=True)
class _Alike:
    """Hosts of one cell that read the same; ``host`` is one of them."""

    host: str
    count: int
    release: str
    versions: Versions
    seen_at: float


class VersionPin:
    """This process's place among the services. versions: what it says that it reads (tests)."""

    def __init__(self, services: Services, role: str, versions: Versions | None = None) -> None:
        self._services = services
        self._name = f"{role}-{new_uuid()}"
        self._role = role
        self._versions = own_versions() if versions is None else versions
        self._pin: Versions = self._versions
        self._held: list[Versions] = []
        self._last_compared: (
            tuple[Versions, Mapping[str, Version], tuple[list[str], Versions]] | None
        ) = None
        self._looked_at = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Register, speak the pin, and keep doing so. Raises Conflict when this release is older than the pin."""
        self.tend()
        self._thread = threading.Thread(target=self._loop, name="versions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the registry; safe to repeat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None
        self._services.world.write(lambda tx: service_processes.forget(tx, self._name))
        speak(None)

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.tend()
            except KilonovaError as exc:
                log.warning("versions could not be looked after", extra={"why": exc.message})

    def tend(self) -> None:
        """Say that this process runs, and raise the pin when nobody older is left. Raises Conflict."""
        now = self._services.now()
        if not now - self._looked_at < HOSTS_EVERY_S:
            found = self._of_hosts()
            self._held = [f.versions for f in found if f.seen_at >= now - HOST_SILENT_S]
            self._looked_at = now
        held = self._held
        self._pin = self._services.world.write(lambda tx: self._raise(tx, held, now))
        same = all(self._pin.get(n, v) == v for n, v in self._versions.items())
        speak(None if same else self._pin)

    def _raise(self, tx: Tx, held: list[Versions], now: float) -> Versions:
        stored = service_processes.pin(tx)
        late = behind(self._versions, stored or {})
        if late:
            raise Conflict(
                f"This release ({__version__}) is older than what the cloud's services write by now: "
                f"{', '.join(late[:3])}. Start the newer release."
            )
        service_processes.seen(
            tx,
            name=self._name,
            versions=self._versions,
            now=now,
            role=self._role,
            host=socket.gethostname(),
            release=__version__,
        )
        service_processes.forget_silent(tx, now - SILENT_S)
        rows = service_processes.list_(tx)
        wanted = oldest([*(service_processes.read(r["versions"]) for r in rows), *held])
        pin = {n: max(v, (stored or {}).get(n, v)) for n, v in wanted.items()}
        pin = {**(stored or {}), **pin}
        if pin != stored:
            service_processes.store_pin(tx, pin)
        return pin

    def _of_hosts(self) -> list["_Alike"]:
        """Return the hosts whose cell answers, those of one release and cell together."""
        found = []
        for cell in self._services.real_cells():
            try:
                rows = self._services.cell(cell).read(hosts.versions)
            except KilonovaError:
                continue
            for r in rows:
                versions = service_processes.read(r["versions"])
                found.append(_Alike(r["host"], r["hosts"], r["release"], versions, r["seen_at"]))
        return found

    # -- hosts that register

    def refuses(self, versions: Mapping[str, Version]) -> str | None:
        """Return why a host of these versions cannot take part, or None."""
        late = self._compared(versions)[0]
        if not late:
            return None
        return (
            f"The host's release is older than what the cloud writes by now: {', '.join(late[:3])}."
        )

    def for_host(self, versions: Mapping[str, Version]) -> Versions:
        """Return what a host must write in an older form than its own."""
        return self._compared(versions)[1]

    def _compared(self, versions: Mapping[str, Version]) -> tuple[list[str], Versions]:
        """Return (types of which a host reads less than is written, those that it must write in an older form).

        Hosts that register by the thousand are nearly all alike: what was compared last is kept.
        """
        known, pin = self._last_compared, self._pin
        if known is not None and known[0] is pin and known[1] == versions:
            return known[2]
        older = {n: v for n, v in pin.items() if n in versions and v < versions[n]}
        found = behind(versions, pin), older
        self._last_compared = pin, versions, found
        return found

    # -- being looked at

    def view(self) -> dict[str, Any]:
        """Return what the API shows: the pin where it is older than this release, and who holds it."""
        now = self._services.now()
        rows = self._services.world.read(service_processes.list_)
        shown = [
            _shown(r["role"], r["name"], r["host"], r["release"], r["seen_at"])
            | {"older": _text(behind_of(service_processes.read(r["versions"]), self._versions))}
            for r in rows
        ]
        for a in self._of_hosts():
            shown.append(
                _shown("agent", a.host, a.host, a.release, a.seen_at)
                | {"older": _text(behind_of(a.versions, self._versions))}
                | {"holds": a.seen_at >= now - HOST_SILENT_S, "count": a.count}
            )
        return {
            "release": __version__,
            "pin": _text(behind_of(self._pin, self._versions)),
            "pinned": bool(behind_of(self._pin, self._versions)),
            "versions": _text(self._versions),
            "services": shown,
        }


def behind_of(versions: Mapping[str, Version], ours: Mapping[str, Version]) -> Versions:
    """Return the versions that are older than ours."""
    return {n: v for n, v in sorted(versions.items()) if n in ours and v < ours[n]}


def _text(versions: Mapping[str, Version]) -> dict[str, str]:
    return {n: f"{v[0]}.{v[1]}" for n, v in sorted(versions.items())}


def _shown(role: str, name: str, host: str, release: str, at: float) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "host": host,
        "release": release,
        "seen_at": iso(at) if at else None,
        "holds": True,
        "count": 1,
    }
