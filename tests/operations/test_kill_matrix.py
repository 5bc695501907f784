"""The kill matrix beside each operation's own tests: sleepers in every move, and a look at every point (R11)."""

from pathlib import Path

import pytest

from kilonova.saga import definition
from kilonova.saga.definition import Ask, Step
from tests.operations.harness import Case, case_id, check_case, random_pair, random_sleeper
from tests.operations.kill_matrix import ROWS, Row, cases_in, proofs

ALREADY = ("create", "delete", "resize", "confirm", "revert")  # test_server_conductors.py has all
HERE = [row for row in ROWS if row.here]
SOME = [
    (row, case)
    for row in HERE
    for case in (
        *row.faults()[:: 3 if row.name == "resize away" else 30],
        *row.sleepers()[:: 12 if row.name in ALREADY or row.kind.endswith("cross_cell") else 5],
    )
]
_SOME = set(SOME)
REST = [
    (row, case)
    for row in HERE
    for case in (*row.faults(), *row.sleepers())
    if (row, case) not in _SOME
]


def _ids(value: object) -> str:
    return value.name.replace(" ", "-") if isinstance(value, Row) else case_id(value)  # type: ignore[arg-type]


def _check(row: Row, case: Case, path: Path, *, all_hit: bool = True) -> None:
    world = row.world(path)
    states = ["done", "failed"] if row.trigger else None
    check_case(world, row.saga, case, states=states, all_hit=all_hit)
    assert world.wrong == []
    assert world.looks > 3


@pytest.mark.parametrize(("row", "case"), SOME, ids=_ids)
def test_some(row: Row, case: Case, tmp_path: Path) -> None:
    """R1, R2, R3, R8, R11: it ends clean, and in every list at every point there is one server."""
    _check(row, case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "case"), REST, ids=_ids)
def test_the_rest(row: Row, case: Case, tmp_path: Path) -> None:
    """R1, R2, R3, R8, R11"""
    _check(row, case, tmp_path)


@pytest.mark.parametrize("seed", range(2 * len(HERE)))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b, R8, R11: one of two is a sleep, every other time."""
    row = HERE[seed % len(HERE)]
    pair = (random_pair, random_sleeper)[seed % 2]
    _check(row, pair(row.saga, seed), tmp_path, all_hit=False)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("row", HERE, ids=_ids)
def test_two_faults_at_length(row: Row, block: int, tmp_path: Path) -> None:
    """R1b, R8, R11: forty pairs of faults and forty of a fault and a sleep, each time."""
    for seed in range(block * 40, block * 40 + 40):
        for pair in (random_pair, random_sleeper):
            path = tmp_path / f"{pair.__name__}{seed}"
            _check(row, pair(row.saga, seed), path, all_hit=False)


@pytest.mark.parametrize("row", ROWS, ids=_ids)
def test_no_point_is_missing(row: Row) -> None:
    """R1, R8: each kind of fault at each point of each step and undo is a case of some test."""
    found = {case for test in proofs()[row.name] for case, _ in cases_in(test, row)}
    assert {*row.faults(), *row.sleepers()} - found == set()


def _code_of(step: Step | Ask) -> str:
    return str((step.order if isinstance(step, Ask) else step.do).__module__)


def test_no_operation_is_missing() -> None:
    """R1: each step of whatever this release can do is taken in some row."""
    known = {
        (kind, s.name)
        for (kind, _), saga in definition.known().items()
        for s in saga.steps
        if _code_of(s).startswith("kilonova.")  # other tests of this process have operations too
    }
    assert known - set[tuple[str, str]]().union(*(row.reached() for row in ROWS)) == set()
