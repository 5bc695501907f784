"""Steps that are left out, and operations on one resource that go one after the other."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.saga import journal
from kilonova.saga.definition import NotYet, Saga, StepFailed
from kilonova.saga.schema import TABLES
from tests.operations.sample import SampleParams, SampleWorld
from tests.unit.test_saga_engine import Case, case, finish, opened, row_of

__all__ = ["case"]
O = TABLES.operation  # noqa: E741


def _leave_out(params: Any, outputs: Any) -> bool:
    return True


def test_step_that_is_left_out_costs_nothing_and_is_not_undone(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b", skip=_leave_out), s.step("c")))
    s.raises["c"] = [StepFailed("No.")]
    engine, (_, op) = opened(w), w.begin()
    assert finish(w, engine, op) == "failed"
    assert s.calls == ["a", "c", "-c", "-a"]
    steps = w.home.read(lambda tx: journal.steps_of(tx, op))
    assert "b" not in [r["step"] for r in steps]


def test_last_step_may_be_left_out(case: Case) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b", skip=_leave_out)))
    assert finish(w) == "done"
    assert s.calls == ["a"]


def test_first_step_may_not(case: Case) -> None:
    with pytest.raises(ValueError, match="first"):
        Saga("x", 1, SampleParams, (case.script.step("a", skip=_leave_out),))


def _later(w: SampleWorld, first: str, second: str) -> None:
    """Let two operations be of one resource, the second accepted after the first."""
    w.home.write(lambda tx: tx.change(sa.update(O).values(resource="the same thing")))
    w.home.write(lambda tx: tx.change(sa.update(O).where(O.c.id == second).values(epoch=2)))


@pytest.mark.parametrize("in_turn", [True, False])
def test_operations_on_one_resource_take_turns(case: Case, in_turn: bool) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a"), s.step("b"), in_turn=in_turn))
    s.raises["a"] = [NotYet("Wait.", after_s=9.0)]
    engine = opened(w)
    (_, first), (_, second) = w.begin(), w.begin()
    _later(w, first, second)
    engine.nudge("global", first)
    engine.step_once()
    engine.nudge("global", second)
    engine.run_until_idle(advance=False)
    assert row_of(w, second)["state"] == ("waiting" if in_turn else "done")
    engine.run_until_idle()
    assert row_of(w, first)["state"] == row_of(w, second)["state"] == "done"
    assert s.calls == ["a", *(["a", "b"] * 2 if in_turn else ["a", "b", "a", "b"])]


def test_one_that_waits_for_its_turn_can_be_cancelled(case: Case, tmp_path: Path) -> None:
    s = case.script
    w = case.world(case.saga(s.step("a")))
    s.raises["a"] = [NotYet("Wait.", after_s=5.0)]
    engine = opened(w)
    (_, first), (_, second) = w.begin(), w.begin()
    _later(w, first, second)
    engine.nudge("global", first)
    engine.step_once()
    engine.nudge("global", second)
    engine.run_until_idle(advance=False)
    assert row_of(w, second)["waits_for"] == "turn"
    w.home.write(lambda tx: journal.request_cancel(tx, second, now=engine.now()))
    engine.nudge("global", second)
    engine.run_until_idle(advance=False)
    assert row_of(w, second)["state"] == "cancelled"
    assert finish(w, engine, first) == "done"
