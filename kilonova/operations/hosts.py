"""Hosts as the control plane knows them: registration, heartbeats, liveness, what guests do by themselves.

Liveness is kept in memory and written as one batched UPDATE per cell; a host is down after 60 s without a heartbeat, at
once when it is forced down. A report about a server that the database does not place on that host is dropped.
Where there are several conductors each report reaches one of them (hosts_elsewhere.py).
"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard

from kilonova.bus.interface import Subscription
from kilonova.common.errors import KilonovaError, NotFound, Unavailable
from kilonova.common.log import get_logger
from kilonova.db import hosts as db
from kilonova.db import servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import PowerState
from kilonova.objects.host import (
    GuestEvent,
    GuestList,
    Heartbeat,
    HostAsk,
    HostRegister,
    OwnedServer,
    Registered,
    Report,
)
from kilonova.objects.query import GuestPresence, GuestStateQuery, Query, QueryReply
from kilonova.operations import host_records, notices, states
from kilonova.operations.hosts_elsewhere import CHANGED, HostsElsewhere, HostState, state_of
from kilonova.operations.services import Services
from kilonova.saga import journal

log = get_logger(__name__)
DOWN_AFTER_S = 60.0
ASK_S = 5.0
_WANTED = {
    states.ACTIVE: PowerState.RUNNING,
    states.STOPPED: PowerState.SHUTDOWN,
    states.PAUSED: PowerState.PAUSED,
    states.SUSPENDED: PowerState.SUSPENDED,
}


class Hosts(HostsElsewhere):
    """All hosts of all cells. Safe from any thread.

    shared: other processes hear and change hosts too. reports: whether this process takes what hosts report.
    """

    def __init__(self, services: Services, *, shared: bool = False, reports: bool = True) -> None:
        self._services = services
        self._shared = shared
        self._lock = threading.Lock()
        self._hosts: dict[str, HostState] = {}
        self._dirty: dict[str, float] = {}
        self._stop = threading.Event()
        self._read_at = float("-inf")
        subscribe = services.bus.subscribe
        self._subscriptions: list[Subscription] = []
        if reports:
            self._subscriptions.append(subscribe("report.*", self._on_report, queue="conductor"))
        if shared:
            self._subscriptions.append(subscribe(CHANGED, self._on_changed))
        self._reports = reports
        for cell in services.real_cells():
            for row in services.cell(cell).read(db.all_hosts):
                self._hosts[row["host"]] = state_of(row, cell)
        if shared and reports:
            self._ask_for_beats(self._hosts)
        self._thread = threading.Thread(target=self._flush_loop, name="hosts", daemon=True)
        self._thread.start()

    def _ask_for_beats(self, hosts: Iterable[str]) -> None:
        """Have hosts say within 3 s that they are there: it may have been long since anybody heard them."""
        for host in hosts:
            ask = HostAsk(host=host, what="heartbeat")
            self._services.bus.publish(f"agent.{host}.state", encode(ask))

    def cell_came(self, cell: str) -> None:
        """Take over the hosts of a cell that was opened while this process runs."""
        try:
            rows = self._services.cell(cell).read(db.all_hosts)
        except Unavailable as exc:  # read again with the others
            log.warning("hosts could not be read", extra={"cell": cell, "why": exc.message})
            return
        for row in rows:
            self._merge(state_of(row, cell))
        if self._reports:
            self._ask_for_beats(row["host"] for row in rows)

    def cell_went(self, cell: str) -> None:
        """Know nothing of a cell's hosts any more."""
        for state in self.all():
            if state.cell == cell:
                self._drop(state.host)

    def close(self) -> None:
        """Stop listening and write what is not written yet."""
        for subscription in self._subscriptions:
            subscription.close()
        self._stop.set()
        self._thread.join(5)
        self._flush()

    # -- questions

    def find(self, host: str) -> HostState | None:
        """Return what is known of a host, or None."""
        return self._hosts.get(host)

    def all(self) -> list[HostState]:
        """Return every host, sorted by name."""
        return [self._hosts[k] for k in sorted(self._hosts)]

    def alive(self) -> list[str]:
        """Return the hosts that are up, sorted by name: one look at the clock for thousands."""
        now = self._services.now()
        return [
            h.host
            for h in self.all()
            if not h.forced_down and (now - h.seen_at < DOWN_AFTER_S or self.is_up(h.host))
        ]

    def cell_of(self, host: str | None) -> str:
        """Return the cell of a host. Raises NotFound."""
        state = None if host is None else self._hosts.get(host)
        if state is None:
            raise NotFound("The host is not known.", host=host)
        return state.cell

    def is_up(self, host: str) -> bool:
        """Tell whether a host may be waited for. While we cannot hear, no host's silence counts (R6)."""
        state = self._hosts.get(host)
        if state is None or state.forced_down:
            return False
        silent_s = self._services.now() - state.seen_at
        return (
            silent_s < DOWN_AFTER_S or silent_s - self._services.bus.deaf_s(silent_s) < DOWN_AFTER_S
        )

    def status_of(self, host: str | None) -> str:
        """Return host_status as servers show it: UP, MAINTENANCE, DOWN, UNKNOWN, or "" without a host."""
        state = None if host is None else self._hosts.get(host)
        if state is None:
            return "" if host is None else "UNKNOWN"
        if state.forced_down:
            return "DOWN"
        if not self.is_up(state.host):
            return "UNKNOWN"
        return "MAINTENANCE" if state.disabled else "UP"

    # -- changes by an operator

    def set_service(
        self,
        host: str,
        *,
        disabled: bool | None = None,
        reason: str | None = None,
        forced_down: bool | None = None,
    ) -> HostState:
        """Disable, enable or force a host down; acts at once. Raises NotFound."""
        state = self._hosts.get(host)
        if state is None:
            raise NotFound(f"Compute host {host} could not be found.")
        new = state
        if disabled is not None:
            new = replace(new, disabled=disabled, disabled_reason=reason if disabled else None)
        if forced_down is not None:
            new = replace(new, forced_down=forced_down)
        now = self._services.now()
        columns = {
            "disabled": int(new.disabled),
            "disabled_reason": new.disabled_reason,
            "forced_down": int(new.forced_down),
        }

        def put(tx: Tx) -> None:
            db.update(tx, host, **columns, updated_at=now)
            notices.service(tx, "service.update", db.find(tx, host), now)

        self._services.cell(state.cell).write(put)
        self._put(new)
        return new

    def forget(self, host: str) -> None:
        """Know nothing of a host any more; its records are gone already."""
        self._drop(host)
        self._tell(host)

    def _drop(self, host: str) -> None:
        with self._lock:
            state = self._hosts.pop(host, None)
            self._dirty.pop(host, None)
        if state is not None:
            self._services.scheduling.host_gone(state.uuid)

    def _put(self, state: HostState) -> None:
        self._keep(state)
        self._tell(state.host)

    def _keep(self, state: HostState) -> None:
        with self._lock:
            self._hosts[state.host] = state
        self._services.scheduling.host_changed(state.host)

    # -- reports

    def _on_report(self, subject: str, body: bytes) -> bytes | None:
        report = decode(body, Report)
        host = subject.partition(".")[2]
        if report.host != host:
            log.warning("a report names another host than its subject", extra={"host": host})
            return None
        match report.body:
            case HostRegister():
                return encode(self._register(report.body))
            case Heartbeat():
                self._heartbeat(report.body)
            case GuestEvent():
                self._guest_event(report.body)
            case GuestList():
                self._guest_list(report.body)
        return None

    def _register(self, r: HostRegister) -> Registered:
        """Take a host in, or know it again. A host of another id under a known name is refused (R14)."""
        services = self._services
        if r.cell not in services.cells:
            services.look_at_cells()
        try:
            cell = services.cell(r.cell)
        except KilonovaError as exc:
            return Registered(servers=(), accepted=False, reason=exc.message)
        now = services.now()
        pin = services.versions
        if pin is not None and (reason := pin.refuses(r.versions)) is not None:
            log.error("a host was refused: %s", reason, extra={"host": r.host})
            return Registered(servers=(), accepted=False, reason=reason)

        mapped = services.world.ask(lambda tx: db.mapping_of(tx, r.host))
        if mapped is not None and mapped["cell"] != r.cell:
            return Registered(
                servers=(), accepted=False, reason="The host belongs to another cell."
            )
        row = cell.ask(lambda tx: host_records.find_same(tx, r))
        known = row is not None and self._needs_no_word(r.host)
        if row is None or not known:
            row = cell.write(lambda tx: host_records.record(tx, r, now))
        if row is None:
            reason = "Another host is registered under this name."
            log.error("a host was refused: %s", reason, extra={"host": r.host})
            return Registered(servers=(), accepted=False, reason=reason)
        uuid = row["uuid"]
        if not services.world.read(lambda tx: host_records.is_in_world(tx, r, uuid, mapped)):
            services.world.write(lambda tx: host_records.put_in_world(tx, r, uuid, now))
            known = False
        self._registered(replace(state_of(row, r.cell), seen_at=now), known=known)
        services.host_is_back(r.host, r.cell)
        speak = {} if pin is None else pin.for_host(r.versions)
        return Registered(servers=self._owned(r.cell, r.host), speak=speak)

    def _needs_no_word(self, host: str) -> bool:
        """Tell whether nobody else has to hear at once of a host that is what it was: it was up all the time."""
        return host in self._hosts and (not self._shared or self.is_up(host))

    def _registered(self, state: HostState, *, known: bool) -> None:
        """Take over a record. known: it is as it was; that the host was heard is written with the next batch."""
        if known:
            with self._lock:
                self._dirty[state.host] = state.seen_at
            self._keep(state)
        else:
            self._put(state)

    def _owned(self, cell: str, host: str) -> tuple[OwnedServer, ...]:
        rows = self._services.cell(cell).ask(lambda tx: servers.on_host(tx, host))
        return tuple(
            OwnedServer(
                server_id=row["uuid"],
                epoch=row["epoch"] if row["task_state"] is None else self._oldest_epoch(cell, row),
                wanted_power=int(_wanted_power(row)),
                busy=row["task_state"] is not None,
            )
            for row in rows
        )

    def _oldest_epoch(self, cell: str, row: Row) -> int:
        """Return the epoch of the oldest operation that still works on a server: a delete waits for it to unwind."""
        homes = (self._services.world, self._services.cell(cell))
        live = [op for db in homes for op in db.read(lambda tx: journal.live_of(tx, row["uuid"]))]
        return min((int(op["epoch"]) for op in live), default=int(row["epoch"]))

    def _heartbeat(self, beat: Heartbeat) -> None:
        state = self._hosts.get(beat.host)
        if state is None or state.boot_id != beat.boot_id:
            return
        now = self._services.now()
        was_up = self.is_up(beat.host)
        with self._lock:
            self._hosts[beat.host] = replace(state, seen_at=now, digest=beat.digest)
            self._dirty[beat.host] = now
        if not was_up:
            self._services.scheduling.host_changed(beat.host)

    def _guest_event(self, event: GuestEvent) -> None:
        self._power_is(event.host, event.server_id, event.power_state)

    def _guest_list(self, report: GuestList) -> None:
        """Compare all guests with the records in one read; write only what differs."""
        state = self._hosts.get(report.host)
        if state is None:
            return
        rows = self._services.cell(state.cell).ask(lambda tx: servers.powers_on(tx, report.host))
        recorded = {
            r["uuid"]: (r["vm_state"], r["power_state"]) for r in rows if not r["task_state"]
        }
        for name, power, known in report.guests:
            if known and name in recorded and power_change(*recorded[name], power) is not None:
                self._power_is(report.host, name, power)

    def _power_is(self, host: str, server_id: str, power: int) -> None:
        """Record a guest's power state when no operation owns the server.

        A report may be late, so one that contradicts the record only makes us ask; what is written is the answer,
        unless an operation was accepted since the record was read.
        """
        state = self._hosts.get(host)
        if state is None:
            return
        cell = self._services.cell(state.cell)
        seen = cell.read(lambda tx: servers.find(tx, server_id))
        if (
            not _follows(seen, host)
            or power_change(seen["vm_state"], seen["power_state"], power) is None
        ):
            return
        asked = self._ask_power(host, server_id)
        if asked is None:
            return

        def put(tx: Tx) -> None:
            row = servers.find(tx, server_id)
            if not _follows(row, host) or row["epoch"] != seen["epoch"]:
                return
            vm_state = power_change(row["vm_state"], row["power_state"], asked)
            if vm_state is not None:
                servers.set_power(
                    tx, server_id, vm_state=vm_state, power_state=asked, now=self._services.now()
                )

        cell.write(put)

    def _ask_power(self, host: str, server_id: str) -> int | None:
        """Ask a host for one guest's power state; None when it does not answer or has no such guest."""
        body = encode(Query(host=host, body=GuestStateQuery(server_id=server_id)))
        try:
            reply = self._services.bus.request(f"agent.{host}.query", body, ASK_S)
            found = decode(reply, QueryReply).body
        except KilonovaError as exc:
            log.info("a host was not heard", extra={"host": host, "why": exc.message})
            return None
        return found.power_state if isinstance(found, GuestPresence) else None

    # -- liveness

    def _flush_loop(self) -> None:
        while not self._stop.wait(5):
            try:
                self._flush()
                if self._shared:
                    self.read_others()
            except KilonovaError as exc:
                log.warning("hosts could not be read", extra={"why": exc.message})

    def _flush(self) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, {}
        by_cell: dict[str, dict[str, float]] = {}
        for host, at in dirty.items():
            state = self._hosts.get(host)
            if state is not None:
                by_cell.setdefault(state.cell, {})[host] = at
        for cell, when in by_cell.items():
            try:
                self._services.cell(cell).write(lambda tx, when=when: db.seen(tx, when))  # type: ignore[misc]
            except Unavailable as exc:  # the other cells' hosts were heard all the same
                log.warning("hosts could not be written", extra={"cell": cell, "why": exc.message})


