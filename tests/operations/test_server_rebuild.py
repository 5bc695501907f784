"""Rebuild under faults: the new guest with the new record, or the old guest with the old one."""

from pathlib import Path

import msgspec
import pytest

from kilonova.objects.guest import PowerState
from kilonova.operations import accept
from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import plus
from tests.operations.server_world import CONTEXT, ServerWorld, saga_of

SAGA = saga_of("server_rebuild")
OF_VOLUMES = frozenset(("off", "root", "reimage", "in_use"))  # test_server_reimage.py


@pytest.mark.parametrize("case", points_of(SAGA, skip=OF_VOLUMES), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, "server_rebuild"), SAGA, case)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    check_case(
        ServerWorld(tmp_path, "server_rebuild"), SAGA, random_pair(SAGA, seed), all_hit=False
    )


def test_the_new_guest_and_its_record(tmp_path: Path) -> None:
    """Addresses, tags and host stay; image, name, metadata and user data are the new ones."""
    world = ServerWorld(tmp_path, "server_rebuild")
    before, image = world.row(), world.image().id
    old = world.guests.find(world.server)[1]
    assert world.run(*world.begin()) == "done"
    row, guest = world.row(), world.guests.find(world.server)[1]
    ref = row["user_data"]
    data = world.services.cell("cell1").read(lambda tx: world.services.vault.get(tx, ref)).reveal()
    world.close()
    for kept in ("addresses", "nics", "tags", "host", "flavor", "hostname"):
        assert row[kept] == before[kept], kept
    assert (row["name"], row["metadata"], row["image_id"]) == ("anew", '{"k":"v"}', image)
    assert msgspec.json.decode(row["disks"])[0]["image_id"] == image
    assert (guest.images["root"], guest.aside, guest.nics) == (image, {}, old.nics)
    assert (guest.generation, data) == (row["metadata_generation"], "bmV3")


@pytest.mark.parametrize("fault", ["remake_fail", "remake_fail_late"])
def test_the_host_fails(fault: str, tmp_path: Path) -> None:
    """The old guest runs again with its old disks, and is told its old name under a newer generation."""
    world = ServerWorld(tmp_path, "server_rebuild")
    before, old = world.row(), world.guests.find(world.server)[1]
    world.guests.faults.set(fault)
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits[fault] == 1
    row, guest = world.row(), world.guests.find(world.server)[1]
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean
    assert (guest.images, guest.aside, guest.power) == (old.images, {}, PowerState.RUNNING)
    assert guest.name == old.name
    for kept in ("name", "metadata", "image_id", "disks", "user_data", "system_metadata"):
        assert row[kept] == before[kept], kept


def test_a_stopped_server_stays_stopped(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_rebuild", setup=("server_stop",))
    assert world.run(*world.begin()) == "done"
    row, guest = world.row(), world.guests.find(world.server)[1]
    world.close()
    assert (row["vm_state"], guest.power) == ("stopped", PowerState.SHUTDOWN)


def test_every_filter_is_asked_again(tmp_path: Path) -> None:
    """S26: a host that cannot do what the new image asks for keeps the server as it is."""
    world = ServerWorld(tmp_path, "server_rebuild")
    world.image("picky", **{"trait:CUSTOM_NOBODY_HAS_IT": "required"})
    found = accept.find_server(world.services, CONTEXT, world.server)
    world.engine().open()
    world.image = lambda name="picky", **_: world.images.made_with(  # type: ignore[method-assign]
        CONTEXT.project_id or "", {"test": "picky"}
    )[0]
    operation = world.rebuild(found)
    assert world.run("cell1", operation) == "failed"
    boots = world.guests.find(world.server)[1].boots
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert boots == 1
    assert ledger == plus(clean, {"image:active": 1})


def test_fifty_rebuilds_claim_what_one_does(tmp_path: Path) -> None:
    """S26"""
    world = ServerWorld(tmp_path, "server_rebuild")
    for _ in range(50):
        assert world.run(*world.accept("server_rebuild")) == "done"
    ledger = world.ledger()
    many = {
        "action:rebuild:ok": 50,
        "event:compute_rebuild_instance:Success": 50,
        "operation:server_rebuild:done": 50,
    }
    world.close()
    assert ledger == plus(world.before, many)


def test_a_host_that_goes_down(tmp_path: Path) -> None:
    """R4"""
    world = ServerWorld(tmp_path, "server_rebuild")
    begun = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(*begun) == "failed"
    back()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean
