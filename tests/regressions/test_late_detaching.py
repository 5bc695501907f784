"""A conductor slept as a detach began, another one took the detach back: waking, it said "detaching" for good."""

from pathlib import Path

from kilonova.saga.faults import AFTER, BEFORE, ERROR, PAUSE, Fault
from kilonova.saga.state import DO
from tests.operations.harness import check_case
from tests.operations.server_world import ServerWorld, Shape, saga_of

SLEEPS = Fault("begin", DO, BEFORE, PAUSE)
FAILS = Fault("guest", DO, AFTER, ERROR)


class Shared(ServerWorld):
    """Its conductors have leases."""

    shared = True


def test_the_volume_is_in_use_again(tmp_path: Path) -> None:
    """R8: the ledger knows a volume's status."""
    world = Shared(tmp_path, "volume_detach", Shape(spare=1))
    assert check_case(world, saga_of("volume_detach"), (SLEEPS, FAILS)).state == "failed"
