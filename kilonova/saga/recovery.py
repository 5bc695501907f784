"""Where an operation goes next: pure functions from (definition, state, what happened) to the next State.

Nothing here reads a clock, a database or a bus; the runner does what these functions decide, and a process that
takes an operation over decides by the same ones.
"""

from typing import Any

from kilonova.common.errors import KilonovaError
from kilonova.saga.definition import Ask, NoUndo, Retreat, Saga, Step, StepFailed
from kilonova.saga.state import (
    ANSWER,
    CANCELLED,
    DO,
    DONE,
    FAILED,
    NOT_YET,
    RETRY,
    RUNNING,
    UNDO,
    WAITING,
    State,
)

LOST_AFTER_S = 60.0
"""A running operation whose owner does not touch it so long is looked at again (and left, if it still runs)."""
BACK_OFF_MAX_S = 30.0
UNDO_TRIES = 3
"""So many failed or unanswered tries of a host's undo, then it becomes a cleanup record."""


class Deadline(StepFailed):
    """A step or an operation did not end in its time; what it did is unknown, so it is undone too."""

    code = "deadline"


class Cancelled(KilonovaError):
    """Somebody asked the operation to end."""

    code = "cancelled"


def resend_delay_s(sends: int) -> float:
    """Return how long to wait for an answer after sending for the n-th time: 2, 4, 8, 16, 30, 30 … seconds."""
    return min(2.0 * float(2 ** min(sends - 1, 5)), BACK_OFF_MAX_S)


def back_off_s(tries: int, first_s: float = 0.5, factor: float = 2.0) -> float:
    """Return the pause after the n-th failure, at most 30 s."""
    return min(first_s * factor ** min(tries - 1, 16), BACK_OFF_MAX_S)


def past_return(saga: Saga, index: int) -> bool:
    """Tell whether a step before ``index`` was the point of no return."""
    return saga.forward_only or any(s.point_of_no_return for s in saga.steps[:index])


def recorded(state: State, step: Step | Ask) -> bool:
    """Tell whether the result of ``step`` was journaled in this attempt."""
    return step.name in state.outputs


def takes_back_record(state: State, step: Step | Ask) -> bool:
    """Tell whether ``unrecord`` has something to take back: a step whose result was never recorded left nothing."""
    return step.unrecord is not None and (step.record is None or recorded(state, step))


def needs_undo(state: State, step: Step | Ask) -> bool:
    """Tell whether undoing ``step`` does anything at all."""
    undo = step.undo if isinstance(step, Step) else step.undo_order
    return not isinstance(undo, NoUndo) or takes_back_record(state, step)


def _enter(saga: Saga, state: State, index: int, direction: str, now: float, **more: Any) -> State:
    """Intend to do or undo a step (index -1: the last act of an unwind)."""
    step = saga.steps[index] if index >= 0 else None
    waits = isinstance(step, Ask)
    return state.but(
        state=WAITING if waits else RUNNING,
        direction=direction,
        step=step.name if step else "",
        seq=state.seq + 1,
        tries=0,
        sends=1 if waits else 0,
        heard=0,
        wake_at=now + (resend_delay_s(1) if waits else LOST_AFTER_S),
        started_at=now,
        deadline=now + step.deadline_s if step and direction == DO else None,
        waits_for=ANSWER if waits else None,
        host=None,
        last_error=None,
        **more,
    )


def after_result(
    saga: Saga,
    state: State,
    output: dict[str, Any],
    *,
    params: Any,
    cancelled: bool,
    ends_by: float | None,
    now: float,
) -> State:
    """A step is done: go on with the next one, or unwind if somebody or the clock says so, or end."""
    state = state.but(outputs={**state.outputs, state.step: output})
    index = _following(saga, state, params)
    if index == len(saga.steps):
        return state.but(
            state=DONE,
            step="",
            wake_at=None,
            deadline=None,
            waits_for=None,
            host=None,
            last_error=None,
            ended_at=now,
        )
    stop = must_stop(saga, index, cancelled=cancelled, ends_by=ends_by, now=now)
    if stop is not None:
        return unwind(saga, state, stop, now)
    return _enter(saga, state, index, DO, now)


def _following(saga: Saga, state: State, params: Any) -> int:
    """Return the place of the step after the current one, those left out that say so."""
    index = saga.positions[state.step] + 1
    while index < len(saga.steps):
        skip = saga.steps[index].skip
        if skip is None or not skip(params, state.outputs):
            break
        index += 1
    return index


def must_stop(
    saga: Saga, index: int, *, cancelled: bool, ends_by: float | None, now: float
) -> KilonovaError | None:
    """Return why an operation that is about to do (or still does) step ``index`` has to unwind instead, or None."""
    if past_return(saga, index):
        return None
    if cancelled and saga.cancellable:
        return Cancelled("The operation was cancelled.")
    if ends_by is not None and now > ends_by:
        return Deadline("The operation did not end in its time.")
    return None


def unwind(
    saga: Saga, state: State, error: KilonovaError, now: float, details: str | None = None
) -> State:
    """Begin to unwind all, the current step first (it may have worked before it failed)."""
    return _down(saga, _because(state, error, details).but(retreat_to=None), now)


def _because(state: State, error: KilonovaError, details: str | None) -> State:
    if details is None and error.facts:
        details = ", ".join(f"{k}={v}" for k, v in error.facts.items())
    return state.but(error_code=error.code, error_message=error.message, error_details=details)


def retreat(saga: Saga, state: State, error: Retreat, now: float) -> State | None:
    """Go back to and including ``error.to``; None when that is not allowed: then it is an ordinary failure."""
    index = saga.positions[state.step]
    to = saga.positions.get(error.to, len(saga.steps))
    if to > index or past_return(saga, index) or state.attempt >= error.limit:
        return None
    notes = [*state.outputs.get("retreats", []), error.note]
    state = _because(state, error, None).but(
        retreat_to=error.to, outputs={**state.outputs, "retreats": notes}
    )
    return _down(saga, state, now)


def undone(saga: Saga, state: State, *, cancelled: bool, now: float) -> State:
    """The undo of the current step is done (or parked): on to the one before, or forward again after a retreat."""
    index = saga.positions[state.step]
    if state.retreat_to is not None and cancelled and saga.cancellable:
        state = _because(state, Cancelled("The operation was cancelled."), None).but(
            retreat_to=None
        )
    return _down(saga, state, now, index - 1)


def _down(saga: Saga, state: State, now: float, index: int | None = None) -> State:
    """Intend the next undo at or below ``index`` (the current step if None) that does anything."""
    here = saga.positions[state.step]
    i = here if index is None else index
    stop = saga.positions[state.retreat_to] if state.retreat_to is not None else 0
    while i >= stop:
        step = saga.steps[i]
        left_out = step.skip is not None and i < here and not recorded(state, step)
        if not left_out and needs_undo(state, step):
            return _enter(saga, state, i, UNDO, now)
        i -= 1
    if state.retreat_to is None:
        return _enter(saga, state, -1, UNDO, now)
    kept = {s.name for s in saga.steps[:stop]} | {"retreats"}
    return _enter(
        saga,
        state,
        stop,
        DO,
        now,
        attempt=state.attempt + 1,
        retreat_to=None,
        error_code=None,
        error_message=None,
        error_details=None,
        outputs={k: v for k, v in state.outputs.items() if k in kept},
    )


def unwound(state: State, now: float) -> State:
    """The last act of the unwind is done: the operation has ended."""
    return state.but(
        state=CANCELLED if state.error_code == Cancelled.code else FAILED,
        wake_at=None,
        deadline=None,
        waits_for=None,
        host=None,
        last_error=None,
        ended_at=now,
    )


def again(state: State, now: float, delay_s: float, error: str | None, *, counts: bool) -> State:
    """Call the same step later; ``counts``: it failed (else it is only not ready yet)."""
    return state.but(
        state=WAITING,
        waits_for=RETRY if counts else NOT_YET,
        tries=state.tries + 1 if counts else state.tries,
        wake_at=now + delay_s,
        last_error=error,
    )
