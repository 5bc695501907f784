"""The planner alone: every walk through a saga ends, and the right steps are undone in the right order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.objects.base import Versioned
from kilonova.saga import recovery
from kilonova.saga.definition import Ask, NoUndo, Retreat, Saga, Step, StepFailed
from kilonova.saga.queues import HostQueues, Ready
from kilonova.saga.state import ANSWER, CANCELLED, DO, DONE, FAILED, READY, UNDO, WAITING, State

NOTHING = NoUndo("nothing")


class NoParams(Versioned, frozen=True, kw_only=True):
    pass


def saga_of(kinds: str, no_return: int | None) -> Saga:
    """Return a saga: per letter a step: p plain, n without undo, r rows only, a asks a host."""
    steps: list[Step | Ask] = []
    for i, k in enumerate(kinds):
        last = i == no_return
        if k == "a":
            ask = Ask(f"s{i}", lambda r: None, lambda r, a: None, lambda r: None, 9.0)
            steps.append(ask)
            continue
        undo = NOTHING if k in "nr" else (lambda run: None)
        rows = {"record": lambda t, r, o: None, "unrecord": lambda t, r: None} if k == "r" else {}
        steps.append(
            Step(f"s{i}", lambda r: None, undo, 9.0, point_of_no_return=last, **rows)  # type: ignore[arg-type]
        )
    return Saga(kind="walk", version=1, params=NoParams, steps=tuple(steps))


events = st.sampled_from(["ok", "ok", "ok", "ok", "fail", "retreat", "cancel", "again"])


@settings(max_examples=400, deadline=None)
@given(
    kinds=st.text(alphabet="pnra", min_size=1, max_size=7),
    no_return=st.none() | st.integers(0, 6),
    walk=st.lists(events, max_size=60),
    to=st.integers(0, 6),
)
def test_every_walk_ends_and_undoes_what_was_done(
    kinds: str, no_return: int | None, walk: list[str], to: int
) -> None:
    """R1 of the planner: a model keeps what each step left; at the end nothing is left, or everything."""
    saga = saga_of(kinds, no_return)
    state = State(state=READY, direction=DO, step="s0", seq=1, outputs={})
    left: list[str] = []  # effects, in their order
    cancelled, passed, now = False, False, 0.0
    for event in [*walk, *["ok"] * 60]:
        now += 1.0
        seq = state.seq
        if state.ended_at is not None:
            break
        cancelled = cancelled or event == "cancel"
        if state.direction == UNDO and not state.step:
            state = recovery.unwound(state, now)
            continue
        index = saga.positions[state.step]
        step = saga.steps[index]
        if event == "again":
            state = recovery.again(state, now, 1.0, "x", counts=True)
            assert (state.step, state.seq) == (step.name, seq)
            continue
        if state.direction == DO:
            assert [s.name for s in saga.steps[:index]] == [x for x in left if x != step.name]
            if step.name not in left:
                left.append(step.name)
            if event in ("fail", "retreat") and not recovery.past_return(saga, index):
                error = Retreat("x", to=f"s{to}", note={"n": 1})
                back = recovery.retreat(saga, state, error, now) if event == "retreat" else None
                if back is None:
                    back = recovery.unwind(saga, state, StepFailed("x"), now)
                state = back
            else:
                passed = passed or step.point_of_no_return
                state = recovery.after_result(
                    saga, state, {}, params=None, cancelled=cancelled, ends_by=None, now=now
                )
        else:
            assert not passed, "nothing is undone after the point of no return"
            left = left[: left.index(step.name)]
            state = recovery.undone(saga, state, cancelled=cancelled, now=now)
        if state.direction == DO and state.ended_at is None and state.attempt > 1:
            left = [x for x in left if saga.positions[x] < saga.positions[state.step]]
        assert state.ended_at is not None or state.seq == seq + 1
        if state.ended_at is None and state.step:
            asks = isinstance(saga.steps[saga.positions[state.step]], Ask)
            assert (state.state == WAITING, state.waits_for == ANSWER) == (asks, asks)
    assert state.ended_at is not None, "the walk did not end"
    if state.state == DONE:
        assert left == [s.name for s in saga.steps]
    else:
        assert state.state in (FAILED, CANCELLED)
        undoable = {s.name for s in saga.steps if recovery.needs_undo(state, s)}
        # What is left over was never recorded (rows only) or has nothing to undo.
        assert not [
            x for x in left if x in undoable and x in state.outputs and kinds[int(x[1:])] in "pa"
        ]


def test_delays_grow_to_half_a_minute() -> None:
    assert [recovery.resend_delay_s(n) for n in range(1, 7)] == [2, 4, 8, 16, 30, 30]
    assert recovery.back_off_s(1) == 0.5
    assert recovery.back_off_s(1000) == 30.0


def test_host_queue_serves_in_order_and_frees_places() -> None:
    q = HostQueues({"build": 2})
    keys = [("global", f"op{n}") for n in range(5)]
    assert [q.enter("build", "h1", k) for k in keys] == [True, True, False, False, False]
    assert q.enter("build", "h2", ("global", "other"))
    assert q.enter("build", "h1", keys[0]), "it has its place"
    assert q.leave(keys[0]) == [keys[2]]
    assert q.placed(keys[2]) and not q.placed(keys[3])
    assert q.leave(keys[3]) == [], "it only stood in line"
    assert q.enter("build", "h1", ("global", "late"), force=True), "its order is out already"
    assert q.leave(keys[1]) == [], "one more than the limit were inside"
    assert q.leave(keys[2]) == [keys[4]]
    assert q.depth() == {"build": 0}


def test_host_queue_follows_an_operation_to_another_host() -> None:
    q = HostQueues({"build": 1})
    a, b = ("g", "a"), ("g", "b")
    assert q.enter("build", "h1", a) and not q.enter("build", "h1", b)
    assert q.enter("build", "h2", a)
    assert q.placed(b)


def test_what_has_begun_goes_first() -> None:
    r = Ready()
    r.put(("g", "new"))
    r.put(("g", "answer"), urgent=True)
    assert [r.get(), r.get()] == [("g", "answer"), ("g", "new")]
