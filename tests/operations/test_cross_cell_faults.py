"""Moves to another cell under faults: at every step and undo, in both cells, one fault or two; exactly one server.

The kill matrix of CC-1.1, 1.2, 1.6, 4.5, 5.6, 5.13, 6.8, 7.9, 7.10, 8.3, 10.8 and 11.10: error, kill, lost reply, done
twice; the ledger counts both cells, all hosts and all neighbours.
"""

from pathlib import Path
from typing import Any

import pytest

from kilonova.saga import definition
from tests.operations.cross_cell_world import CONFIRM, KINDS, MIGRATE, RESIZE, REVERT, TwoCells
from tests.operations.harness import (
    Case,
    case_id,
    check_case,
    points_of,
    random_pair,
    run_case,
    zombies_of,
)
from tests.operations.server_world import Shape, saga_of

LOCAL, BACKED = Shape(nics=2, user_port=True), Shape(boot=True, own=1)
STOP = ("server_stop",)


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


def _cases(kind: str, every: int = 1, backed: bool = False) -> list[tuple[str, Case]]:
    """Return the cases of one kind. backed: of a server without local disks to copy but swap."""
    left_out = frozenset(("copy", "images", "upload")) if backed else frozenset()
    return [(kind, case) for case in points_of(saga_of(kind), left_out)][::every]


LOCAL_CASES = [c for kind in (RESIZE, CONFIRM, REVERT) for c in _cases(kind)]
BACKED_CASES = [c for kind in (RESIZE, CONFIRM, REVERT) for c in _cases(kind, 2, backed=True)]
STOPPED_CASES = [c for kind in (MIGRATE, REVERT) for c in _cases(kind, 7)]


def _world(path: Path, kind: str, shape: Shape, stopped: bool = False) -> TwoCells:
    if not stopped:
        return TwoCells(path, kind, shape)
    before = (RESIZE,) if kind in (CONFIRM, REVERT) else ()
    return TwoCells(path, kind, shape, setup=(*STOP, *before))


@pytest.mark.parametrize(("kind", "case"), LOCAL_CASES, ids=_ids)
def test_one_fault_with_local_disks(kind: str, case: Case, tmp_path: Path) -> None:
    """R1, CC-8.3"""
    check_case(_world(tmp_path, kind, LOCAL), saga_of(kind), case)


@pytest.mark.parametrize(("kind", "case"), BACKED_CASES, ids=_ids)
def test_one_fault_volume_backed(kind: str, case: Case, tmp_path: Path) -> None:
    """R1, CC-8.3; never two writers (R13)"""
    world = _world(tmp_path, kind, BACKED)
    check_case(world, saga_of(kind), case)
    assert world.guests.second_writers == []


@pytest.mark.parametrize("shape", [LOCAL, BACKED], ids=["local", "backed"])
@pytest.mark.parametrize(("kind", "case"), STOPPED_CASES, ids=_ids)
def test_one_fault_stopped(kind: str, case: Case, shape: Shape, tmp_path: Path) -> None:
    """R1, CC-8.3"""
    check_case(
        _world(tmp_path, kind, shape, stopped=True), saga_of(kind), case, all_hit=shape is LOCAL
    )


@pytest.mark.parametrize("seed", range(48))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    world = _world(tmp_path, kind, (LOCAL, BACKED)[seed // 4 % 2], stopped=seed % 3 == 0)
    check_case(world, saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False)


DELETED: dict[Shape, Any] = {}


@pytest.mark.parametrize("shape", [LOCAL, BACKED], ids=["local", "backed"])
@pytest.mark.parametrize("case", points_of(saga_of("server_delete"))[::2], ids=case_id)
def test_deleted_while_it_waits(case: Case, shape: Shape, tmp_path: Path) -> None:
    """R1, CC-10.1: what a delete leaves is what one leaves that nothing disturbs: history, and one compact record."""
    if shape not in DELETED:
        calm = TwoCells(tmp_path / "calm", "server_delete", shape, setup=(RESIZE,))
        DELETED[shape] = run_case(calm, ()).ledger
        calm.close()
        left = {
            k for k in DELETED[shape] if k.startswith(("guest", "disk", "held", "hidden", "audit"))
        }
        assert left == set()
    world = TwoCells(tmp_path, "server_delete", shape, setup=(RESIZE,))
    outcome = run_case(world, case)
    world.close()
    volumes = {f.step for f in case} == {"volumes"} and shape is LOCAL  # left out without any
    assert volumes or not outcome.missed
    assert outcome.state == "done" and outcome.ledger == DELETED[shape]


class Shared(TwoCells):
    """Its conductors have leases."""

    shared = True


SLEPT = [(k, c) for k in (RESIZE, CONFIRM, REVERT) for c in zombies_of(saga_of(k))]
DIED = [(k, c) for k, c in LOCAL_CASES if c[-1].kind == "kill"][::3]


@pytest.mark.parametrize(("kind", "case"), SLEPT, ids=_ids)
def test_a_conductor_that_slept_beyond_its_lease(kind: str, case: Case, tmp_path: Path) -> None:
    """R8, CC-1.6: it wakes after another one has ended the move, and writes in no database any more."""
    check_case(Shared(tmp_path, kind, LOCAL), saga_of(kind), case)


@pytest.mark.parametrize(("kind", "case"), DIED, ids=_ids)
def test_another_conductor_ends_what_a_killed_one_began(
    kind: str, case: Case, tmp_path: Path
) -> None:
    """R2, R3, CC-1.6"""
    check_case(Shared(tmp_path, kind, LOCAL), saga_of(kind), case)


def test_the_order_of_the_steps() -> None:
    """CC-1.2, 3.1, 3.3, 7.6, 11.7: the seed's order, and the mapping in the middle of the swap."""
    names = [s.name for s in saga_of(RESIZE).steps]
    seed = ["begin", "check", "records", "bindings", "attachments", "ready", "migrating", "leave"]
    seed += ["upload", "release", "activate", "arrive", "show", "swap", "hide", "finish"]
    assert [n for n in names if n in seed] == seed
    back = [s.name for s in saga_of(REVERT).steps]
    assert back.index("merge") < back.index("show") < back.index("swap") < back.index("hide")
    assert back.index("swap") < back.index("drop") < back.index("target")
    for kind in (RESIZE, MIGRATE, REVERT):
        marked = [s.name for s in saga_of(kind).steps if s.point_of_no_return]
        assert marked == ["swap"] and definition.find(kind, 1) is not None
