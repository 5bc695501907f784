"""Attach, detach, and create and delete with volumes, under faults: done or as before, and nothing else anywhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import ServerWorld, Shape, saga_of

SPARE = Shape(spare=1)
BACKED = Shape(boot=True, own=1)
KINDS = ("volume_attach", "volume_detach")
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _own(case: Case) -> Case:
    """Let a fault of the create's last step pass over the step of the same name of the volume that it makes."""
    return tuple(replace(f, skip=1) if f.step == "finish" else f for f in case)


CREATES = [_own(case) for case in points_of(saga_of("server_create"))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_undisturbed(kind: str, tmp_path: Path) -> None:
    """R1"""
    assert check_case(ServerWorld(tmp_path, kind, SPARE), saga_of(kind), ()).state == "done"


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind, SPARE), saga_of(kind), case)


@pytest.mark.parametrize("case", CREATES, ids=case_id)
def test_create_with_volumes(case: Case, tmp_path: Path) -> None:
    """R1: a root volume that the create makes, and one of the user's, which must survive."""
    check_case(ServerWorld(tmp_path, shape=BACKED), saga_of("server_create"), case)


@pytest.mark.parametrize("case", points_of(saga_of("server_delete")), ids=case_id)
def test_delete_with_volumes(case: Case, tmp_path: Path) -> None:
    """R1, R17: the root volume goes, the user's stays."""
    check_case(ServerWorld(tmp_path, "server_delete", BACKED), saga_of("server_delete"), case)


@pytest.mark.parametrize("seed", range(40))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = (*KINDS, "server_create", "server_delete")[seed % 4]
    shape = SPARE if kind in KINDS else BACKED
    saga = saga_of(kind)
    check_case(ServerWorld(tmp_path, kind, shape), saga, random_pair(saga, seed), all_hit=False)
