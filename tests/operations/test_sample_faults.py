"""The engine and its fault harness, proved on a small operation that has everything."""

from pathlib import Path

import pytest

from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.sample import SAMPLE, SampleWorld


def test_undisturbed(tmp_path: Path) -> None:
    """SAGA-1: an undisturbed operation ends, and leaves what it promises."""
    assert check_case(SampleWorld(tmp_path), SAMPLE, ()).state == "done"


@pytest.mark.parametrize("case", points_of(SAMPLE), ids=case_id)
def test_one_fault_at_every_point_ends_clean(case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(SampleWorld(tmp_path), SAMPLE, case)


@pytest.mark.parametrize("seed", range(150))
def test_two_faults_end_clean(seed: int, tmp_path: Path) -> None:
    """R1b: the seed is the test's parameter; rerun it to see the same pair."""
    check_case(SampleWorld(tmp_path), SAMPLE, random_pair(SAMPLE, seed), all_hit=False)
