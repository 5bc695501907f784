"""Resize, confirm and revert under faults: the new size, or the old one; nothing in between is left."""

import dataclasses
from pathlib import Path

import pytest

from kilonova.operations import states
from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import ServerWorld, saga_of

KINDS = ("server_resize", "confirm_resize", "revert_resize")
SAGAS = {kind: saga_of(kind) for kind in KINDS}
SAGAS["server_resize"] = dataclasses.replace(  # the steps of one that stays on its host
    SAGAS["server_resize"], steps=SAGAS["server_resize"].steps[:2]
)
CASES = [(kind, case) for kind in KINDS for case in points_of(SAGAS[kind])]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind, hosts=1), SAGAS[kind], case)


@pytest.mark.parametrize("seed", range(24))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    world = ServerWorld(tmp_path, kind, hosts=1)
    check_case(world, SAGAS[kind], random_pair(SAGAS[kind], seed), all_hit=False)


def test_the_host_cannot(tmp_path: Path) -> None:
    """The guest could not be resized: the server is as it was, with a fault."""
    world = ServerWorld(tmp_path, "server_resize", hosts=1)
    world.guests.faults.set("resize_fail")
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits["resize_fail"] == 1
    ledger, clean, row = world.ledger(), world.clean("failed"), world.row()
    world.close()
    assert ledger == clean
    assert (row["vm_state"], row["task_state"]) == (states.ACTIVE, None)


def test_a_revert_that_fails_leaves_the_server_resized(tmp_path: Path) -> None:
    """It can be reverted again, or confirmed."""
    world = ServerWorld(tmp_path, "revert_resize", hosts=1)
    world.guests.faults.set("revert_fail", times=1)
    assert world.run(*world.begin()) == "failed"
    assert world.ledger() == world.clean("failed")
    assert world.row()["vm_state"] == states.RESIZED
    assert world.run(*world.accept("revert_resize")) == "done"
    assert world.row()["vm_state"] == states.ACTIVE
    world.close()


def test_no_room_for_the_new_size(tmp_path: Path) -> None:
    """No valid host, in words; nothing was touched."""
    world = ServerWorld(tmp_path, "server_resize", hosts=1)
    world.hosts.set_service(world.row()["host"], disabled=True)
    assert world.run(*world.begin()) == "failed"
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_is_down(kind: str, tmp_path: Path) -> None:
    """R4, R17: the operation ends or is parked; when the host is back the ledger is what it must be."""
    world = ServerWorld(tmp_path, kind, hosts=1)
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    state = world.run(home, operation)
    assert state == ("done" if kind == "confirm_resize" else "failed")
    assert world.row()["task_state"] is None
    back()
    cleanups.run(world.services)
    world.settle()
    ledger, clean = world.ledger(), world.clean(state)
    world.close()
    assert ledger == clean


def test_delete_of_a_resized_server_leaves_nothing(tmp_path: Path) -> None:
    """R17: both claims, the kept disks and the migration end with the server."""
    world = ServerWorld(tmp_path, "server_resize", hosts=1)
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("server_delete")) == "done"
    ledger = world.ledger()
    world.close()
    held = {k: v for k, v in ledger.items() if k.startswith(("held", "guest", "disk", "kept"))}
    assert held == {} and ledger["consumer"] == 0 and ledger["migration:confirmed"] == 1


def test_a_stopped_server_stays_stopped(tmp_path: Path) -> None:
    """Resize and revert of a server that is off do not start it."""
    world = ServerWorld(tmp_path, "server_resize", hosts=1)
    assert world.run(*world.accept("server_stop")) == "done"
    assert world.run(*world.accept("server_resize")) == "done"
    assert (world.row()["vm_state"], world.row()["power_state"]) == (states.RESIZED, 4)
    assert world.run(*world.accept("revert_resize")) == "done"
    row = world.row()
    world.close()
    assert (row["vm_state"], row["power_state"]) == (states.STOPPED, 4)


def test_a_forgotten_resize_is_confirmed_by_itself(tmp_path: Path) -> None:
    """The window is evaluated by the conductor (CC-11.14)."""
    from kilonova.common.config import Settings
    from kilonova.reconcile import resizes

    world = ServerWorld(tmp_path, "server_resize", hosts=1)
    assert world.run(*world.begin()) == "done"
    settings = {"settings": Settings(resize_confirm_window_s=60.0)}
    object.__setattr__(world.services, "settings", settings)
    resizes.run(world.services)
    assert world.row()["task_state"] is None, "not yet"
    world.clock.advance(61.0)
    resizes.run(world.services)
    world.engines[-1].run_until_idle(limit=10_000)
    row = world.row()
    world.close()
    assert (row["vm_state"], row["task_state"]) == (states.ACTIVE, None)
