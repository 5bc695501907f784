"""The engine: which operation runs when, on which thread, and who owns it.

Few threads; a waiting operation is a row, not a thread. An operation gets here by a nudge after its commit, by an
answer, by its time, or, when all of these were lost, by the sweep. Each is run by one thread at a time.
"""

import heapq
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kilonova.bus.interface import Bus, Subscription
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.errors import Conflict, NotFound
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger, operation_id, request_id
from kilonova.db.engine import Database, Row
from kilonova.objects.base import IncompatibleVersion, decode, encode
from kilonova.objects.order import Answer, OperationEnded, Order
from kilonova.saga import journal
from kilonova.saga.faults import Faults, Killed
from kilonova.saga.journal import Fenced
from kilonova.saga.queues import HostQueues, Key, Ready
from kilonova.saga.runner import Runner
from kilonova.saga.state import ANSWER, Live
from kilonova.saga.transition import Observer, Recorder

log = get_logger(__name__)
SWEEP_S = 1.0
SWEEP_LIMIT = 500
KEPT = 2000  # operations that wait for an answer are kept as they were written: it finds them without a read
UNKNOWN_S = 60.0  # an operation whose definition this release does not know is left alone so long
HURRY_S = 0.2  # a host that registered takes orders once it has read the reply
JUMP_S = 5.0  # a wall clock that moved so far against the monotonic one has jumped


class Engine:
    """Runs the operations of its databases; the only owner of them (who makes one holds the state directory's lock).

    databases: name -> home database with the journal's tables. services: passed to steps as ``run.services``; if it has
    ``host_is_down(host) -> bool``, that is believed, from ``grace_s`` seconds after the start on (before, no host
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
    ) -> None:
        self.databases: Mapping[str, Database] = dict(databases)
        self.services = services
        self.faults = faults
        self.recorder = recorder
        self.queues = HostQueues(limits)
        self.owner = f"conductor-{new_uuid()}"
        self.crashed: BaseException | None = None
        self._bus = bus
        self._clock = clock
        self._observer = observer
        self._workers = workers
        self._runner = Runner(self)
        self._offset = clock.now() - clock.monotonic()
        self._trust_at = clock.monotonic() + grace_s
        self._fences: dict[str, int] = {}
        self._silent: set[str] = set()
        self._subscriptions: list[Subscription] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ready = Ready()
        self._held: dict[Key, bool] = {}
        self._inbox: dict[Key, list[Answer]] = {}
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

    def _open(self, name: str) -> None:
        db, now = self.databases[name], self.now()
        self._fences[name] = db.write(lambda tx: journal.take_over(tx, self.owner, now))
        subscribe = self._bus.subscribe
        self._subscriptions.append(subscribe(f"answer.{name}", self._answer, "conductors"))
        self._subscriptions.append(subscribe(f"nudge.{name}", self._nudged, "conductors"))

    def add_database(self, db: Database) -> None:
        """Own one more home database (a cell that was added)."""
        with self._lock:
            if db.name in self.databases:
                raise Conflict(f"The database {db.name} is there already.")
            self.databases = {**self.databases, db.name: db}
        self._open(db.name)

    def start(self) -> None:
        """Own, sweep, and run operations on threads until ``stop``."""
        self.sweep(limit=1_000_000)
        for n in range(self._workers):
            self._spawn(f"saga-{n}", self._work)
        self._spawn("saga-timer", self._tick)

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        t = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(t)
        t.start()

    def stop(self) -> None:
        """Finish the steps that run, start none, let go of the databases. Operations go on at the next start."""
        self.stopping = True
        for s in self._subscriptions:
            s.close()
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
                db.write(partial(journal.retire, fence=self._fences[db.name], now=now))
        with self._endings:
            self._endings.notify_all()

    def abandon(self) -> None:
        """Do what a kill does: hear and start nothing more, write nothing. For tests."""
        self.stopping = True
        for s in self._subscriptions:
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
            if key[0] not in self._fences or self.stopping:
                return False
            self._held[key] = False
        self._ready.put(key, urgent=urgent)
        return True

    def hurry(self, host: str) -> None:
        """A host listens again: orders that it may have missed are sent soon, not after the growing delay."""
        at = self.now() + HURRY_S
        for name, db in list(self.databases.items()):
            for operation in db.write(partial(journal.hurry, host=host, at=at)):
                self.nudge(name, operation)

    def _nudged(self, subject: str, body: bytes) -> None:
        self.nudge(subject.partition(".")[2], body.decode())

    def _answer(self, subject: str, body: bytes) -> None:
        try:
            answer = decode(body, Answer)
        except IncompatibleVersion as exc:
            log.warning(
                "an answer that cannot be read", extra={"subject": subject, "why": exc.message}
            )
            return
        key = (subject.partition(".")[2], answer.operation)
        if key[0] not in self._fences:
            return
        with self._lock:
            box = self._inbox.setdefault(key, [])
            if len(box) < 16:
                box.append(answer)
        self._enqueue(key, again=True, urgent=True)

    def sweep(self, limit: int = SWEEP_LIMIT) -> int:
        """Find what is ready, due or forgotten, in every database; return how many operations it woke."""
        by = self._jump()
        return sum(self._sweep(name, limit, by) for name in list(self.databases))

    def _sweep(self, name: str, limit: int, by: float) -> int:
        """Sweep one database; one that is dead stops no other, and is opened once it answers."""
        db = self.databases[name]
        try:
            if name not in self._fences:
                self._open(name)
            if by:
                db.write(lambda tx: journal.shift(tx, by))
            now = self.now()
            found = db.read(lambda tx: journal.due(tx, now, limit))
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
            db for name, db in self.databases.items() if name in self._fences.keys() - self._silent
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
                self.sweep()
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
            self._later(key, self.now() + 1.0)
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
        db = self.databases[database]
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
        if live.ended or not self._mine(db, live):
            return
        token = request_id.set(live.context.request_id)
        try:
            self._runner.proceed(live, answers)
        finally:
            request_id.reset(token)
        if live.ended:
            self._ended(key)
        elif live.state.wake_at is not None:
            self._later(key, live.state.wake_at)
            if live.state.waits_for == ANSWER and len(self._kept) < KEPT:
                self._kept[key] = live

    def _mine(self, db: Database, live: Live) -> bool:
        """Own an operation of an older incarnation by compare-and-swap; False when a newer one has it."""
        mine = self._fences[live.database]
        if live.fence > mine:
            raise Fenced("a newer incarnation owns the operation")
        if live.fence < mine:
            seen = live.fence
            if not db.write(lambda tx: journal.claim(tx, live.id, seen=seen, fence=mine)):
                return False
            live.fence = mine
        return True

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

    # -- being looked at, and tests

    def depth(self) -> dict[str, int]:
        """Return how many operations run (or are about to), wait, and stand in line for a host."""
        with self._lock:
            running = len(self._held)
        rows = sum(db.read(journal.waiting) for db in self._answering())
        return {"running": running, "waiting": rows, "queued": sum(self.queues.depth().values())}

    def wait(self, database: str, operation: str, timeout_s: float = 30.0) -> str:
        """Return the final state of an operation once it has ended, for tests and the command line.

        Raises TimeoutError after ``timeout_s`` real seconds, NotFound; Killed when a fault killed this engine.
        """
        end = time.monotonic() + timeout_s
        db = self.databases[database]
        while True:
            row = db.read(lambda tx: journal.find_row(tx, operation))
            if row is None:
                raise NotFound(f"Operation {operation} could not be found.")
            if row["ended_at"] is not None:
                state: str = row["state"]
                return state
            if self.crashed is not None:
                raise self.crashed
            with self._endings:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"operation {operation} is {row['state']} at {row['step']!r}"
                    )
                self._endings.wait(min(left, 0.05))

    def step_once(self) -> bool:
        """Run one operation on this thread as far as it goes; False when none is ready. For tests without threads."""
        try:
            key = self._ready.get(block=False)
        except queue.Empty:
            return False
        if key is not None:
            self._run(key)
        return True

    def run_until_idle(self, *, advance: bool = True, limit: int = 100_000) -> None:
        """Run everything on this thread until nothing is live, or nothing can move without time passing.

        With a bus that has ``pump``, its messages are delivered here too. ``advance``: let a ManualClock go on to the
        next wake-up; operations that never end then raise RuntimeError after ``limit`` rounds.
        """
        pump: Callable[[], int] = getattr(self._bus, "pump", lambda: 0)
        for _ in range(limit):
            if self.step_once() or pump() or self.sweep():
                continue
            if not advance or not self._advance():
                return
        raise RuntimeError("the engine does not come to rest")

    def _advance(self) -> bool:
        """Move a ManualClock to the next event; False when there is none."""
        move: Callable[[float], None] | None = getattr(self._clock, "advance", None)
        if move is None:
            return False
        next_due: Callable[[], float | None] = getattr(self._bus, "next_due", lambda: None)
        wakes = [db.read(journal.next_wake) for db in self._answering()]
        waits = [at - self.now() for at in wakes if at is not None]
        message = next_due()
        if message is not None:
            waits.append(message - self._clock.monotonic())
        if not waits:
            return False
        move(max(0.001, min(waits) + 0.001))
        return True
