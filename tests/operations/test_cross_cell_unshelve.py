"""Shelve in one cell, unshelve in another (CC-12.5): with all of its records, or shelved as before."""

from pathlib import Path

import pytest

from kilonova.operations import accept, server_unshelve_cross_cell, states
from kilonova.reconcile import audit
from tests.operations.cross_cell_world import UNSHELVE, TwoCells
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair, zombies_of
from tests.operations.server_world import CONTEXT, Shape, saga_of
from tests.operations.test_cross_cell import Free, leave_cell

SAGA = saga_of(UNSHELVE)
BACKED = Shape(boot=True, own=1)


class Shared(TwoCells):
    """Its conductors have leases."""

    shared = True


@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1, CC-12.5"""
    check_case(TwoCells(tmp_path, UNSHELVE), SAGA, case)


@pytest.mark.parametrize("case", points_of(SAGA)[::2], ids=case_id)
def test_one_fault_volume_backed(case: Case, tmp_path: Path) -> None:
    """R1, R13, CC-12.5"""
    world = TwoCells(tmp_path, UNSHELVE, BACKED)
    before, n = dict(world.before), 2
    outcome = check_case_of(world, case)
    told = ("attachment:", "volume:", "volume writer", "server:")
    rest = {k for k in outcome.keys() | before.keys() if not k.startswith(told)}
    clean = world.clean("done" if outcome["server:cell2:active:None"] else "failed")
    assert {k: outcome.get(k, 0) for k in rest} == {k: clean.get(k, 0) for k in rest}
    assert sum(v for k, v in outcome.items() if k.startswith("attachment:")) == n
    assert world.guests.second_writers == []


def check_case_of(world: TwoCells, case: Case) -> dict[str, int]:
    """Run a case; return the ledger. What volumes are shown as while nobody uses them is not looked at."""
    from collections import Counter

    from tests.operations.harness import expected_state, run_case

    outcome = run_case(world, case)
    world.close()
    assert not outcome.missed and outcome.state == expected_state(SAGA, case)
    return Counter(outcome.ledger)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    check_case(TwoCells(tmp_path, UNSHELVE), SAGA, random_pair(SAGA, seed), all_hit=False)


@pytest.mark.parametrize("case", zombies_of(SAGA)[::3], ids=case_id)
def test_a_conductor_that_slept_beyond_its_lease(case: Case, tmp_path: Path) -> None:
    """R8"""
    check_case(Shared(tmp_path, UNSHELVE), SAGA, case)


def test_all_of_it_is_there(tmp_path: Path) -> None:
    """CC-12.5, 0.1: the same server, with its history, in the other cell; its image is gone."""
    world = TwoCells(tmp_path, UNSHELVE)
    before = dict(world.row())
    assert world.run(*world.accept(UNSHELVE)) == "done"
    row, found = world.row(), audit.run(world.services)
    host, guest = world.guests.find(world.server)
    assert (row["vm_state"], row["task_state"], row["host"]) == (states.ACTIVE, None, "cell2-host1")
    same = ("uuid", "name", "keys", "tags", "metadata", "addresses", "nics", "user_data", "flavor")
    assert {n: row[n] for n in same} == {n: before[n] for n in same}
    assert host == "cell2-host1" and guest.images["root"] and found == []
    assert world.in_cell("cell1") is None and '"shelved_image":null' in row["system_metadata"]
    assert world.run(*world.accept("server_stop")) == "done"
    world.close()


def test_its_own_cell_is_preferred(tmp_path: Path) -> None:
    """CC-3.9 for an unshelve: another cell only when that is better, or asked for; never one that is on its host."""
    world = Free(tmp_path, UNSHELVE)
    found = accept.find_server(world.services, CONTEXT, world.server)
    start = server_unshelve_cross_cell.start
    assert start(world.services, CONTEXT, found) is None
    assert start(world.services, CONTEXT, found, host="cell1-host2") is None
    leave_cell(world)
    assert world.run(*world.accept(UNSHELVE)) == "done"
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert found.mapping["cell"] == "cell2" and start(world.services, CONTEXT, found) is None
    world.close()


def test_another_host_is_tried(tmp_path: Path) -> None:
    """R1: the fault of one host is no reason to stay shelved."""
    world = Free(tmp_path, UNSHELVE)
    leave_cell(world)
    world.guests.faults.set("build_elsewhere", server=world.server)
    assert world.run(*world.accept(UNSHELVE)) == "done"
    assert world.guests.faults.hits["build_elsewhere"] == 1
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean
