"""Start, stop, reboot, pause, unpause, suspend, resume under faults: done, or the old state, a fault and an action."""

from pathlib import Path

import pytest

from kilonova.objects.guest import PowerState
from kilonova.operations import states
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import ServerWorld, saga_of

KINDS = (
    "server_start",
    "server_stop",
    "server_reboot_soft",
    "server_reboot_hard",
    "server_pause",
    "server_unpause",
    "server_suspend",
    "server_resume",
)
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(40))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    check_case(
        ServerWorld(tmp_path, kind), saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_refuses(kind: str, tmp_path: Path) -> None:
    """A guest that cannot do it: the old state, one fault, safe words for the tenant."""
    world = ServerWorld(tmp_path, kind)
    world.guests.faults.set("power_fail")
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    assert world.guests.faults.hits["power_fail"] == 1
    ledger, clean, row = world.ledger(), world.clean("failed"), world.row()
    world.close()
    assert ledger == clean
    assert (row["vm_state"] in states.TRANSITIONS[kind].start, row["task_state"]) == (True, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_is_down(kind: str, tmp_path: Path) -> None:
    """R4: the operation ends as soon as the host is known to be down; the record follows the guest when it is back."""
    world = ServerWorld(tmp_path, kind)
    before = world.row()["vm_state"]
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(home, operation) == "failed"
    row = world.row()
    assert (row["vm_state"], row["task_state"]) == (before, None)
    back()
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_what_was_done_before_the_reply_was_lost_is_recorded(tmp_path: Path) -> None:
    """A stop that unwound although the guest stopped: the guest's own report makes it SHUTOFF."""
    world = ServerWorld(tmp_path, "server_stop")
    world.guests.shut_down_by_itself(world.server)
    world.settle()
    row = world.row()
    assert (row["vm_state"], row["power_state"]) == (states.STOPPED, PowerState.SHUTDOWN)
    world.close()
