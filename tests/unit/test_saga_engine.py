"""What the engine does with one operation: waits, retries, retreats, cancels, parks, ends."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.common.clock import ManualClock
from kilonova.common.errors import BadRequest, GenerationMismatch, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.objects.base import encode
from kilonova.objects.order import Answer, AnswerState, Direction
from kilonova.saga import history, journal
from kilonova.saga.definition import (
    _KINDS,
    Ask,
    NotYet,
    NoUndo,
    Output,
    Retreat,
    Retry,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)
from kilonova.saga.engine import Engine
from kilonova.saga.schema import TABLES
from kilonova.saga.transition import StepEvent
from tests.operations import sample
from tests.operations.sample import SampleParams, SampleWorld

NOTHING = NoUndo("leaves nothing")


class Script:
    """Steps that note their calls and do what they are told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.raises: dict[str, list[BaseException]] = {}

    def call(self, name: str) -> None:
        self.calls.append(name)
        if self.raises.get(name):
            raise self.raises[name].pop(0)

    def step(self, name: str, **kw: Any) -> Step:
        def do(run: Run) -> Output:
            self.call(name)
            return {"attempt": run.attempt}

        def undo(run: Run) -> None:
            self.call(f"-{name}")

        return Step(name, do, undo, 10.0, **kw)


class Case:
    """A world whose saga is made for one test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.script = Script()
        self.worlds: list[SampleWorld] = []
        self.keys: list[tuple[str, int]] = []

    def saga(self, *steps: Step | Ask, **kw: Any) -> Saga:
        saga = register(
            Saga(kind=f"test-{new_uuid()}", version=1, params=SampleParams, steps=steps, **kw)
        )
        self.keys.append((saga.kind, 1))
        return saga

    def world(self, saga: Saga, **kw: Any) -> SampleWorld:
        path = self.path / f"w{len(self.worlds)}"
        path.mkdir()
        self.worlds.append(SampleWorld(path, saga, **kw))
        return self.worlds[-1]

    def end(self) -> None:
        for w in self.worlds:
            w.close()
        for k in self.keys:
            del _KINDS[k]


@pytest.fixture
def case(tmp_path: Path) -> Any:
    c = Case(tmp_path)
    yield c
    c.end()


def finish(world: SampleWorld, engine: Engine | None = None, op: str | None = None) -> str:
    engine = engine or opened(world)
    op = op or world.begin()[1]
    engine.run_until_idle()
    return engine.wait("global", op, 0.0)


def opened(world: SampleWorld, **kw: Any) -> Engine:
    engine = world.engine(**kw)
    engine.open()
    return engine


def row_of(world: SampleWorld, op: str) -> Any:
    return world.home.read(lambda tx: journal.get(tx, op))


def test_commits_are_one_per_step(case: Case) -> None:
    """n + 1 commits for n steps: the accept carries the first intent."""
    s = case.script
    w = case.world(case.saga(*(s.step(f"s{n}") for n in range(5))))
    engine = opened(w)
    before = w.home.commits
    assert finish(w, engine) == "done"
    assert w.home.commits - before == 6


def test_failing_step_is_undone_too_in_reverse(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b"), s.step("c")))
    s.raises["b"] = [StepFailed("It broke.")]
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "failed"
    assert s.calls == ["a", "b", "-b", "-a"]
    row = row_of(w, op)
    assert (row["error_code"], row["error_message"]) == ("step_failed", "It broke.")


def test_bug_is_retried_then_hidden_from_the_tenant(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [ValueError("password=hunter2") for _ in range(4)]
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "failed"
    assert s.calls == ["a"] * 4 + ["-a"]
    row = row_of(w, op)
    assert row["error_message"] == "An unexpected error happened."
    assert "hunter2" in row["error_details"]


def test_retryable_errors_back_off_and_succeed(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a", retry=Retry(times=2, first_s=4.0))))
    s.raises["a"] = [Unavailable("Not now."), Unavailable("Not now.")]
    start = w.clock.now()
    assert finish(w) == "done"
    assert 12.0 <= w.clock.now() - start < 13.0  # 4 + 8


def test_deadline_ends_a_step_that_is_never_ready(case: Case) -> None:
    """R4"""
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [NotYet("The port is not there.", after_s=1.0) for _ in range(100)]
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "failed"
    assert row_of(w, op)["error_code"] == "deadline"
    assert 10 <= s.calls.count("a") <= 12


def test_not_yet_is_no_failure_and_a_nudge_wakes_it(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [NotYet("Wait.", after_s=9.0)]
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["waits_for"] == "not_yet"
    engine.nudge("global", op)
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["state"] == "done"


def test_operation_deadline_unwinds_at_the_next_boundary(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b")))
    s.raises["a"] = [NotYet("Wait.", after_s=6.0)]
    engine, (_, op) = opened(w), w.begin(deadline_s=5.0)
    assert finish(w, engine, op) == "failed"
    assert row_of(w, op)["error_code"] == "deadline"
    assert s.calls == ["a", "-a"]


def test_retreat_goes_back_and_forward_again(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b"), s.step("c")))
    s.raises["c"] = [Retreat("No.", to="b", note={"host": n}) for n in ("h1", "h2")]
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "done"
    assert s.calls == ["a", "b", "c", "-c", "-b", "b", "c", "-c", "-b", "b", "c"]
    row = row_of(w, op)
    assert row["attempt"] == 3
    assert row["error_code"] is None
    assert b'"retreats":[{"host":"h1"},{"host":"h2"}]' in row["outputs"]


def test_retreats_end(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b")))
    s.raises["b"] = [Retreat("No.", to="a", note={}) for _ in range(9)]
    assert finish(w) == "failed"
    assert s.calls.count("b") == 3


def test_cancel_during_a_retreat_unwinds_all(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b"), s.step("c")))
    s.raises["c"] = [Retreat("No.", to="b", note={})]
    s.raises["-c"] = [Unavailable("Wait.")]
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    w.home.write(lambda tx: journal.request_cancel(tx, op, now=engine.now()))
    assert finish(w, engine, op) == "cancelled"
    assert s.calls == ["a", "b", "c", "-c", "-c", "-b", "-a"]


def test_undo_is_retried_until_it_works(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [StepFailed("No.")]
    s.raises["-a"] = [ValueError("bug") for _ in range(12)]
    assert finish(w) == "failed"
    assert s.calls.count("-a") == 13
    assert w.events.count((w.saga.kind, "a", "undo_failed")) == 12


def test_after_the_point_of_no_return_only_forward(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a", point_of_no_return=True), s.step("b")))
    s.raises["b"] = [StepFailed("No.") for _ in range(9)]
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    w.home.write(lambda tx: journal.request_cancel(tx, op, now=engine.now()))
    assert finish(w, engine, op) == "done"
    assert "-a" not in s.calls


def test_forward_only_is_never_unwound(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), forward_only=True))
    s.raises["a"] = [StepFailed("No.") for _ in range(9)]
    assert finish(w) == "done"


def test_cancel_before_it_began(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    engine, (_, op) = opened(w), w.begin()
    assert w.home.write(lambda tx: journal.request_cancel(tx, op)) is True
    assert finish(w, engine, op) == "cancelled"
    assert "a" not in s.calls
    assert w.home.write(lambda tx: journal.request_cancel(tx, op)) is False


def test_cancel_in_the_middle_of_a_step_is_seen_at_its_boundary(case: Case) -> None:
    s = case.script
    holder: dict[str, Any] = {}

    def cancelling(run: Run) -> Output:
        holder["w"].home.write(lambda tx: journal.request_cancel(tx, run.operation))
        return {"x": 1}

    def record(tx: Tx, run: Run, output: Output) -> None:
        holder["records"] = holder.get("records", 0) + 1

    w = case.world(case.saga(s.step("a"), Step("b", cancelling, NOTHING, 5.0, record), s.step("c")))
    holder["w"] = w
    assert finish(w) == "cancelled"
    assert s.calls == ["a", "-a"]
    assert holder["records"] == 1


def test_an_operation_that_may_not_be_cancelled_goes_on(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b"), cancellable=False))
    engine, (_, op) = opened(w), w.begin()
    w.home.write(lambda tx: journal.request_cancel(tx, op))
    assert finish(w, engine, op) == "done"


def test_record_that_lost_a_race_runs_do_again(case: Case) -> None:
    s = case.script
    races = [GenerationMismatch("Changed.") for _ in range(3)]

    def record(tx: Tx, run: Run, output: Output) -> None:
        tx.run(sample.NEW_CLAIM, thing=run.resource)
        if races:
            raise races.pop()

    w = case.world(case.saga(s.step("a", record=record)))
    assert finish(w) == "done"
    assert s.calls == ["a"] * 4
    assert w.ledger()["claims"] == 1


def test_record_that_fails_unwinds_and_is_not_taken_back(case: Case) -> None:
    s = case.script
    taken: list[str] = []

    def record(tx: Tx, run: Run, output: Output) -> None:
        tx.run(sample.NEW_CLAIM, thing=run.resource)
        raise StepFailed("The record refuses.")

    w = case.world(
        case.saga(s.step("a", record=record, unrecord=lambda tx, run: taken.append(run.step)))
    )
    assert finish(w) == "failed"
    assert w.ledger()["claims"] == 0
    assert taken == []


def test_last_act_is_retried(case: Case) -> None:
    s = case.script

    def unwound(run: Run) -> None:
        assert run.error == "No."
        s.call("unwound")

    w = case.world(case.saga(s.step("a"), unwound=unwound, unwound_record=sample.record_unwound))
    s.raises["a"] = [StepFailed("No.")]
    s.raises["unwound"] = [Unavailable("Later."), ValueError("bug")]
    assert finish(w) == "failed"
    assert s.calls.count("unwound") == 3
    assert w.ledger()["things"] == ["ERROR"]


# -- hosts


def asking(**kw: Any) -> Ask:
    kw.setdefault("park", sample.leave_behind)
    return Ask(
        "build", sample.build, sample.built, sample.unbuild, kw.pop("deadline_s", 60.0), **kw
    )


def test_silent_host_is_asked_again_then_given_up_and_its_undo_parked(case: Case) -> None:
    """R4: with an agent that never answers, the operation still ends, and what is unknown is in the cleanup records."""
    w = case.world(case.saga(asking()))
    w.agent.silent = True
    start = w.clock.now()
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "failed"
    row = row_of(w, op)
    assert row["error_code"] == "deadline"
    assert w.ledger()["cleanups"] == 1
    assert 60 < w.clock.now() - start < 120
    states = [r["state"] for r in w.home.read(lambda tx: journal.steps_of(tx, op))]
    assert states == ["failed", "parked", "done"]


def test_host_that_is_down_is_not_waited_for(case: Case) -> None:
    w = case.world(case.saga(asking(deadline_s=1800.0)))
    w.agent.silent = True
    w.services.down.add("h1")
    engine = opened(w)
    w.clock.advance(16)
    start = w.clock.now()
    assert finish(w, engine) == "failed"
    assert w.clock.now() - start < 10
    assert w.ledger()["cleanups"] == 1


def test_failed_hook_may_retreat_to_another_host(case: Case) -> None:
    def failed(run: Run, answer: Answer) -> None:
        raise Retreat("Another host.", to="choose", note={"host": answer.host})

    def choose(run: Run) -> Output:
        avoid = [n["host"] for n in run.outputs.get("retreats", [])]  # type: ignore[union-attr]
        return {"host": "h2" if "h1" in avoid else "h1"}

    def order(run: Run) -> Any:
        return sample.build(run).replace(host=run.outputs["choose"]["host"])

    def undo(run: Run) -> Any:
        return sample.unbuild(run).replace(host=run.outputs["choose"]["host"])

    w = case.world(
        case.saga(
            Step("choose", choose, NOTHING, 5.0),
            Ask("build", order, sample.built, undo, 60.0, failed=failed),
        )
    )
    w.agent.fails = [("build", "do")]
    assert finish(w) == "done"
    assert (len(w.agent.guests), len(w.agent2.guests)) == (0, 1)


def test_undo_that_the_host_refuses_is_a_new_order_each_time(case: Case) -> None:
    w = case.world(case.saga(asking(park=None)))
    w.agent.fails = [("build", "do"), *[("build", "undo")] * 5]
    assert finish(w) == "failed"
    assert w.agent.guests == []
    assert w.agent.performed == 1


def test_order_of_nothing_is_a_step_done(case: Case) -> None:
    w = case.world(case.saga(Ask("build", lambda run: None, sample.built, NOTHING, 5.0)))
    assert finish(w) == "done"
    assert w.agent.performed == 0


def test_order_that_is_not_ready_waits(case: Case) -> None:
    s = case.script

    def order(run: Run) -> Any:
        s.call("order")
        return sample.build(run)

    s.raises["order"] = [NotYet("Somebody else works on it.", after_s=1.0) for _ in range(3)]
    w = case.world(case.saga(Ask("build", order, sample.built, sample.unbuild, 60.0)))
    assert finish(w) == "done"
    assert s.calls == ["order"] * 4


def test_cancel_wakes_a_waiting_ask_and_undoes_it_at_the_host(case: Case) -> None:
    w = case.world(case.saga(asking()))
    w.agent.silent = True
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["waits_for"] == "answer"
    w.agent.silent = False
    w.home.write(lambda tx: journal.request_cancel(tx, op, now=engine.now(), nudge=engine.nudge))
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["state"] == "cancelled"
    assert w.agent.performed == 1  # the undo


def test_only_the_current_order_of_the_right_host_is_answered(case: Case) -> None:
    w = case.world(case.saga(asking()))
    w.agent.silent = True
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    good = Answer(
        host="h1", operation=op, step="build", direction=Direction.DO, seq=1, state=AnswerState.DONE
    )
    bad = [
        good.replace(host="h2"),
        good.replace(seq=7),
        good.replace(step="other"),
        good.replace(direction=Direction.UNDO),
    ]
    for a in bad:
        w.bus.publish(f"answer.{a.host}.global", encode(a))
    w.bus.publish("answer.h2.global", encode(good))  # on another host's subject
    w.bus.publish("answer.h1.global", b"not an answer")
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["state"] == "waiting"
    running = good.replace(state=AnswerState.RUNNING, progress="50 %")
    w.bus.publish("answer.h1.global", encode(running))
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["progress"] == "50 %"
    w.bus.publish("answer.h1.global", encode(good))
    engine.run_until_idle(advance=False)
    assert row_of(w, op)["state"] == "done"


def test_host_that_says_running_is_not_parked(case: Case) -> None:
    w = case.world(case.saga(asking(), forward_only=True))
    w.agent.silent = True
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    for _ in range(6):
        a = Answer(
            host="h1",
            operation=op,
            step="build",
            direction=Direction.DO,
            seq=1,
            state=AnswerState.RUNNING,
        )
        w.bus.publish("answer.h1.global", encode(a))
        engine.run_until_idle(advance=False)
        w.clock.advance(31)
        engine.run_until_idle(advance=False)
    assert row_of(w, op)["state"] == "waiting"
    engine.run_until_idle()
    assert row_of(w, op)["state"] == "done"
    assert w.ledger()["cleanups"] == 1


def test_per_host_queue_lets_ten_build_at_a_time(case: Case) -> None:
    w = case.world(case.saga(asking(queue="build")))
    w.agent.silent = True
    engine = opened(w)
    ops = [w.begin()[1] for _ in range(25)]
    other = w.begin("h2")[1]
    engine.run_until_idle(advance=False)
    waits = [row_of(w, op)["waits_for"] for op in ops]
    assert (waits.count("answer"), waits.count("queue")) == (10, 15)
    assert row_of(w, other)["state"] == "done"
    assert engine.depth()["queued"] == 15
    w.agent.silent = False
    engine.run_until_idle()
    assert {row_of(w, op)["state"] for op in ops} == {"done"}
    assert len(w.agent.guests) == 25


def test_hosts_hear_that_an_operation_ended(case: Case) -> None:
    w = case.world(case.saga(asking()))
    heard: list[bytes] = []
    w.bus.subscribe("agent.*.state", lambda s, b: heard.append(s.encode() + b))
    engine, op = opened(w), w.begin()[1]
    assert finish(w, engine, op) == "done"
    assert len(heard) == 1
    assert heard[0].startswith(b"agent.h1.state") and op.encode() in heard[0]


def test_host_is_not_thought_down_before_this_process_asked_it(case: Case) -> None:
    """R3: right after a restart no host was heard of yet; what they build goes on."""
    w = case.world(case.saga(asking()))
    w.agent.silent = True
    first, (_, op) = opened(w), w.begin()
    first.run_until_idle(advance=False)
    w.clock.advance(3)
    first.run_until_idle(advance=False)
    assert row_of(w, op)["host"] == "h1"
    first.abandon()
    w.services.down.add("h1")
    second = opened(w)
    for _ in range(3):
        second.run_until_idle(advance=False)
        w.clock.advance(4)
    assert row_of(w, op)["direction"] == "do"
    w.services.down.clear()
    w.agent.silent = False
    assert finish(w, second, op) == "done"


# -- ownership


def test_stop_leaves_the_rest_to_the_next_start(case: Case) -> None:
    """R5: a stop waits for the step that runs, not for the operation."""
    s = case.script
    engines: list[Engine] = []

    def stopping(run: Run) -> None:
        engines[0].stop()

    w = case.world(case.saga(s.step("a"), Step("b", stopping, NOTHING, 5.0), s.step("c")))
    engines.append(opened(w))
    _, op = w.begin()
    engines[0].run_until_idle(advance=False)
    assert (s.calls, row_of(w, op)["step"]) == (["a"], "c")
    assert finish(w, opened(w), op) == "done"


def test_zombie_cannot_write_after_a_take_over(case: Case) -> None:
    """R8: an engine that slept while another took its operations over writes nothing any more, here or elsewhere."""
    s = case.script
    second: list[Engine] = []

    def slow(run: Run) -> Output:
        if not second:
            second.append(opened(w))
            second[0].run_until_idle()
        return {}

    w = case.world(
        case.saga(s.step("a"), Step("b", slow, NOTHING, 10.0, sample.record_claim), s.step("c"))
    )
    first, (_, op) = opened(w), w.begin()
    first.run_until_idle()
    assert row_of(w, op)["state"] == "done"
    assert s.calls == ["a", "c"]
    assert w.ledger()["claims"] == 1


def test_fence_of_a_foreign_database_only_grows(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    op = new_uuid()

    def fence(f: int, seq: int) -> None:
        w.cell.write(lambda tx: journal.fence_foreign(tx, op, f, seq))

    fence(1, 1)
    fence(1, 1)
    fence(1, 2)
    fence(2, 1)
    for old in ((1, 9), (1, 2), (2, 0)):
        with pytest.raises(journal.Fenced):
            fence(*old)


def test_new_incarnation_has_a_higher_fence_and_another_name(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    engines = [opened(w) for _ in range(3)]
    rows = w.home.read(lambda tx: tx.select(sa.select(TABLES.incarnation)))
    assert [r["fence"] for r in rows] == [1, 2, 3]
    assert len({e.ownership.name_in("global") for e in engines}) == 3
    assert [r["ended_at"] is None for r in rows] == [False, False, True]


def test_unknown_definition_is_left_alone(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    engine, (_, op) = opened(w), w.begin()
    w.home.write(lambda tx: tx.change(sa.update(TABLES.operation).values(version=99)))
    engine.run_until_idle(advance=False)
    row = row_of(w, op)
    assert (row["state"], row["step"], row["seq"]) == ("ready", "mint", 1)
    w.home.write(lambda tx: tx.change(sa.update(TABLES.operation).values(version=1)))
    assert finish(w, engine, op) == "done"


def test_lost_nudge_is_found_by_the_sweep(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    engine = opened(w)
    w.begin()
    assert not engine.step_once()
    assert engine.sweep() == 1
    assert engine.sweep() == 0, "it is with a worker already"
    assert engine.step_once()


def test_running_operation_is_not_run_twice_by_its_own_process(case: Case) -> None:
    """RELIABILITY A2: nudges, sweeps and answers that come while it runs do not run it again."""
    s = case.script
    engines: list[Engine] = []

    def busy(run: Run) -> None:
        s.call("busy")
        for _ in range(3):
            engines[0].nudge("global", run.operation)
            engines[0].sweep()
        assert not engines[0].step_once()

    w = case.world(case.saga(Step("a", busy, NOTHING, 5.0)))
    engines.append(opened(w))
    assert finish(w, engines[0]) == "done"
    assert s.calls == ["busy"]


def test_clock_that_jumps_loses_and_hastens_nothing(case: Case) -> None:
    """R16"""
    for jump in (3600.0, -3600.0):
        w = case.world(case.saga(asking()))
        w.agent.silent = True
        engine, (_, op) = opened(w), w.begin()
        engine.run_until_idle(advance=False)
        w.clock.jump(jump)
        engine.run_until_idle(advance=False)
        row = row_of(w, op)
        assert row["state"] == "waiting"
        assert 55 < row["deadline"] - w.clock.now() <= 60
        assert row["wake_at"] - w.clock.now() <= 2.0
        w.agent.silent = False
        assert finish(w, engine, op) == "done"


def test_dead_database_stops_no_other(case: Case) -> None:
    """R11: an engine starts, and runs what it can, without the database of one cell; it takes it in when it answers."""
    w = case.world(case.saga(case.script.step("a")))
    home, dead = w.home, SqliteDatabase(case.path / "dead.db", "cell9")
    dead.close()
    dbs: dict[str, Any] = {"cell9": dead, "global": home}
    engine = Engine(dbs, w.bus, w.services, clock=w.clock)
    engine.open()
    _, op = w.begin()
    assert finish(w, engine, op) == "done"
    back = SqliteDatabase(case.path / "back.db", "cell9")
    ensure(back, sample.HOME)
    engine.databases = {**engine.databases, "cell9": back}
    engine.run_until_idle()
    rows = back.read(lambda tx: tx.select(sa.select(TABLES.incarnation)))
    assert [r["name"] for r in rows] == [engine.ownership.name_in("global")]
    back.close()


def test_neighbours_of_an_ended_operation_are_nudged(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [NotYet("Another one runs.", after_s=9.0)]
    engine, (_, first) = opened(w), w.begin()
    engine.run_until_idle(advance=False)
    _, second = w.begin()
    w.home.write(
        lambda tx: tx.change(sa.update(TABLES.operation).values(resource="the same thing"))
    )
    engine.run_until_idle(advance=False)
    assert row_of(w, second)["state"] == "done"
    assert row_of(w, first)["state"] == "done", "woken by the other's end, before its time"


def test_recorder_hears_every_step_in_its_transaction(case: Case) -> None:
    events: list[StepEvent] = []
    w = case.world(sample.SAMPLE)
    engine = opened(w, recorder=lambda tx, run, e: events.append(e))
    assert finish(w, engine) == "done"
    assert [e.step for e in events] == [x.name for x in sample.SAMPLE.steps]
    assert [e.ended for e in events] == [None] * 6 + ["done"]
    assert w.events[-1] == ("sample", "", "done")


# -- accepting, looking, forgetting


def test_accept_refuses_what_could_never_run(case: Case) -> None:
    w = case.world(sample.SAMPLE)

    def accept(**kw: Any) -> None:
        given = {
            "id": new_uuid(),
            "kind": "sample",
            "version": 1,
            "resource": "r",
            "epoch": 1,
            "project_id": None,
            "context": sample.service_context(),
            "params": SampleParams(thing="x"),
            **kw,
        }
        w.home.write(lambda tx: journal.accept(tx, **given))

    accept()
    for bad, error in (
        ({"id": ""}, BadRequest),
        ({"resource": ""}, BadRequest),
        ({"version": 9}, ValueError),
        ({"params": sample.Answer}, TypeError),
    ):
        with pytest.raises(error):
            accept(**bad)


def test_nothing_is_nudged_when_the_accept_rolls_back(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    nudged: list[str] = []

    def accept(tx: Tx, fail: bool) -> None:
        journal.accept(
            tx,
            id=new_uuid(),
            kind="sample",
            version=1,
            resource="r",
            epoch=1,
            project_id=None,
            context=sample.service_context(),
            params=SampleParams(thing="x"),
            nudge=lambda db, op: nudged.append(db),
        )
        if fail:
            raise ValueError

    with pytest.raises(ValueError):
        w.home.write(lambda tx: accept(tx, True))
    assert nudged == []
    w.home.write(lambda tx: accept(tx, False))
    assert nudged == ["global"]


def test_show_says_what_it_waits_for_and_what_would_be_undone(case: Case) -> None:
    """R4: overdue is visible."""
    w = case.world(sample.SAMPLE)
    w.agent.silent = True
    engine, (_, op) = opened(w), w.begin()
    engine.run_until_idle(advance=False)

    def show(now: float, admin: bool = False) -> dict[str, Any]:
        return w.home.read(lambda tx: history.show(tx, op, now, admin=admin))

    seen = show(w.clock.now())
    assert (seen["state"], seen["step"], seen["waits_for"]) == ("waiting", "build", "answer")
    assert [x["step"] for x in seen["steps"]] == ["mint", "claim", "port", "copy"]
    assert seen["would_undo"] == ["build", "copy", "port", "claim"]
    assert not seen["overdue"]
    assert "host" not in seen
    late = show(w.clock.now() + 61, admin=True)
    assert late["overdue"]
    assert w.home.read(lambda tx: history.overdue(tx, w.clock.now() + 61)) == [op]
    assert late["fence"] == 1


def test_lists_are_newest_first_and_paged(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    ops = []
    for _ in range(5):
        ops.append(w.begin()[1])
        w.clock.advance(1)
    rows = w.home.read(lambda tx: journal.list_(tx, project_id="p1", limit=2))
    assert [r["id"] for r in rows] == [ops[4], ops[3]]
    last = (rows[-1]["accepted_at"], rows[-1]["id"])
    rows = w.home.read(lambda tx: journal.list_(tx, limit=2, before=last))
    assert [r["id"] for r in rows] == [ops[2], ops[1]]
    assert w.home.read(lambda tx: journal.list_(tx, live=False)) == []
    assert (
        len(w.home.read(lambda tx: journal.list_(tx, live=True, state="ready", kind="sample"))) == 5
    )
    assert len(w.home.read(lambda tx: journal.live_of(tx, w.things[0]))) == 1


def test_history_folds_and_goes(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    engine = opened(w)
    good = w.begin()[1]
    finish(w, engine, good)
    w.agent.fails = [("build", "do")]
    bad = w.begin()[1]
    finish(w, engine, bad)
    live = w.begin()[1]

    def steps(op: str) -> int:
        return len(w.home.read(lambda tx: journal.steps_of(tx, op)))

    def fold(days: float) -> int:
        return w.home.write(lambda tx: history.fold(tx, w.clock.now() + days * 86400))

    assert fold(0.5) == 0
    assert fold(1.1) == 1
    assert fold(1.1) == 0
    assert (steps(good), steps(bad)) == (0, 10)
    shown = w.home.read(lambda tx: history.show(tx, good, 0.0))
    assert [x["step"] for x in shown["steps"]] == [x.name for x in sample.SAMPLE.steps]
    assert row_of(w, good)["params"] is None
    assert fold(31) == 2
    assert [r["id"] for r in w.home.read(lambda tx: journal.list_(tx))] == [live]
    assert steps(bad) == 0


def test_sweep_and_lists_use_an_index(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    asked = [
        (journal._DUE, {"now": 0.0, "the_limit": 5}),
        (journal._LIVE_OF, {"resource": "r"}),
        (journal._NEXT, {}),
        (journal._STEPS, {"operation": "o"}),
        (history._OLD, {"state": "done", "before": 0.0, "the_limit": 5}),
        (history._GONE, {"before": 0.0, "the_limit": 5}),
        (history._OVERDUE, {"now": 0.0}),
    ]

    def plans(tx: Tx) -> list[str]:
        out = []
        for q, values in asked:
            text, bound = q.bound(values)
            out += [r[3] for r in tx._conn.execute(f"EXPLAIN QUERY PLAN {text}", bound)]
        return out

    for plan in w.home.read(plans):
        assert "SCAN operation" not in plan or "USING" in plan, plan
        assert "TEMP B-TREE" not in plan, plan


def test_manual_clock_is_the_only_time(case: Case) -> None:
    w = case.world(sample.SAMPLE)
    assert isinstance(w.clock, ManualClock)
    engine, op = opened(w), w.begin()[1]
    finish(w, engine, op)
    assert row_of(w, op)["ended_at"] == pytest.approx(w.clock.now(), abs=1.0)
