"""Takes one operation forward on the calling thread, step after step, until it waits or has ended.

It calls the steps and speaks with hosts; what follows from what they did is outcomes.py. Which operation runs,
and when, is decided in engine.py.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.log import get_logger
from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, AnswerState, Direction, Order
from kilonova.saga import faults as f
from kilonova.saga import journal, recovery
from kilonova.saga.definition import Ask, NoUndo, StepFailed
from kilonova.saga.outcomes import Outcomes
from kilonova.saga.state import ANSWER, DO, QUEUE, READY, RUNNING, TURN, UNDO, WAITING, Live
from kilonova.saga.transition import RecordFailed

log = get_logger(__name__)
TURN_S = 30.0


class Runner(Outcomes):
    """The engine's hands; holds nothing between calls."""

    def proceed(self, live: Live, answers: Sequence[Answer]) -> None:
        """Run ``live`` until it waits or ends. Raises Fenced when it has another owner; what the database raises."""
        if not self._wake(live, answers):
            return
        while not live.ended and not self._office.stopping and self._office.holds(live):
            if live.fresh:
                self._send(live, journaled=True)
            elif live.state.state != RUNNING:
                return
            elif not live.state.step:
                self._last_act(live)
            elif live.state.direction == DO:
                self._do(live)
            else:
                self._undo(live)

    # -- being woken

    def _wake(self, live: Live, answers: Sequence[Answer]) -> bool:
        """Tell whether there is anything to do now; handles answers and what is due of a waiting operation."""
        s, now = live.state, self._office.now()
        if live.ended:
            return False
        if s.state == RUNNING:  # in doubt after a take-over: done again
            return True
        if s.state == READY or s.waits_for == TURN:
            return self._begin(live, now)
        due = s.wake_at is None or now >= s.wake_at
        if s.direction == DO and (due or live.cancelled) and self._stopped(live, now):
            return True
        if s.waits_for == ANSWER:
            return self._hear(live, answers) or (due and self._overdue(live, now))
        if s.waits_for == QUEUE:
            placed = self._office.queues.placed(live.key)
            return self._send(live) if due or placed else False
        if not due and not (s.waits_for == "not_yet" and s.wake_at is not None):
            return False
        if isinstance(live.current, Ask) if s.step else False:
            return self._send(live)
        live.state = s.but(state=RUNNING, waits_for=None)
        return True

    def _begin(self, live: Live, now: float) -> bool:
        stop = recovery.must_stop(
            live.saga, 0, cancelled=live.cancelled, ends_by=live.ends_by, now=now
        )
        if stop is not None:
            self._unwind(live, stop, None)
            return True
        if live.saga.in_turn and self._others_first(live):
            self.move(live, live.state.but(state=WAITING, waits_for=TURN, wake_at=now + TURN_S))
            return False
        if isinstance(live.current, Ask):
            return self._send(live)
        live.state = live.state.but(
            state=RUNNING, waits_for=None, started_at=now, deadline=now + live.current.deadline_s
        )
        return True

    def _others_first(self, live: Live) -> bool:
        """Tell whether an operation accepted before on the same resource has not ended; its end wakes this one."""
        db = self._office.databases[live.database]
        return db.read(lambda tx: journal.waits_its_turn(tx, live.resource, live.epoch))

    def _hear(self, live: Live, answers: Sequence[Answer]) -> bool:
        """Take an answer to the current order, if one is among ``answers``; others are stale and mean nothing."""
        s = live.state
        host = self._office.asked(live.key) or s.host
        for a in answers:
            if (a.step, a.direction, a.seq, a.host) != (s.step, s.direction, s.seq, host):
                continue
            if a.state == AnswerState.RUNNING:
                db = self._office.databases[live.database]
                db.write(partial(journal.progress, id=live.id, seq=a.seq, text=a.progress))
                live.state = s = s.but(heard=s.sends)
                continue
            live.state = s.but(host=host)
            self._answered(live, a)
            return True
        return False

    def _overdue(self, live: Live, now: float) -> bool:
        """No answer yet: send again, give up, or leave the undo to the host's cleanup records."""
        s = live.state
        step = live.ask
        # Only a host that this process asked: after a restart no host was heard of yet.
        host = self._office.asked(live.key)
        down = host is not None and self._office.is_down(host)
        if host is not None:
            live.state = s = s.but(host=host)
        lost = down or s.sends - s.heard >= recovery.UNDO_TRIES
        if s.direction == UNDO:
            if lost and step.parks:
                return self._park(live, step)
            return self._send(live)
        if not recovery.past_return(live.saga, live.index):
            late = s.deadline is not None and now > s.deadline
            if down or late:
                what = "does not answer" if down else "did not finish in time"
                self._not_answered(live, step, f"The host {what}.", down=down)
                return True
        elif step.parks and lost:
            return self._park(live, step)
        return self._send(live)

    def _not_answered(self, live: Live, step: Ask, message: str, *, down: bool) -> None:
        """What the order did is unknown: a failure that another host may do better."""
        s = live.state
        host = s.host or self._office.asked(live.key) or ""
        a = Answer(
            host=host,
            operation=live.id,
            step=s.step,
            direction=Direction.DO,
            seq=s.seq,
            state=AnswerState.FAILED,
            message=message,
            details=f"{host}: down" if down else f"{host}: no answer in {step.deadline_s:g} s",
            elsewhere=True,
        )
        self._refused(live, step, a, timeout=not down)

    # -- orders and answers

    def _send(self, live: Live, *, journaled: bool = False) -> bool:
        """Send the current Ask's order. ``journaled``: the row says already that we wait for its answer.

        The order is made anew each time and never journaled: it may hold secrets.
        """
        step, s, office = live.ask, live.state, self._office
        live.fresh = False
        first = s.waits_for != ANSWER or journaled
        try:
            if first and office.faults is not None:
                office.faults.at(s.step, s.direction, f.BEFORE)
            order = self._order(live, step)
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            self._step_failed(live, exc)
            return True
        if order is None:
            if s.direction == DO:
                self._result(live, lambda: {})
            else:
                self._undone(live, "undone")
            return True
        if s.direction == DO and step.queue is not None:
            out = s.waits_for == ANSWER and not journaled
            if not office.queues.enter(step.queue, order.host, live.key, force=out):
                now = office.now()
                self.move(
                    live,
                    s.but(
                        state=WAITING,
                        waits_for=QUEUE,
                        deadline=None,
                        wake_at=now + 30,
                        host=order.host,
                    ),
                )
                return False
        if not journaled:
            self._journal_wait(live, step, order)
        if not office.holds(live):
            return False  # slept beyond the lease while it was made: somebody else may have gone on
        office.send(live.key, order)
        if (
            first
            and office.faults is not None
            and office.faults.at(s.step, s.direction, f.SENT) == f.TWICE
        ):
            office.send(live.key, order)
        return False

    def _journal_wait(self, live: Live, step: Ask, order: Order) -> None:
        s, now = live.state, self._office.now()
        sends = s.sends + 1 if s.waits_for == ANSWER else 1
        deadline = s.deadline
        if s.direction == DO and deadline is None:
            deadline = now + step.deadline_s
        wait = recovery.resend_delay_s(sends)
        self.move(
            live,
            s.but(
                state=WAITING,
                waits_for=ANSWER,
                sends=sends,
                deadline=deadline,
                wake_at=now + wait,
                host=order.host,
            ),
        )

    def _order(self, live: Live, step: Ask) -> Order | None:
        s, run = live.state, live.run(self._office.services)
        if s.direction == DO:
            order = step.order(run)
        else:
            order = None if isinstance(step.undo_order, NoUndo) else step.undo_order(run)
        if order is None:
            return None
        return order.replace(
            operation=live.id,
            step=s.step,
            direction=Direction(s.direction),
            fence=live.fence,
            seq=s.seq,
            answer_to=self._office.address(live.database),
        )

    def _answered(self, live: Live, a: Answer) -> None:
        s, step, faults = live.state, live.ask, self._office.faults
        try:
            if faults is not None and faults.at(s.step, s.direction, f.AFTER) == f.LOST:
                return
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            self._step_failed(live, exc)
            return
        if a.state != AnswerState.DONE:
            self._refused(live, step, a)
        elif s.direction == UNDO:
            self._undone(live, "undone")
        else:
            run = live.run(self._office.services)
            self._result(live, lambda: step.receive(run, a))

    def _refused(self, live: Live, step: Ask, a: Answer, *, timeout: bool = False) -> None:
        """The host could not, would not, or (``timeout``) did not say."""
        if live.state.direction == UNDO:
            if live.state.tries + 1 >= recovery.UNDO_TRIES and step.parks:
                self._park(live, step)
            else:
                self._undo_failed(live, StepFailed(a.message or "The host refused."), renew=True)
            return
        kind = recovery.Deadline if timeout else StepFailed
        error: Exception = kind(
            a.message or "The host could not do it.",
            host=a.host,
            state=str(a.state),
            details=a.details,
        )
        if step.failed is not None:
            try:
                step.failed(live.run(self._office.services), a)
            except Exception as exc:  # noqa: BLE001 - the saga step loop
                error = exc
        self._step_failed(live, error, renew=True)

    def _park(self, live: Live, step: Ask) -> bool:
        """Leave an order to its host's cleanup records, in the transaction that goes on without the answer.

        Of an undo, or of a do past the point of no return: a host that is down holds nothing up.
        """
        undo = live.state.direction == UNDO
        try:
            order = self._order(live, step)
            run = live.run(self._office.services)
            if order is not None and step.park_outside is not None:
                step.park_outside(run, order)
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            self._step_failed(live, exc)
            return True
        log.warning(
            "an order waits in the cleanup records",
            extra={"step": live.state.step, "host": live.state.host},
        )

        def hook(tx: Tx) -> None:
            if order is not None and step.park is not None:
                step.park(tx, run, order)

        if undo:
            self._undone(live, "parked", hook)
            return True
        try:
            self._journal_result(live, {"parked": True}, "parked", hook)
        except RecordFailed as exc:
            self._step_failed(live, exc.cause)
        return True

    # -- forward

    def _do(self, live: Live) -> None:
        step, faults, s = live.brief, self._office.faults, live.state
        run = live.run(self._office.services)
        if faults is None:
            self._result(live, lambda: step.do(run))
            return

        def do() -> Any:
            twice = faults.at(s.step, DO, f.BEFORE) == f.TWICE
            out = step.do(run)
            if twice:
                out = step.do(run)
            if faults.at(s.step, DO, f.AFTER) == f.LOST:
                raise _lost()
            return out

        self._result(live, do)

    # -- back

    def _undo(self, live: Live) -> None:
        step, faults = live.current, self._office.faults
        if isinstance(step, Ask):
            self._send(live)
            return
        run = live.run(self._office.services)
        try:
            twice = faults is not None and faults.at(step.name, UNDO, f.BEFORE) == f.TWICE
            if not isinstance(step.undo, NoUndo):
                step.undo(run)
                if twice:
                    step.undo(run)
            if faults is not None and faults.at(step.name, UNDO, f.AFTER) == f.LOST:
                raise _lost()
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            self._undo_failed(live, exc)
            return
        self._undone(live, "undone")

    def _last_act(self, live: Live) -> None:
        saga, faults, run = live.saga, self._office.faults, live.run(self._office.services)
        record = saga.unwound_record
        try:
            if faults is not None:
                faults.at(f.UNWOUND, UNDO, f.BEFORE)
            if saga.unwound is not None:
                saga.unwound(run)
            if faults is not None:
                faults.at(f.UNWOUND, UNDO, f.AFTER)
        except Exception as exc:  # noqa: BLE001 - the saga step loop
            self._undo_failed(live, exc)
            return
        now = self._office.now()
        hook = None if record is None else lambda tx: record(tx, run)
        try:
            self.commit(live, lambda: recovery.unwound(live.state, now), "done", None, hook)
        except RecordFailed as exc:
            self._undo_failed(live, exc.cause)


def _lost() -> KilonovaError:
    return Unavailable("An injected time-out: the reply was lost.")
