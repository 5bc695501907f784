"""What follows from what a step did: the result and the next intent in one commit, a retry, a retreat, the way back.

Every transition is one commit on the operation's home database: the result of one step, its ``record``, and the intent
of the next. Where it goes is decided in recovery.py; who calls the steps and speaks with hosts is runner.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kilonova.common.errors import GenerationMismatch, KilonovaError
from kilonova.common.log import get_logger
from kilonova.db.engine import Tx
from kilonova.saga import faults as f
from kilonova.saga import recovery
from kilonova.saga.definition import Ask, NotYet, Retreat, Retry, Step
from kilonova.saga.journal import Fenced
from kilonova.saga.state import UNDO, Live, State
from kilonova.saga.transition import RecordFailed, Transitions, explain

log = get_logger(__name__)
_ASK_RETRY = Retry()
RECORD_TRIES = 10


class Outcomes(Transitions):
    """What the engine makes of results and failures; holds nothing between calls."""

    # -- forward

    def _result(self, live: Live, effect: Callable[[], Mapping[str, Any] | None]) -> None:
        """Call ``effect``; its output, ``record`` and the next intent are one commit. A failure goes on from here."""
        for n in range(RECORD_TRIES):
            try:
                output = dict(effect() or {})
            except Exception as exc:  # noqa: BLE001 - the saga step loop
                self._step_failed(live, exc)
                return
            try:
                self._journal_result(live, output)
                return
            except RecordFailed as exc:
                if not isinstance(exc.cause, GenerationMismatch) or n == RECORD_TRIES - 1:
                    self._step_failed(live, exc.cause)
                    return

    def _journal_result(
        self,
        live: Live,
        output: dict[str, Any],
        outcome: str = "done",
        first: Callable[[Tx], None] | None = None,
    ) -> None:
        record, hook = live.current.record, first
        if record is not None:
            run = live.run(self._office.services)

            def hook(tx: Tx) -> None:
                if first is not None:
                    first(tx)
                record(tx, run, output)

        now = self._office.now()

        def decide() -> State:
            return recovery.after_result(
                live.saga,
                live.state,
                output,
                params=live.params,
                cancelled=live.cancelled,
                ends_by=live.ends_by,
                now=now,
            )

        self.commit(live, decide, outcome, None, hook)

    def _step_failed(self, live: Live, exc: Exception, *, renew: bool = False) -> None:
        """A do failed: wait, retry, retreat or unwind. ``renew``: a host answered, so ask it anew (another seq)."""
        if live.state.direction == UNDO:
            self._undo_failed(live, exc, renew=renew)
            return
        saga, s, index, now = live.saga, live.state, live.index, self._office.now()
        if isinstance(exc, Fenced) and not self.ours(live):
            raise exc
        late = s.deadline is not None and now > s.deadline
        past = recovery.past_return(saga, index)
        if isinstance(exc, NotYet):
            if past or not late:
                if not self._stopped(live, now):
                    self.move(live, recovery.again(s, now, exc.after_s, exc.message, counts=False))
                return
            exc = recovery.Deadline(
                f"The step {s.step} did not finish in time: {exc.message}", **exc.facts
            )
        if isinstance(exc, Retreat):
            back = recovery.retreat(saga, s, exc, now)
            if back is not None:
                self.commit(live, lambda: back, "retreat", exc.message)
                return
        error, details = explain(exc, live)
        retry = live.current.retry if isinstance(live.current, Step) else _ASK_RETRY
        delay = recovery.back_off_s(s.tries + 1, retry.first_s, retry.factor)
        transient = not isinstance(exc, KilonovaError) or exc.retryable
        if past or (transient and s.tries < retry.times and not late):
            self.observe(live, "retry", now)
            later = recovery.again(s, now, delay, details or error.message, counts=True)
            self.move(live, later.but(seq=s.seq + 1) if renew else later)
            return
        self._unwind(live, error, details)

    def _stopped(self, live: Live, now: float) -> bool:
        """Unwind a waiting operation that was cancelled or is over its time; else False."""
        stop = recovery.must_stop(
            live.saga, live.index, cancelled=live.cancelled, ends_by=live.ends_by, now=now
        )
        if stop is None:
            return False
        self._unwind(live, stop, None)
        return True

    def _settled(self, live: Live) -> bool:
        """Tell whether a step that is about to be unwound was looked at, and worked or cannot be judged yet."""
        step, s = live.current, live.state
        if not isinstance(step, Ask) or step.seen is None or s.direction == UNDO:
            return False
        try:
            output = step.seen(live.run(self._office.services))
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            error, details = explain(exc, live)
            wait = exc.after_s if isinstance(exc, NotYet) else recovery.back_off_s(s.tries + 1)
            later = recovery.again(
                s, self._office.now(), wait, details or error.message, counts=False
            )
            self.move(live, later)
            return True
        if output is None:
            return False
        worked = output
        self._result(live, lambda: worked)
        return True

    def _unwind(self, live: Live, error: KilonovaError, details: str | None) -> None:
        if self._settled(live):
            return
        now = self._office.now()
        self.commit(
            live,
            lambda: recovery.unwind(live.saga, live.state, error, now, details),
            "cancelled" if isinstance(error, recovery.Cancelled) else "failed",
            error.message,
        )

    # -- back

    def _undone(self, live: Live, outcome: str, park: Callable[[Tx], None] | None = None) -> None:
        step, now, run = live.current, self._office.now(), live.run(self._office.services)
        unrecord = step.unrecord if recovery.takes_back_record(live.state, step) else None

        def hook(tx: Tx) -> None:
            if park is not None:
                park(tx)
            if unrecord is not None:
                unrecord(tx, run)

        try:
            self.commit(
                live,
                lambda: recovery.undone(live.saga, live.state, cancelled=live.cancelled, now=now),
                outcome,
                None,
                hook if park is not None or unrecord is not None else None,
            )
        except RecordFailed as exc:
            self._undo_failed(live, exc.cause)

    def _undo_failed(self, live: Live, exc: Exception, *, renew: bool = False) -> None:
        """An undo is retried until it works; from the third failure on it is an alarm."""
        if isinstance(exc, Fenced) and not self.ours(live):
            raise exc
        s, now = live.state, self._office.now()
        error, details = explain(exc, live)
        level = log.error if s.tries + 1 >= recovery.UNDO_TRIES else log.warning
        level(
            "an undo failed and is tried again",
            extra={
                "step": s.step or f.UNWOUND,
                "tries": s.tries + 1,
                "reason": details or error.message,
            },
        )
        self.observe(live, "undo_failed", now)
        waits = isinstance(exc, NotYet)
        delay = exc.after_s if isinstance(exc, NotYet) else recovery.back_off_s(s.tries + 1)
        later = recovery.again(s, now, delay, details or error.message, counts=not waits)
        self.move(live, later.but(seq=s.seq + 1) if renew else later)
