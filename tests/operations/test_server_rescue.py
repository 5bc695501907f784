"""Rescue and unrescue under faults: the guest is what its record says, no disk too many, none lost."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.db.schema.cell import secret
from kilonova.objects.guest import PowerState
from kilonova.operations import accept, guest_orders, server_rescue
from kilonova.reconcile import cleanups
from kilonova.virt.fake.disks import sealed
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import CONTEXT, ServerWorld, saga_of

KINDS = ("server_rescue", "server_unrescue")
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    check_case(
        ServerWorld(tmp_path, kind), saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False
    )


@pytest.mark.parametrize("fault", ["remake_fail", "remake_fail_late"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_fails(kind: str, fault: str, tmp_path: Path) -> None:
    """Touched or not, the guest runs as before, with the disks that it had."""
    world = ServerWorld(tmp_path, kind)
    before = world.guests.find(world.server)[1]
    world.guests.faults.set(fault)
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits[fault] == 1
    after = world.guests.find(world.server)[1]
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean
    assert (after.disks, after.power, after.aside) == (before.disks, PowerState.RUNNING, {})
    assert after.boots == before.boots + (fault == "remake_fail_late")


def test_disks_of_a_rescued_guest(tmp_path: Path) -> None:
    """It boots from the rescue disk and sees its own ones behind it; afterwards the rescue disk is gone."""
    world = ServerWorld(tmp_path, "server_rescue")
    assert world.run(*world.begin()) == "done"
    image = guest_orders.system_of(world.row()).rescue
    guest = world.guests.find(world.server)[1]
    assert image is not None and guest.images["rescue"] == image.id
    assert guest.disks == ("rescue", "root", "swap")
    assert world.row()["vm_state"] == "rescued"
    assert guest.drives == {"rescue": sealed("n3w")}
    left = world.databases["cell1"].read(lambda tx: tx.select(sa.select(secret.c.kind)))
    assert [row[0] for row in left if row[0] != "user_data"] == []
    assert world.run(*world.accept("server_unrescue")) == "done"
    guest, row = world.guests.find(world.server)[1], world.row()
    world.close()
    assert (guest.disks, guest.drives) == (("root", "swap"), {})
    assert (row["vm_state"], guest_orders.system_of(row).rescue) == ("active", None)


def test_a_stable_rescue(tmp_path: Path) -> None:
    """An image with hw_rescue_device: the guest's own disks stay first, the rescue disk comes behind them."""
    world = ServerWorld(tmp_path, "server_rescue")
    image = world.image("tools", hw_rescue_device="cdrom", hw_rescue_bus="sata")
    world.engine().open()
    found = accept.find_server(world.services, CONTEXT, world.server)
    operation = server_rescue.start(world.services, CONTEXT, found, image.id, "n3w")
    assert world.run("cell1", operation) == "done"
    guest = world.guests.find(world.server)[1]
    world.close()
    assert guest.disks == ("root", "swap", "rescue")
    assert guest.images["rescue"] == image.id


def test_a_host_that_goes_down_in_a_rescue(tmp_path: Path) -> None:
    """R4: unwound at once; what the host may have done is taken back when it returns."""
    world = ServerWorld(tmp_path, "server_rescue")
    begun = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(*begun) == "failed"
    back()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_delete_of_a_rescued_server(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_unrescue")
    assert world.run(*world.accept("server_delete")) == "done"
    clean = plus(world.before, deleted(world.shape, "rescued"), {"disk": -1})
    ledger = world.ledger()
    world.close()
    assert ledger == clean
