"""What several conductors know of hosts together: a report reaches one of them, the others read what it wrote down.

They read every 5 s, and at once the record of a host that one of them says has changed.
"""

import functools
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger
from kilonova.db import hosts as db
from kilonova.db.engine import Row
from kilonova.objects.host import Inventory
from kilonova.operations.services import Services

log = get_logger(__name__)
OVERLAP_S = 30.0
FULL_S = 60.0
CHANGED = "hosts.changed"
"""The subject on which the name of a host is told whose record changed."""


@dataclass(frozen=True)
class HostState:
    """What is known of one host now; replaced, never changed."""

    host: str
    cell: str
    uuid: str
    inventory: Inventory
    disabled: bool
    disabled_reason: str | None
    forced_down: bool
    seen_at: float
    boot_id: str
    digest: str = ""


@functools.lru_cache(maxsize=1024)
def _inventory(text: str) -> Inventory:
    """Return what a record says a host has; hosts that have the same share one."""
    return msgspec.json.decode(text, type=Inventory)


def state_of(row: Row, cell: str) -> HostState:
    """Return what a record says of a host."""
    return HostState(
        host=row["host"],
        cell=cell,
        uuid=row["uuid"],
        inventory=_inventory(row["inventory"]),
        disabled=bool(row["disabled"]),
        disabled_reason=row["disabled_reason"],
        forced_down=bool(row["forced_down"]),
        seen_at=row["seen_at"],
        boot_id=row["boot_id"],
    )


class HostsElsewhere:
    """The half of Hosts that keeps up with other processes."""

    _services: Services
    _shared: bool
    _lock: threading.Lock
    _hosts: dict[str, HostState]
    _read_at: float

    if TYPE_CHECKING:

        def all(self) -> list[HostState]: ...
        def is_up(self, host: str) -> bool: ...
        def _drop(self, host: str) -> None: ...
        def _keep(self, state: HostState) -> None: ...

    def _tell(self, host: str) -> None:
        """Say that a host's record changed; who misses it reads it within 5 s."""
        if self._shared:
            self._services.bus.publish(CHANGED, host.encode())

    def _on_changed(self, subject: str, body: bytes) -> None:
        host = body.decode()
        mapped = self._services.world.read(lambda tx: db.mapping_of(tx, host))
        cell = None if mapped is None else self._services.cell(mapped["cell"])
        row = None if cell is None else cell.read(lambda tx: db.find(tx, host))
        if mapped is None or row is None:
            self._drop(host)
        else:
            self._merge(state_of(row, mapped["cell"]))

    def _merge(self, state: HostState) -> None:
        """Take over a record as it was read; what this process heard later stays."""
        mine = self._hosts.get(state.host)
        if mine is not None:
            state = replace(state, seen_at=max(state.seen_at, mine.seen_at), digest=mine.digest)
        if state != mine:
            self._keep(state)

    def read_others(self) -> None:
        """Read what other processes wrote down; now and then everything, so that nothing is missed for long."""
        now = self._services.now()
        full = not now - self._read_at < FULL_S
        for cell in self._services.real_cells():
            try:
                self._read_cell(cell, now, full=full)
            except Unavailable as exc:  # the other cells' hosts are read all the same
                log.warning("hosts could not be read", extra={"cell": cell, "why": exc.message})
        if full:
            self._read_at = now

    def _read_cell(self, cell: str, now: float, *, full: bool) -> None:
        database = self._services.cell(cell)
        if full:
            rows = database.read(db.all_hosts)
            names = {row["host"] for row in rows}
            for state in [s for s in self.all() if s.cell == cell and s.host not in names]:
                self._drop(state.host)
        else:
            rows = database.read(lambda tx: db.changed(tx, now - OVERLAP_S))
        for row in rows:
            self._merge(state_of(row, cell))
        for host, at in database.ask(lambda tx: db.seen_since(tx, now - OVERLAP_S)):
            self._heard(host, at)

    def _heard(self, host: str, at: float) -> None:
        """A host was alive at ``at``."""
        state = self._hosts.get(host)
        if state is None or state.seen_at >= at:
            return
        was_up = self.is_up(host)
        with self._lock:
            self._hosts[host] = replace(state, seen_at=at)
        if not was_up:
            self._services.scheduling.host_changed(host)
