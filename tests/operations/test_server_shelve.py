"""Shelve, offload and unshelve under faults: the root disk is on one host or in one image, and never lost."""

from pathlib import Path

import pytest

from kilonova.objects.guest import PowerState
from kilonova.operations import shelving
from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import ServerWorld, saga_of

KINDS = ("server_shelve", "server_shelve_offload", "server_unshelve")
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(30))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    check_case(
        ServerWorld(tmp_path, kind), saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False
    )


def test_there_and_back(tmp_path: Path) -> None:
    """Away: no host, no claim, an image of its name. Back: made of that image, which is gone; its addresses stay."""
    world = ServerWorld(tmp_path, "server_shelve")
    before = world.row()
    assert world.run(*world.begin()) == "done"
    away = world.row()
    image = world.images.find(shelving.shelved_image(away) or "")
    assert image is not None and (image.name, image.status) == ("web-shelved", "active")
    assert (away["vm_state"], away["host"], away["power_state"]) == ("shelved_offloaded", None, 4)
    assert world.run(*world.accept("server_unshelve")) == "done"
    row, guest = world.row(), world.guests.find(world.server)[1]
    gone = world.images.find(image.id)
    world.close()
    assert (row["vm_state"], shelving.shelved_image(row), gone) == ("active", None, None)
    for kept in ("addresses", "nics", "disks", "image_id", "hardware"):
        assert row[kept] == before[kept], kept
    assert (guest.images["root"], guest.power) == (image.id, PowerState.RUNNING)


def test_a_server_that_stays_on_its_host(tmp_path: Path) -> None:
    """SHELVED: off, and started again where it is; the image goes then."""
    world = ServerWorld(tmp_path, "server_unshelve", setup=("shelve_kept",))
    assert world.row()["vm_state"] == "shelved"
    assert world.guests.find(world.server)[1].power == PowerState.SHUTDOWN
    assert world.run(*world.begin()) == "done"
    row, guest, ledger = world.row(), world.guests.find(world.server)[1], world.ledger()
    world.close()
    assert (row["vm_state"], guest.power) == ("active", PowerState.RUNNING)
    assert ledger["image:active"] == world.before["image:active"] - 1


@pytest.mark.parametrize("state", ["server_stop", "server_pause", "server_suspend"])
def test_other_states(state: str, tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_shelve", setup=(state,))
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("server_unshelve")) == "done"
    row = world.row()
    world.close()
    assert row["vm_state"] == "active"


def test_a_copy_that_fails_starts_the_guest_again(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_shelve")
    world.guests.faults.set("snapshot_fail")
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits["snapshot_fail"] == 1
    power = world.guests.find(world.server)[1].power
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert (ledger, power) == (clean, PowerState.RUNNING)


def test_a_host_that_cannot_sends_it_to_another(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_unshelve")
    world.guests.faults.set("build_elsewhere")
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits["build_elsewhere"] == 1
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_nobody_can(tmp_path: Path) -> None:
    """Shelved as before; the image stays."""
    world = ServerWorld(tmp_path, "server_unshelve")
    world.guests.faults.set("build_fail_everywhere")
    assert world.run(*world.begin()) == "failed"
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_delete_of_a_shelved_server(tmp_path: Path) -> None:
    """Its image goes with it."""
    world = ServerWorld(tmp_path, "server_unshelve")
    assert world.run(*world.accept("server_delete")) == "done"
    ledger = world.ledger()
    n = world.shape.nics
    not_there = {
        "consumer": 1,
        "held:VCPU": 1,
        "held:MEMORY_MB": 512,
        "held:DISK_GB": 1,
        "guest": 1,
        "disk": 2,
        "tap": n,
        "nic": n,
        "port:made:bound": n,
        "port:made:unbound": -n,
        "image:active": -1,
    }
    clean = plus(world.before, deleted(world.shape, "shelved_offloaded"), not_there)
    world.close()
    assert ledger == clean


def test_offloaded_while_the_host_is_down(tmp_path: Path) -> None:
    """The server is free at once; what the old host has is removed when it is back, and only while it is not there."""
    world = ServerWorld(tmp_path, "server_shelve_offload")
    host = world.row()["host"]
    back = world.fall_silent(host)
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("server_unshelve")) == "done"
    assert world.row()["host"] != host
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert (ledger["guest"], ledger["cleanup:cell1"]) == (1, 0)
