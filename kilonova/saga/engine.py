"""The engine: which operation runs when, on which thread, and who owns it.

Few threads; a waiting operation is a row, not a thread. An operation gets here by a nudge after its commit, by an
answer, by its time, or, when all of these were lost, by the sweep. Each is run by one thread at a time.
"""

import contextlib
import heapq
import random
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from kilonova.bus import answers
from kilonova.bus.interface import Bus, Subscription
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger, operation_id, request_id
from kilonova.db.engine import Database, Row
from kilonova.objects.base import encode
from kilonova.objects.order import Answer, OperationEnded, Order
from kilonova.saga import journal
from kilonova.saga.faults import Faults, Killed
from kilonova.saga.journal import Fenced
from kilonova.saga.ownership import Ownership, SoleOwner
from kilonova.saga.queues import HostQueues, Key, Ready
from kilonova.saga.runner import Runner
from kilonova.saga.state import ANSWER, Live
from kilonova.saga.stepping import Stepping
from kilonova.saga.tending import Tending
from kilonova.saga.transition import Observer, Recorder

log = get_logger(__name__)
SWEEP_S = 1.0
SWEEP_LIMIT = 500
KEPT = 2000  # operations that wait for an answer are kept as they were written: it finds them without a read
UNKNOWN_S = 60.0  # an operation whose definition this release does not know is left alone so long
NOBODY_S = 0.25  # that no operation waits for any host is known for so long
HURRY_S = 0.2  # a host that registered takes orders once it has read the reply
RETRY_S = 1.0
JUMP_S = 5.0  # a wall clock that moved so far against the monotonic one has jumped


class Engine(Tending, Stepping):
    """Runs the operations of its databases, as far as it owns them.

    ownership: which operations are this engine's (None: all; who makes one holds the state directory's lock).
    databases: name -> home database with the journal's tables. services: passed to steps as ``run.services``; if it
    has ``host_is_down(host) -> bool``, that is believed, from ``grace_s`` seconds after the start on (before, no host
    had the time to report). observer(kind, step, outcome, seconds): for metrics, called after
    commits, must not raise; step "" is the operation's end. recorder(tx, run, event): called in the transaction that
    ends a try of a step (instance action events). limits: queue name -> orders at a time per host.
    """

    def __init__(
        self,
        databases: Mapping[str, Database],
        bus: Bus,
        services: Any,
        *,
        clock: Clock = SYSTEM,
        workers: int = 4,
        faults: Faults | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
        limits: Mapping[str, int] | None = None,
        grace_s: float = 15.0,
        ownership: Ownership | None = None,
    ) -> None:
        self.databases: Mapping[str, Database] = dict(databases)
        self.services = services
        self.faults = faults
        self.recorder = recorder
        self.queues = HostQueues(limits)
        self.ownership: Ownership = ownership or SoleOwner()
        self.crashed: BaseException | None = None
        self._bus = bus
        self._clock = clock
        self._observer = observer
        self._workers = workers
        self._runner = Runner(self)
        self._offset = clock.now() - clock.monotonic()
        self._trust_at = clock.monotonic() + grace_s
        self._silent: set[str] = set()
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ready = Ready()
        self._held: dict[Key, bool] = {}
        self._inbox: dict[Key, list[Answer]] = {}
        self._nobody_until: dict[str, float] = {}  # database -> no operation waits for a host
        self._asked: dict[Key, str] = {}
        self._kept: dict[Key, Live] = {}
        self._wakes: list[tuple[float, Key]] = []
        self._wake_of: dict[Key, float] = {}
        self._timer = threading.Condition()
        self._endings = threading.Condition()
        self.stopping = False

    # -- life

    def open(self) -> None:
        """Become the owner of every database's operations and listen; no threads yet. ``start`` does it too.

        A database that does not answer is opened by a later sweep.
        """
        self.sweep(limit=0)

    def add_database(self, db: Database) -> None:
        """Own one more home database (a cell that was added), or the same one at another place. Safe to repeat.

        One that does not answer now is opened by a later sweep.
        """
        with self._lock:
            new = db.name not in self.databases
            self.databases = {**self.databases, db.name: db}
        if new and self._threads and self.ownership.shared:
            self._spawn(f"lease-{db.name}", partial(self._keep, db.name))
        if new:
            try:
                self._open(db.name)
            except KilonovaError as exc:
                log.warning(
                    "a database cannot be opened", extra={"database": db.name, "why": exc.message}
                )

    def remove_database(self, name: str) -> None:
        """Let go of a home database (a cell that was deleted); fine when it is not there."""
        with self._lock:
            db = self.databases.get(name)
            self.databases = {n: d for n, d in self.databases.items() if n != name}
        for heard in self._subscriptions.pop(name, ()):
            heard.close()
        self._forget_all(name)
        if db is not None and self.ownership.is_open(name):
            with contextlib.suppress(KilonovaError):
                self.ownership.retire(db, self.now())
        self.ownership.close(name)

    def start(self) -> None:
        """Own, sweep, and run operations on threads until ``stop``."""
        self.sweep(limit=1_000_000)
        for n in range(self._workers):
            self._spawn(f"saga-{n}", self._work)
        self._spawn("saga-timer", self._tick)
        if self.ownership.shared:
            for name in self.databases:
                self._spawn(f"lease-{name}", partial(self._keep, name))

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        t = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(t)
        t.start()

    def stop(self) -> None:
        """Finish the steps that run, start none, let go of the databases.

        Operations go on at the next start, or at once with another conductor.
        """
        self.abandon()
        for _ in self._threads:
            self._ready.put(None, urgent=True)
        with self._timer:
            self._timer.notify()
        for t in self._threads:
            if t is not threading.current_thread():
                t.join()
        self._threads.clear()
        if self.crashed is None:
            now = self.now()
            for db in self._answering():
                self._offer(db.name, self.ownership.retire(db, now))
        with self._endings:
            self._endings.notify_all()

    def abandon(self) -> None:
        """Do what a kill does: hear and start nothing more, write nothing. For tests."""
        self.stopping = True
        self._over.set()
        for heard in list(self._subscriptions.values()):
            for s in heard:
                s.close()

    # -- time

    def now(self) -> float:
        """Seconds since the epoch by a clock that does not jump; ``sweep`` follows the machine's clock."""
        return self._offset + self._clock.monotonic()

    def _jump(self) -> float:
        """Follow the wall clock; return by how much it jumped (0.0: it did not), seconds.

        Every wake-up and deadline moves with it: nothing is early, late or lost.
        """
        by = self._clock.now() - self.now()
        self._offset += by
        if abs(by) <= JUMP_S:
            return 0.0
        log.warning("the clock jumped", extra={"by_s": by})
        self._kept = {}
        with self._timer:
            self._wake_of = {key: at + by for key, at in self._wake_of.items()}
            self._wakes = [(at, key) for key, at in self._wake_of.items()]
            heapq.heapify(self._wakes)
        return by

    # -- getting work

    def nudge(self, database: str, operation: str) -> None:
        """Look at an operation soon; safe from any thread, any number of times, also for one that is unknown here."""
        self._enqueue((database, operation), again=True)

    def _enqueue(self, key: Key, *, again: bool, urgent: bool = False) -> bool:
        """Give an operation to the workers unless it is with them; ``again``: then look once more afterwards.

        ``urgent``: what has begun goes before what is new, so that a burst does not make answers late.
        """
        with self._lock:
            if key in self._held:
                if again:
                    self._held[key] = True
                return False
            if not self.ownership.is_open(key[0]) or self.stopping:
                return False
            self._held[key] = False
        self._ready.put(key, urgent=urgent)
        return True

    def hurry(self, host: str, homes: Collection[str]) -> None:
        """A host listens again: orders that it may have missed are sent soon, not after the growing delay.

        homes: the databases in which operations may wait for it.
        """
        at = self.now() + HURRY_S
        for name, db in list(self.databases.items()):
            if name not in homes or not self._anybody_waits(name, at):
                continue
            if not db.ask(partial(journal.waits_for, host=host, at=at)):
                continue
            for operation in db.write(partial(journal.hurry, host=host, at=at)):
                self.nudge(name, operation)

    def _anybody_waits(self, name: str, at: float) -> bool:
        """Tell whether operations of a database wait for hosts; ten thousand hosts that come back ask once.

        What begins to wait in the same moment has just sent its order.
        """
        now = self._clock.monotonic()
        if now < self._nobody_until.get(name, now):
            return False
        if self.databases[name].ask(partial(journal.waits_for_any, at=at)):
            return True
        self._nobody_until[name] = now + NOBODY_S
        return False

    def _nudged(self, subject: str, body: bytes) -> None:
        self.nudge(subject.split(".")[1], body.decode())

    def _answer(self, subject: str, body: bytes) -> None:
        answer = answers.read(subject, body)
        if answer is None:
            return
        key = (subject.split(".")[2], answer.operation)
        if not self.ownership.is_open(key[0]):
            return
        with self._lock:
            box = self._inbox.setdefault(key, [])
            if len(box) < 16:
                box.append(answer)
        self._enqueue(key, again=True, urgent=True)

    def sweep(self, limit: int = SWEEP_LIMIT, *, paced: bool = False) -> int:
        """Find what is ready, due or forgotten, in every database; return how many operations it woke.

        ``paced``: where another conductor sweeps every second, this one does it now and then.
        """
        by, at = self._jump(), self._clock.monotonic()
        turns = self.ownership.sweeps
        names = [n for n in self.databases if by or not paced or turns(n, at)]
        return sum(self._sweep(name, limit, by) for name in names)

    def _sweep(self, name: str, limit: int, by: float) -> int:
        """Sweep one database; one that is dead stops no other, and is opened once it answers."""
        db = self.databases.get(name)
        if db is None:
            return 0
        try:
            if not self.ownership.is_open(name):
                self._open(name)
            self._tend(name)
            if by:
                db.write(lambda tx: self.ownership.shift(tx, by))
            now = self.now()
            found = db.read(lambda tx: self.ownership.due(tx, now, limit))
        except Exception as exc:
            if name not in self._silent:
                self._silent.add(name)
                log.error("a database cannot be swept", exc_info=exc, extra={"database": name})
            return 0
        self._silent.discard(name)
        return sum(self._enqueue((name, op), again=False) for op in found)

    def _answering(self) -> list[Database]:
        """Return the databases that answered at the last sweep."""
        return [
            db
            for name, db in self.databases.items()
            if name not in self._silent and self.ownership.is_open(name)
        ]

    def _later(self, key: Key, at: float) -> None:
        """Look at an operation at ``at``; the last call for a key holds."""
        with self._timer:
            self._wake_of[key] = at
            heapq.heappush(self._wakes, (at, key))
            if self._wakes[0][1] == key:
                self._timer.notify()

    def _fire(self) -> float | None:
        """Wake what is due; return when the next is due. The timer's lock is held."""
        now = self.now()
        while self._wakes:
            at, key = self._wakes[0]
            if self._wake_of.get(key) != at:
                heapq.heappop(self._wakes)
            elif at > now:
                return at
            else:
                heapq.heappop(self._wakes)
                del self._wake_of[key]
                self._enqueue(key, again=True, urgent=True)
        return None

    def _tick(self) -> None:
        swept = self._clock.monotonic()
        pause = SWEEP_S
        while not self.stopping:
            with self._timer:
                following = self._fire()
                wait = swept + pause - self._clock.monotonic()
                if following is not None:
                    wait = min(wait, following - self.now() + 0.001)
                if wait > 0:
                    self._timer.wait(wait)
            if self._clock.monotonic() - swept >= pause and not self.stopping:
                self.sweep(paced=True)
                swept = self._clock.monotonic()
                pause = SWEEP_S * random.uniform(0.9, 1.1)  # noqa: S311

    # -- working

    def _work(self) -> None:
        while not self.stopping:
            key = self._ready.get()
            if key is None:
                break
            try:
                self._run(key)
            except Killed as exc:
                return self._crash(exc)

    def _crash(self, exc: BaseException) -> None:
        """A test killed this process: no thread does anything any more."""
        self.crashed = exc
        self.abandon()
        for _ in self._threads:
            self._ready.put(None, urgent=True)
        with self._endings:
            self._endings.notify_all()

    def _run(self, key: Key) -> None:
        """Take one operation as far as it goes, then give it back."""
        with self._timer:
            self._wake_of.pop(key, None)
        with self._lock:
            self._held[key] = False
            answers = self._inbox.pop(key, [])
        token = operation_id.set(key[1])
        try:
            self._proceed(key, answers)
        except Fenced:
            log.info("the operation has another owner")
        except Exception:
            log.exception("an operation could not go on; it is tried again in a second")
            self._later(key, self.now() + RETRY_S)
        finally:
            operation_id.reset(token)
        with self._lock:
            again = (self._held[key] or key in self._inbox) and not self.stopping
            if again:
                self._held[key] = False
            else:
                del self._held[key]
        if again:
            self._ready.put(key, urgent=True)

    def _proceed(self, key: Key, answers: list[Answer]) -> None:
        database, operation = key
        db = self.databases.get(database)
        if db is None:
            return
        live: Live | Row | None = self._kept.pop(key, None)
        if live is None or not answers:
            live = db.ask(lambda tx: journal.load(tx, operation))
        if live is None:
            return
        if not isinstance(live, Live):
            if live["ended_at"] is None:
                log.warning(
                    "an operation of a kind that this release does not know",
                    extra={"kind": live["kind"]},
                )
                at = self.now() + UNKNOWN_S
                db.write(lambda tx: journal.postpone(tx, operation, at))
            return
        if live.ended:
            return
        if not self.ownership.holds(database):
            return self._later(key, self.now() + RETRY_S)
        if not self.ownership.own(db, live):
            return self._forward(live)
        token = request_id.set(live.context.request_id)
        try:
            self._runner.proceed(live, answers)
        finally:
            request_id.reset(token)
        if live.ended:
            self._ended(key)
        elif not self.holds(live):
            self._later(key, self.now() + RETRY_S)
        elif live.state.wake_at is not None:
            self._later(key, live.state.wake_at)
            if live.state.waits_for == ANSWER and len(self._kept) < KEPT:
                self._kept[key] = live

    def _ended(self, key: Key) -> None:
        with self._lock:
            self._inbox.pop(key, None)
            self._asked.pop(key, None)
        with self._timer:
            self._wake_of.pop(key, None)
        with self._endings:
            self._endings.notify_all()

    # -- what the runner asks for

    def send(self, key: Key, order: Order) -> None:
        """Publish an order; remember which host may answer it."""
        self._asked[key] = order.host
        self._bus.publish(f"agent.{order.host}.order", encode(order))

    def asked(self, key: Key) -> str | None:
        """Return the host that was sent the current order by this process."""
        return self._asked.get(key)

    def forget(self, key: Key) -> None:
        """The current order is answered or given up."""
        self._asked.pop(key, None)

    def is_down(self, host: str) -> bool:
        """Tell whether a host is known to be down."""
        ask: Callable[[str], bool] | None = getattr(self.services, "host_is_down", None)
        return ask is not None and self._clock.monotonic() >= self._trust_at and ask(host)

    def closed(self, live: Live, hosts: list[str]) -> None:
        """Tell the hosts that had orders of an operation that it has ended: they may forget their answers."""
        for host in hosts:
            ended = OperationEnded(
                host=host, operation=live.id, server_id=live.resource, epoch=live.epoch
            )
            self._bus.publish(f"agent.{host}.state", encode(ended))

    def observe(self, kind: str, step: str, outcome: str, seconds: float) -> None:
        """Tell the observer."""
        if self._observer is not None:
            self._observer(kind, step, outcome, seconds)
