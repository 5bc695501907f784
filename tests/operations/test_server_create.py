"""Create under faults: every point of every step and undo, with the ledger afterwards."""

from pathlib import Path
from typing import Any

import pytest

from kilonova.db import actions, mappings
from kilonova.reconcile import cleanups
from kilonova.saga import journal
from kilonova.saga.faults import Fault, Faults
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import created, not_created, plus
from tests.operations.server_world import ONE, ServerWorld, Shape, saga_of

SAGA = saga_of("server_create")
MANY = Shape(nics=3, user_port=True, user_data=False)
CASES = points_of(SAGA, skip=frozenset(("volumes", "in_use")))  # test_server_volumes.py has those


def test_undisturbed(tmp_path: Path) -> None:
    """R1"""
    assert check_case(ServerWorld(tmp_path), SAGA, ()).state == "done"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1: built, or in cell0 with one fault, and nothing else anywhere."""
    check_case(ServerWorld(tmp_path), SAGA, case)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_one_fault_with_many_nics(case: Case, tmp_path: Path) -> None:
    """R1: three NICs, one of them a port that the user made, which must survive."""
    check_case(ServerWorld(tmp_path, shape=MANY), SAGA, case)


@pytest.mark.parametrize("seed", range(60))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    check_case(ServerWorld(tmp_path), SAGA, random_pair(SAGA, seed), all_hit=False)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(25))
def test_two_faults_at_length(block: int, tmp_path: Path) -> None:
    """R1b"""
    for seed in range(1000 + block * 200, 1200 + block * 200):
        world = ServerWorld(tmp_path / str(seed), shape=MANY if seed % 3 == 0 else ONE)
        check_case(world, SAGA, random_pair(SAGA, seed), all_hit=False)


def test_a_fault_of_the_host_tries_another(tmp_path: Path) -> None:
    """R1: nothing stays on the host that failed."""
    world = ServerWorld(tmp_path, shape=Shape(faults="build_elsewhere"))
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    assert world.guests.faults.hits["build_elsewhere"] >= 1
    ledger, row = world.ledger(), world.row()
    world.close()
    assert row["host"] == world.guests.find(world.server)[0]
    assert ledger == plus(world.before, created(world.shape))


@pytest.mark.parametrize("case", [c for c in CASES if len(c) == 1], ids=case_id)
def test_one_fault_beside_a_retreat(case: Case, tmp_path: Path) -> None:
    """R1: the first host fails, and something else goes wrong too."""
    world = ServerWorld(tmp_path, shape=Shape(faults="build_elsewhere"))
    check_case(world, SAGA, case, states=["done", "failed"])
    assert world.guests.faults.hits.get("build_elsewhere") or case[0].step in (
        "place",
        "ports",
        "record",
        "build",
    )


def test_three_hosts_fail(tmp_path: Path) -> None:
    """R1: ERROR in cell0, one fault that names no host, nothing else."""
    world = ServerWorld(tmp_path, shape=Shape(faults="build_fail_everywhere"), hosts=4)
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    assert world.guests.faults.hits["build_fail_everywhere"] == 3
    fault = _fault(world)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, not_created(world.shape))
    assert "host" not in fault["message"].lower() or "cell1-host" not in fault["message"]


def test_no_host_fits(tmp_path: Path) -> None:
    """The owner reads why; nothing was claimed or made."""
    world = ServerWorld(tmp_path)
    for agent in world.agents:
        world.hosts.set_service(agent.identity.host, disabled=True, reason="test")
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    fault, ledger = _fault(world), world.ledger()
    world.close()
    assert ledger == plus(world.before, not_created(world.shape))
    assert fault["code"] == 500 and "No valid host was found" in fault["message"]
    assert "cell1-host1" not in fault["message"]


def test_the_host_goes_down_during_the_build(tmp_path: Path) -> None:
    """R1: built on the other host; the first one cleans up when it is back."""
    world = ServerWorld(tmp_path)
    backs = []

    def fall(fault: Fault) -> None:
        mapping = world.services.world.read(lambda tx: mappings.find(tx, world.server))
        assert mapping is not None
        backs.append(world.fall_silent(mapping["host"]))

    # The order was sent and done; its answer is not heard any more.
    faults = Faults(Fault("build", "do", "before", "pause"), pause=fall)
    home, operation = world.begin()
    assert world.run(home, operation, faults) == "done"
    assert faults.missed == []
    parked = world.ledger()
    assert parked["cleanup:cell1"] == 1
    # what the first host may still have stays claimed, beside what the server has of the second
    assert (parked["consumer"], parked["held:MEMORY_MB"]) == (2, 1024)
    assert not [k for k in parked if k.startswith("audit:allocation")]
    backs[0]()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, created(world.shape))


@pytest.mark.parametrize("deleted_first", [False, True])
def test_a_host_that_is_down_keeps_what_an_unwound_create_claimed(
    deleted_first: bool, tmp_path: Path
) -> None:
    """R17: the create ends in ERROR; the host's resources are free when it confirms, not before."""
    world = ServerWorld(tmp_path, hosts=1)
    backs = []

    def fall(fault: Fault) -> None:
        backs.append(world.fall_silent("cell1-host1"))

    faults = Faults(Fault("build", "do", "before", "pause"), pause=fall)
    assert world.run(*world.begin(), faults) == "failed"
    assert faults.missed == []
    parked = world.ledger()
    assert (parked["cleanup:cell1"], parked["consumer"], parked["held:VCPU"]) == (1, 1, 1)
    assert not [k for k in parked if k.startswith("audit:allocation")]
    if deleted_first:
        assert world.run(*world.accept("server_delete")) == "done"
        assert world.ledger()["held:VCPU"] == 1
    backs[0]()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    left = [k for k in ledger if k.startswith(("cleanup", "consumer", "held:", "guest", "audit:"))]
    assert left == []


def test_cancelled_by_its_owner(tmp_path: Path) -> None:
    """A create that is cancelled leaves an ERROR without a fault: nobody failed."""
    world = ServerWorld(tmp_path)
    home, operation = world.begin()
    world.services.world.write(
        lambda tx: journal.request_cancel(tx, operation, now=world.clock.now())
    )
    assert world.run(home, operation) == "cancelled"
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, not_created(world.shape, "cancelled"))


def _fault(world: ServerWorld) -> Any:
    db = world.services.cell("cell0")
    return db.read(lambda tx: actions.last_fault(tx, world.server))