def _wanted_power(row: Row) -> PowerState:
    """Return what a guest is after a boot of its host; one that waits to be confirmed is what it was.

    One that went to another cell stays off: its hidden record is only kept for a revert.
    """
    if row["hidden"]:
        return PowerState.SHUTDOWN
    if row["vm_state"] == states.RESCUED:
        return PowerState.RUNNING
    if row["vm_state"] == states.RESIZED and row["power_state"] in _WANTED.values():
        return PowerState(row["power_state"])
    return _WANTED.get(row["vm_state"], PowerState.NOSTATE)


def _follows(row: Row | None, host: str) -> TypeGuard[Row]:
    """Tell whether a server's record follows what its host reports."""
    return row is not None and row["host"] == host and not row["deleted"] and not row["task_state"]


def power_change(vm_state: str, recorded: int, power: int) -> str | None:
    """Return the vm_state that a guest's power state asks for; None: nothing to record.

    The record follows the guest: off or crashed is SHUTOFF. ERROR, and what is no state of a guest, only an
    operation leaves; so does SUSPENDED when the guest is off.
    """
    wanted = vm_state
    if vm_state in _WANTED:
        if power in (PowerState.SHUTDOWN, PowerState.CRASHED):
            wanted = vm_state if vm_state == states.SUSPENDED else states.STOPPED
        else:
            wanted = next((s for s, p in _WANTED.items() if p == power), vm_state)
    return None if wanted == vm_state and power == recorded else wanted
