"""Rebuild of a server that boots from a volume, which is written anew (2.93), under faults.

Done, the volume has the image's data; unwound before it was written, guest, record and volume are what they were; after
that, the server is in ERROR with a volume that can be used.
"""

from pathlib import Path
from typing import Any

import pytest

from kilonova.objects.guest import PowerState
from kilonova.operations import accept, server_delete, server_disks
from kilonova.reconcile import audit, cleanups
from tests.ledger import changed
from tests.operations.harness import Case, case_id, points_of, random_pair, run_case, zombies_of
from tests.operations.server_world import CONTEXT, ServerWorld, Shape, saga_of

SAGA = saga_of("server_rebuild")
BACKED = Shape(boot=True, own=1)
HISTORY = ("action:", "event:", "operation:", "fault:")
WRITTEN = {"server:active": -1, "server:error": 1}


def root_of(world: ServerWorld) -> Any:
    """Return the server's root disk as its record says."""
    return next(d for d in server_disks.read(world.row()) if server_disks.is_root(d))


def written(world: ServerWorld) -> str:
    """Return the image whose data the root volume has on its host."""
    volume = world.volumes.find(str(root_of(world).volume_id))
    assert volume is not None
    found = world.guests.files.find(volume.host, "volume", volume.id)
    assert found is not None
    assert found.image_id == volume.image.get("image_id", "")  # the record tells the truth
    return found.image_id


def holds(world: ServerWorld, state: str) -> None:
    """Check what an operation that ended promises."""
    after = changed(world.before, world.ledger())
    left = {k: v for k, v in after.items() if not k.startswith(HISTORY)}
    anew = written(world) == world.image().id
    root, row = root_of(world), world.row()
    volume = world.volumes.find(str(root.volume_id))
    assert volume is not None and volume.status == "in-use"
    assert [a.id for a in volume.attachments] == [root.attachment_id]
    guest = world.guests.find(world.server)[1]
    assert guest.power == PowerState.RUNNING and root.volume_id in guest.volumes
    if state == "done":
        assert (anew, left, row["name"]) == (True, {}, "anew")
    else:
        assert (left == {}) if not anew else (row["vm_state"] == "error")
        assert row["name"] == "web"
    assert audit.run(world.services) == []


def _check(world: ServerWorld, case: Case) -> None:
    try:
        outcome = run_case(world, case)
        assert not outcome.missed, outcome.missed
        holds(world, outcome.state)
    finally:
        world.close()


@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1"""
    _check(ServerWorld(tmp_path, "server_rebuild", BACKED), case)


class Shared(ServerWorld):
    """Its conductors have leases."""

    shared = True


@pytest.mark.parametrize("case", zombies_of(SAGA), ids=case_id)
def test_a_conductor_that_slept_beyond_its_lease(case: Case, tmp_path: Path) -> None:
    """R8: it wakes after another one has ended the rebuild, and changes nothing."""
    _check(Shared(tmp_path, "server_rebuild", BACKED), case)


@pytest.mark.parametrize("seed", range(15))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    world = ServerWorld(tmp_path, "server_rebuild", BACKED)
    try:
        holds(world, run_case(world, random_pair(SAGA, seed)).state)
    finally:
        world.close()


@pytest.mark.parametrize("fault", ["volume_reimage_fail", "volume_reimage_fail_late"])
def test_the_volumes_host_fails(fault: str, tmp_path: Path) -> None:
    """The old data are there again, and the guest runs with them."""
    world = ServerWorld(tmp_path, "server_rebuild", BACKED)
    world.guests.faults.set(fault)
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits[fault] == 1
    assert (written(world), world.row()["vm_state"]) == ("", "active")
    holds(world, "failed")
    world.close()


def test_the_guest_does_not_start(tmp_path: Path) -> None:
    """The volume is written already: ERROR says so, and another rebuild mends it."""
    world = ServerWorld(tmp_path, "server_rebuild", BACKED)
    world.guests.faults.set("remake_fail", times=1)
    assert world.run(*world.begin()) == "failed"
    assert (written(world), world.row()["vm_state"]) == (world.image().id, "error")
    assert world.run(*world.accept("server_rebuild")) == "done"
    assert world.row()["vm_state"] == "active"
    assert audit.run(world.services) == []
    world.close()


def test_a_stopped_server_stays_stopped(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_rebuild", BACKED, setup=("server_stop",))
    assert world.run(*world.begin()) == "done"
    row, guest = world.row(), world.guests.find(world.server)[1]
    assert (row["vm_state"], guest.power, written(world)) == (
        "stopped",
        PowerState.SHUTDOWN,
        world.image().id,
    )
    assert world.run(*world.accept("server_start")) == "done"
    world.close()


def test_a_host_that_goes_down(tmp_path: Path) -> None:
    """R4: the server is what it was, once its host is back."""
    world = ServerWorld(tmp_path, "server_rebuild", BACKED)
    begun = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(*begun) == "failed"
    back()
    cleanups.run(world.services)
    world.settle()
    holds(world, "failed")
    world.close()


def test_a_delete_overtakes_it(tmp_path: Path) -> None:
    """A volume that is being written forever is given up; nothing of the server stays."""
    world = ServerWorld(tmp_path, "server_rebuild", BACKED)
    world.guests.faults.set("volume_hang")
    home, operation = world.begin()
    engine = world.engines[-1]
    engine.nudge(home, operation)
    engine.run_until_idle(advance=False)
    assert world.row()["task_state"] == "rebuilding"
    world.guests.faults.clear()
    found = accept.find_server(world.services, CONTEXT, world.server)
    delete = server_delete.start(world.services, CONTEXT, found)
    engine.run_until_idle(limit=10_000)
    assert engine.wait(home, delete, 0.0) == "done"
    left = world.ledger()
    world.close()
    assert not [k for k in left if k.startswith(("guest", "aside", "part", "attachment"))]
