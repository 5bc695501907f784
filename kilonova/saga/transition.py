"""One transition of an operation is one commit: the new state, the row of the step that ended, and what it records."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Tx
from kilonova.objects.order import Order
from kilonova.saga import faults as f
from kilonova.saga import journal
from kilonova.saga.definition import Run
from kilonova.saga.queues import HostQueues, Key
from kilonova.saga.state import ANSWER, DO, Live, State

log = get_logger(__name__)


@dataclass(frozen=True)
class StepEvent:
    """What a recorder hears inside the transaction, once per try of a step that ended.

    outcome: done | failed | retreat | undone | parked | cancelled. ended: the operation's final state, at its end.
    """

    step: str
    direction: str
    outcome: str
    started_at: float
    ended_at: float
    error: str | None
    host: str | None
    ended: str | None


Recorder = Callable[[Tx, Run, StepEvent], None]
Observer = Callable[[str, str, str, float], None]  # kind, step, outcome, seconds


class Office(Protocol):
    """What a runner asks of its engine."""

    databases: Mapping[str, Database]
    services: Any
    faults: f.Faults | None
    queues: HostQueues
    recorder: Recorder | None
    stopping: bool

    def now(self) -> float: ...
    def holds(self, live: Live) -> bool: ...
    def address(self, database: str) -> str: ...
    def send(self, key: Key, order: Order) -> None: ...
    def asked(self, key: Key) -> str | None: ...
    def forget(self, key: Key) -> None: ...
    def is_down(self, host: str) -> bool: ...
    def closed(self, live: Live, hosts: list[str]) -> None: ...
    def nudge(self, database: str, operation: str) -> None: ...
    def observe(self, kind: str, step: str, outcome: str, seconds: float) -> None: ...


class _CancelSeen(Exception):
    """The row says that somebody asked to cancel, and we did not know."""


class RecordFailed(Exception):
    """``record`` raised; ``cause`` is the step's failure, not the engine's."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Transitions:
    """Writes transitions; what follows from each of them is told to the office."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def ours(self, live: Live) -> bool:
        db = self._office.databases[live.database]
        row = db.read(lambda tx: journal.find_row(tx, live.id))
        return row is not None and row["fence"] == live.fence

    def observe(self, live: Live, outcome: str, now: float) -> None:
        s = live.state
        self._office.observe(live.kind, s.step or f.UNWOUND, outcome, max(0.0, now - s.started_at))

    def move(self, live: Live, state: State) -> None:
        """Journal a wait within the same step."""
        self.commit(live, lambda: state, None)

    def commit(
        self,
        live: Live,
        decide: Callable[[], State],
        outcome: str | None,
        error: str | None = None,
        hook: Callable[[Tx], None] | None = None,
    ) -> None:
        """Write one transition: the new state, the row of the step that ended (``outcome``), and ``hook``.

        When somebody asked to cancel meanwhile, ``decide`` is asked again. Raises RecordFailed, Fenced.
        """
        office, old, now = self._office, live.state, self._office.now()
        recorder = office.recorder if outcome is not None else None
        run = live.run(office.services) if recorder is not None else None

        def write(tx: Tx) -> tuple[list[str], list[str]]:
            state = decided[0]
            if not journal.save(tx, live, state, now):
                raise _CancelSeen
            if outcome is not None:
                journal.add_step(tx, live, outcome, now, error)
            try:
                if hook is not None:
                    hook(tx)
                if recorder is not None and run is not None:
                    recorder(tx, run, _event(old, state, outcome or "", error, now))
            except Exception as exc:
                raise RecordFailed(exc) from exc
            if state.ended_at is None:
                return [], []
            hosts = journal.hosts_of(tx, live.id) if live.saga.asks else []
            return journal.neighbours(tx, live.resource, live.id), hosts

        db = office.databases[live.database]
        # The journal's own rows are changed by compare-and-swap on the fence.
        guarded = recorder is None and (hook is None or _is_guarded(live, outcome))
        decided = [decide()]
        try:
            others, hosts = db.write(write, guarded=guarded)
        except _CancelSeen:
            live.cancelled = True
            # A wait that began just now ends at once; any other transition is decided anew.
            decided[0] = decided[0].but(wake_at=now) if outcome is None else decide()
            others, hosts = db.write(write, guarded=guarded)
        live.state, live.unowned = decided[0], False
        live.fresh = live.state.waits_for == ANSWER and live.state.seq != old.seq
        if outcome is not None:
            self._after_step(live, old, outcome, now)
        if live.ended:
            office.observe(live.kind, "", live.state.state, max(0.0, now - live.accepted_at))
            office.closed(live, hosts)
            for operation in others:
                office.nudge(live.database, operation)
        if outcome is not None and office.faults is not None:
            office.faults.at(old.step or f.UNWOUND, old.direction, f.RECORDED)

    def _after_step(self, live: Live, old: State, outcome: str, now: float) -> None:
        office, step = self._office, old.step or f.UNWOUND
        office.observe(live.kind, step, outcome, max(0.0, now - old.started_at))
        office.forget(live.key)
        for database, operation in office.queues.leave(live.key):
            office.nudge(database, operation)


def _is_guarded(live: Live, outcome: str | None) -> bool:
    """Tell whether what a step records with this outcome needs no isolation from other writers."""
    return outcome == "done" and live.state.direction == DO and live.current.guarded


def _event(old: State, new: State, outcome: str, error: str | None, now: float) -> StepEvent:
    return StepEvent(
        step=old.step or f.UNWOUND,
        direction=old.direction,
        outcome=outcome,
        started_at=old.started_at,
        ended_at=now,
        error=error,
        host=old.host,
        ended=new.state if new.ended_at is not None else None,
    )


def explain(exc: Exception, live: Live) -> tuple[KilonovaError, str | None]:
    """Return what a tenant may read and what an admin should; a bug is logged with its trace."""
    if isinstance(exc, KilonovaError):
        facts = ", ".join(f"{k}={v}" for k, v in exc.facts.items() if v is not None)
        return exc, facts or None
    log.error("a step has a bug", exc_info=exc, extra={"step": live.state.step, "kind": live.kind})
    where = traceback.extract_tb(exc.__traceback__)
    at = f" at {where[-1].filename}:{where[-1].lineno}" if where else ""
    return KilonovaError("An unexpected error happened."), f"{type(exc).__name__}: {exc}{at}"
