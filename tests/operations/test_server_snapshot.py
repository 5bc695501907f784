"""createImage and createBackup under faults: an active image, or none, no copy on the host, the server as it was."""

from pathlib import Path

import pytest

from kilonova.common.errors import Conflict
from kilonova.image.embedded.store import Settings
from kilonova.objects.guest import PowerState
from kilonova.operations import accept, server_snapshot, snapshots
from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import CONTEXT, ServerWorld, saga_of

KINDS = ("server_snapshot", "server_backup")
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


@pytest.mark.parametrize("fault", ["snapshot_fail", "snapshot_no_room"])
def test_the_host_cannot_copy(fault: str, tmp_path: Path) -> None:
    """A full disk in the middle of a copy leaves nothing, and the tenant reads why in safe words."""
    world = ServerWorld(tmp_path, "server_snapshot")
    world.guests.faults.set(fault)
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    assert world.guests.faults.hits[fault] == 1
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_the_image_service_has_no_room(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_snapshot")
    world.images.settings = Settings(image_size_limit=1000)
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_a_host_that_is_down(tmp_path: Path) -> None:
    """R4: the image is gone at once; the copy goes when the host is back."""
    world = ServerWorld(tmp_path, "server_snapshot")
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(home, operation) == "failed"
    back()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_delete_while_the_copy_hangs(tmp_path: Path) -> None:
    """The delete ends the snapshot: no image, no copy, no server."""
    world = ServerWorld(tmp_path, "server_snapshot")
    world.guests.faults.set("snapshot_hang")
    begun = world.begin()
    engine = world.engines[-1]
    engine.nudge(*begun)
    for _ in range(50):
        engine.step_once()
        world.bus.pump()
    assert world.guests.faults.hits["snapshot_hang"] > 0
    assert world.run(*world.accept("server_delete")) == "done"
    gone = {
        "action:createImage:Error": 1,
        "event:compute_snapshot_instance:Error": 1,
        "operation:server_snapshot:cancelled": 1,
    }
    ledger, clean = world.ledger(), plus(world.before, deleted(world.shape), gone)
    world.close()
    assert ledger == clean


def test_the_image_says_where_it_is_from(tmp_path: Path) -> None:
    """source: Nova, what a snapshot inherits; the disk format is the driver's word."""
    world = ServerWorld(tmp_path, "server_snapshot")
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    (image,) = world.images.made_with(CONTEXT.project_id or "", {"instance_uuid": world.server})
    row = world.row()
    world.close()
    assert (image.name, image.status, image.visibility) == ("copy", "active", "private")
    assert (image.disk_format, image.container_format, image.min_disk) == ("qcow2", "bare", 1)
    assert image.virtual_size == 1 << 30
    wanted = {"image_type": "snapshot", "base_image_ref": row["image_id"], "k": "v"}
    assert wanted.items() <= image.properties.items()
    assert (row["vm_state"], row["power_state"]) == ("active", PowerState.RUNNING)


def test_a_refused_accept_leaves_no_image(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_snapshot")
    world.begin()
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(Conflict, match="Cannot 'create_image' instance"):
        snapshots.start(world.services, CONTEXT, server_snapshot.SAGA, found, "second", {})
    assert world.ledger()["image:queued"] == 1
    world.close()
