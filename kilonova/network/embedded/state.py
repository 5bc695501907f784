"""Tell hosts what their networks should be, hear what is in force.

After a commit the documents that it touched are read and published at once; members of remote groups are gathered for
at most ``batch_s`` seconds. A lost message costs seconds: documents that nobody reported are sent again, and an agent
that (re)connects asks for everything. Reading and publishing happen under one lock, so that what is sent last is
newest; a removal is checked once more there, so that it cannot overtake a return.
"""

import threading
import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from kilonova.bus.interface import Bus, Subscription
from kilonova.common.clock import Clock
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded import documents, sequence
from kilonova.network.embedded.forwarding import Forwarding, Outbox
from kilonova.network.embedded.parts import in_parts
from kilonova.network.embedded.schema import port, port_binding, router, rule
from kilonova.network.embedded.store.reports import take_report
from kilonova.network.embedded.store.work import Work
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Applied, Change, Document, NetworkState, StateRequest
from kilonova.objects.port import NetworkEvent

log = get_logger(__name__)
MOST_PARTS = 6  # of a full state with where MACs live: a message carries 1 MiB
RESEND_AFTER_S = 2.0
RESEND_EVERY_S = 5.0
WATCH_EVERY_S = 1.0
BATCH_S = 0.15  # with the sending, members of groups are in force within 0.2 s

_BOUND = port.join(port_binding, port_binding.c.port_id == port.c.id)
_STILL = Q(
    sa.union_all(
        sa.select(port.c.id).where(port.c.network_id == P("id"), port.c.host == P("host")),
        sa.select(port.c.id)
        .select_from(_BOUND)
        .where(port.c.network_id == P("id"), port_binding.c.host == P("host")),
    ).limit(1)
)
_PORT_THERE = Q(
    sa.union_all(
        sa.select(port.c.id).where(port.c.id == P("id"), port.c.host == P("host")),
        sa.select(port_binding.c.port_id).where(
            port_binding.c.port_id == P("id"), port_binding.c.host == P("host")
        ),
    )
)
_ROUTER_THERE = Q(sa.select(router.c.id).where(router.c.id == P("id"), router.c.host == P("host")))
_late = (port.c.updated_at < P("before"), port.c.updated_at >= P("since"))
_PENDING = Q(
    sa.union_all(
        sa.select(port.c.id).where(
            sa.text("port.host <> '' AND port.applied < port.generation"),
            *_late,
            port.c.device_owner.not_like("network:%"),
        ),
        sa.select(port.c.id)
        .select_from(_BOUND)
        .where(port_binding.c.applied < port.c.generation, *_late),
    ).limit(500)
)
_REMOTE = Q(sa.select(rule.c.remote_group).distinct().where(rule.c.remote_group.is_not(None)))
_PENDING_ROUTERS = Q(sa.select(router.c.id).where(sa.text("host <> '' AND applied < generation")))


class Publisher:
    """The embedded network's side of ``agent.<host>.state``, ``network.state.<host>`` and ``network.report.<host>``.

    emit: called with every external event, after the commit. watch: called every second (routers follow hosts).
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        emit: Callable[[NetworkEvent], None],
        batch_s: float = BATCH_S,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.database = database
        self.bus = bus
        self.clock = clock
        self.emit = emit
        self.batch_s = batch_s
        self.watch = watch
        self._order = threading.RLock()
        self._known = documents.Known()
        self._full_states = sequence.FullStates(database)
        self.forwarding = Forwarding(database)
        self._dirty: set[str] = set()
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._subscriptions: list[Subscription] = []
        self._hears = True

    def start(self, *, hears: bool = True) -> None:
        """Listen to hosts and start the one thread that sends groups and repeats what was lost.

        hears False: another process listens, repeats and watches; this one sends what it changed itself.
        """
        self._hears = self.forwarding.hears = hears
        if hears:
            self._subscriptions = [
                self.bus.subscribe("network.state.*", self._asked, queue="network"),
                self.bus.subscribe("network.report.*", self._reported, queue="network"),
            ]
            self._dirty |= {r[0] for r in self.database.read(lambda tx: tx.all(_REMOTE))}
        self.forwarding.load()
        self._wake.set()
        self._thread = threading.Thread(target=self._loop, name="network-state", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; safe to repeat."""
        for s in self._subscriptions:
            s.close()
        self._subscriptions = []
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def flush(self, work: Work) -> None:
        """Publish what a committed write touched, then tell compute."""
        if work.ports or work.networks or work.routers or work.gone:
            with self._order:
                self._send(*self.database.read(lambda tx: self._collect(tx, work)))
        if work.groups:
            with self._guard:
                self._dirty |= work.groups
            self._wake.set()
        if self.forwarding.mark(work.forwarding - work.switched):
            self._wake.set()
        for event in work.events:
            self.emit(event)

    def _collect(self, tx: Tx, work: Work) -> tuple[Outbox, int]:
        out: Outbox = {}
        touched: set[tuple[str, str]] = set()
        for host, port_state in documents.ports(tx, work.ports):
            out.setdefault(host, ([], []))[0].append(port_state)
            touched.add((host, port_state.network_id))
        for host, router_state, nets in documents.routers(tx, work.routers):
            out.setdefault(host, ([], []))[0].append(router_state)
            touched |= {(host, n) for n in nets}
        for n in work.networks:
            touched |= {(r["host"], n) for r in tx.all(documents.HOSTS_OF_NETWORK, id=n)}
        if touched:
            states = self._known.networks(tx, {n for _, n in touched})
            for host, n in sorted(touched):
                if n in states:
                    out.setdefault(host, ([], []))[0].insert(0, states[n])
        if work.switched:
            self.forwarding.collect(tx, work.switched, out)
        for host, kind, thing, generation in work.gone:
            question = {"network": _STILL, "port": _PORT_THERE, "router": _ROUTER_THERE}[kind]
            if tx.one(question, id=thing, host=host) is None:
                out.setdefault(host, ([], []))[1].append((kind, thing, generation))
        return out, sequence.of_change(tx)

    def _send(self, out: Outbox, seq: int) -> None:
        for host, (docs, removed) in out.items():
            for at, part in enumerate(in_parts(docs)):
                gone = tuple(removed) if at == 0 else ()
                change = Change(host=host, documents=part, removed=gone, seq=seq)
                self.bus.publish(f"agent.{host}.state", encode(change))

    def send_groups(self) -> None:
        """Publish the groups whose members changed to every host that has a rule naming them."""
        with self._guard:
            dirty, self._dirty = self._dirty, set()
        if not dirty:
            return

        def collect(tx: Tx) -> tuple[Outbox, int]:
            out: Outbox = {}
            for state in documents.group_states(tx, dirty):
                for r in tx.all(documents.HOSTS_USING_GROUP, id=state.id):
                    out.setdefault(r["host"], ([], []))[0].append(state)
            return out, sequence.of_change(tx)

        try:
            with self._order:
                self._send(*self.database.read(collect))
        except BaseException:
            with self._guard:
                self._dirty |= dirty
            raise

    def send_forwarding(self) -> None:
        """Publish where MACs live, of the networks where that changed, to every host that has them."""
        dirty = self.forwarding.take()
        if not dirty:
            return

        def collect(tx: Tx) -> tuple[Outbox, int]:
            out: Outbox = {}
            self.forwarding.collect(tx, dirty, out)
            return out, sequence.of_change(tx)

        try:
            with self._order:
                self._send(*self.database.read(collect))
        except BaseException:
            self.forwarding.mark(dirty)
            raise

    def resend(self, within_s: float = float("inf")) -> int:
        """Send again what its host did not report in time; return how many documents were due.

        within_s: leave alone what has been waiting for longer; that is looked at once a minute.
        """
        since = max(self.clock.now() - within_s, 0.0)  # no database need know infinity
        before = self.clock.now() - RESEND_AFTER_S

        def due(tx: Tx) -> Work:
            work = Work(tx, self.clock.now())
            work.ports.update(r[0] for r in tx.all(_PENDING, before=before, since=since))
            work.routers.update(r[0] for r in tx.all(_PENDING_ROUTERS))
            return work

        work = self.database.read(due)
        self.flush(work)
        return len(work.ports) + len(work.routers)

    def _loop(self) -> None:
        last, passes, watched = self.clock.monotonic(), 0, float("-inf")
        begun = False
        while not self._stop.is_set():
            self._wake.wait(WATCH_EVERY_S)
            if self._stop.wait(self.batch_s):  # gather what comes together
                return
            self._wake.clear()
            try:
                if not begun:
                    with self._order:
                        self.forwarding.begin()
                    begun = True
                self.send_groups()
                self.send_forwarding()
                if self._hears and time.monotonic() - watched >= WATCH_EVERY_S:
                    watched = time.monotonic()
                    self.watch()
                if self.clock.monotonic() - last >= RESEND_EVERY_S:
                    last = self.clock.monotonic()
                    passes += 1
                    self.forwarding.load()
                    if not self._hears:
                        continue
                    self.forwarding.expect()
                    self.forwarding.mark_unheard(time.monotonic() - RESEND_AFTER_S)
                    self.resend(within_s=float("inf") if passes % 12 == 0 else 120.0)
            except Exception:
                log.exception("the network's desired state could not be sent; trying again")

    def full(self, host: str) -> Change:
        """Return everything that a host should have."""
        with self._order:
            seq = self._full_states.of(host, self.clock.now())
            return self.database.read(lambda tx: self._full(tx, host)).replace(seq=seq)

    def _full(self, tx: Tx, host: str) -> Change:
        rows = tx.all(documents.ON_HOST, host=host)
        routers = [r[0] for r in tx.all(documents.ROUTERS_ON_HOST, host=host)]
        if not rows and not routers:
            return Change(host=host, full=True)
        return Change(host=host, documents=self._on(tx, host, rows, routers), full=True)

    def _one(self, tx: Tx, host: str, port_id: str) -> Change:
        rows = [r for r in tx.all(documents.ON_HOST, host=host) if r["id"] == port_id]
        docs = self._on(tx, host, rows, [])
        return Change(host=host, documents=docs, seq=sequence.of_change(tx))

    def _on(self, tx: Tx, host: str, rows: list[Row], routers: list[str]) -> tuple[Document, ...]:
        nets = {r["network_id"] for r in rows}
        docs = _with_surroundings(tx, host, [r["id"] for r in rows], nets, routers)
        found = {d.id for d in docs if isinstance(d, NetworkState)}
        out: Outbox = {}
        self.forwarding.collect(tx, found, out, only=host)
        more = out.get(host, ([], []))[0]
        if len(in_parts([*docs, *more])) > MOST_PARTS:
            self.forwarding.owe(host, found)  # by themselves, once the host has the networks
            return tuple(docs)
        return (*docs, *more)

    def _asked(self, subject: str, body: bytes) -> bytes | None:
        request = decode(body, StateRequest)
        if subject != f"network.state.{request.host}":
            log.warning("a host asked for another's state", extra={"subject": subject})
            return None
        if request.port_id is None and request.underlay is not None:
            now = self.clock.now()
            if self.forwarding.register(request.host, request.underlay, now):
                self._wake.set()
        with self._order:
            if request.port_id is None:
                return encode(self.full(request.host))
            wanted = request.port_id
            return encode(self.database.read(lambda tx: self._one(tx, request.host, wanted)))

    def _reported(self, subject: str, body: bytes) -> None:
        report = decode(body, Applied)
        if subject != f"network.report.{report.host}":
            log.warning(
                "a report on another host's subject was dropped", extra={"subject": subject}
            )
            return
        if self.forwarding.heard(report):
            self._wake.set()
        if not any(kind in ("port", "router") for kind, *_ in report.items):
            return
        now = self.clock.now()
        events = self.database.write(lambda tx: take_report(tx, report, now))
        for event in events:
            self.emit(event)


def _with_surroundings(
    tx: Tx, host: str, port_ids: list[str], net_ids: set[str], router_ids: Iterable[str]
) -> list[Document]:
    from kilonova.network.embedded.store.common import listed

    legs = documents.routers(tx, router_ids)
    net_ids = net_ids | {n for _, _, nets in legs for n in nets}
    remote = [r[0] for r in tx.all(documents.REFERENCED_BY_PORTS, ids=listed(port_ids))]
    return [
        *documents.networks(tx, net_ids).values(),
        *documents.group_states(tx, remote),
        *(p for at, p in documents.ports(tx, port_ids) if at == host),
        *(r for _, r, _ in legs),
    ]
