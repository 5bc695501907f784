"""Operations on volumes under faults: done, or what each promises when it is unwound, and nothing else anywhere."""

from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest, Unavailable
from kilonova.objects.volume import Connector, FileConnection, NbdConnection, VolumeWanted
from kilonova.reconcile import audit
from kilonova.saga.definition import Saga
from kilonova.volume.interface import NotReady
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import PROJECT, saga_of
from tests.operations.volume_world import NEEDS, SAGAS, VolumeWorld, left_out


def saga(kind: str) -> Saga:
    """Return the definition behind a kind of case."""
    return saga_of(SAGAS.get(kind, kind))


CASES = [(kind, case) for kind in NEEDS for case in points_of(saga(kind), skip=left_out(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(VolumeWorld(tmp_path, kind), saga(kind), case)


@pytest.mark.parametrize("seed", range(55))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = list(NEEDS)[seed % len(NEEDS)]
    check_case(
        VolumeWorld(tmp_path, kind), saga(kind), random_pair(saga(kind), seed), all_hit=False
    )


def test_a_volume_moves_and_comes_back(tmp_path: Path) -> None:
    """The data are at one host only; one that was down still removes its old ones, and gets none before it has."""
    world = VolumeWorld(tmp_path, "volume_migrate")
    first = world.row()["host"]
    home, operation = world.begin()
    assert world.row()["status"] == "maintenance"
    with pytest.raises(BadRequest, match="status must be available"):
        world.volumes.ensure_attachment(("a" * 32, "v"), volume_id=world.volume, server_id="s1")
    engine = world.engines[-1]
    engine.nudge(home, operation)
    world.guests.faults.set("volume_remove_fail")
    for _ in range(50):
        engine.run_until_idle(advance=False)
        if world.row()["host"] != first:
            break
        world.clock.advance(0.5)
    assert world.row()["migration_status"] == "completing"
    back = world.fall_silent(first)
    assert world.run(home, operation) == "done"
    row = world.row()
    assert (row["status"], row["migration_status"], row["host"] != first) == (
        "available",
        "success",
        True,
    )
    assert (world.ledger()["room"], world.ledger()["cleanup"]) == (4, 1)
    world.guests.faults.clear()
    back()
    home, again = world.accept("volume_migrate")
    assert (
        world.run(home, again) == "failed"
    )  # what is old there would be removed by and by, and the new with it
    assert world.row()["migration_status"] == "error"
    world.volumes.send_cleanups()
    world.settle()
    home, again = world.accept("volume_migrate")
    assert world.run(home, again) == "done"
    assert world.row()["host"] == first
    ledger = world.ledger()
    world.close()
    assert (ledger["volume file"], ledger["room"], ledger["export"], ledger["cleanup"]) == (
        1,
        2,
        0,
        0,
    )


def test_a_delete_ends_a_migration(tmp_path: Path) -> None:
    """Compute's delete of a volume that migrates: nothing is left on either host."""
    world = VolumeWorld(tmp_path, "volume_migrate")
    world.guests.faults.set("volume_hang")
    home, operation = world.begin()
    engine = world.engines[-1]
    engine.nudge(home, operation)
    engine.run_until_idle(advance=False)
    assert world.row()["migration_status"] == "migrating"
    assert world.volumes.remove_volume(volume_id=world.volume) == 1
    world.guests.faults.clear()
    engine.run_until_idle(limit=10_000)
    ledger = world.ledger()
    world.close()
    assert not [k for k in ("volume file", "part file", "room", "export") if ledger[k]]


def test_a_host_that_is_down_holds_up_no_delete(tmp_path: Path) -> None:
    """R4: the volume is gone at once, its room is held; the file goes when the host is back."""
    world = VolumeWorld(tmp_path, "volume_delete")
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(home, operation) == "done"
    ledger = world.ledger()
    assert (world.row(), ledger["cleanup"], ledger["room"], ledger["volume file"]) == (
        None,
        1,
        2,
        1,
    )
    waiting = [f for f in audit.run(world.services) if f["kind"] == "cleanup_waiting"]
    assert [f["subject"] for f in waiting] == [world.volume]
    back()
    world.volumes.send_cleanups()
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_another_host_makes_it(tmp_path: Path) -> None:
    """A host that goes down while it makes a volume: another one makes it, nothing is left on the first."""
    world = VolumeWorld(tmp_path, "volume_create")
    back = world.fall_silent("cell1-host1")
    world.hosts.set_service("cell1-host1", forced_down=False)  # nobody knows it yet
    home, operation = world.begin()
    engine = world.engines[-1]
    engine.nudge(home, operation)
    engine.run_until_idle(advance=False)
    assert world.row()["host"] == "cell1-host1"
    world.hosts.set_service("cell1-host1", forced_down=True)
    assert world.run(home, operation) == "done"
    assert world.row()["host"] == "cell1-host2"
    back()
    world.volumes.send_cleanups()
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_a_delete_overtakes_what_runs(tmp_path: Path) -> None:
    """A create that hangs is cancelled; the delete waits for its end, and leaves nothing."""
    world = VolumeWorld(tmp_path, "volume_create")
    world.guests.faults.set("volume_hang")
    home, create = world.begin()
    engine = world.engines[-1]
    engine.nudge(home, create)
    engine.run_until_idle(advance=False)
    assert world.row()["status"] == "creating"
    assert world.volumes.remove_volume(volume_id=world.volume) == 1
    world.guests.faults.clear()
    engine.run_until_idle(limit=10_000)
    assert engine.wait(home, create, 0.0) == "cancelled"
    ledger = world.ledger()
    world.close()
    assert (world.has_data, ledger["volume file"], ledger["room"], ledger["part file"]) == (
        False,
        0,
        0,
        0,
    )
    assert not [k for k in ledger if k.startswith("volume:")]


def test_a_server_that_lost_its_host_leaves_no_export(tmp_path: Path) -> None:
    """A connection waits until the export before it is not in force any more: never two writers."""
    world = VolumeWorld(tmp_path, "volume_delete")
    host = world.row()["host"]
    other = "cell1-host2" if host == "cell1-host1" else "cell1-host1"
    service = world.volumes
    old = service.ensure_attachment(("a" * 32, "v"), volume_id=world.volume, server_id="s1")
    with pytest.raises(NotReady):
        service.connect(old.id, Connector(host=other))
    world.settle()
    assert isinstance(service.connect(old.id, Connector(host=other)), NbdConnection)
    assert world.ledger()["export"] == 1
    service.complete(old.id)
    new = service.ensure_attachment(("b" * 32, "v"), volume_id=world.volume, server_id="s1")
    service.remove_attachment(attachment_id=old.id)
    with pytest.raises(NotReady):
        service.connect(new.id, Connector(host=host))
    world.settle()
    found = service.connect(new.id, Connector(host=host))
    assert isinstance(found, FileConnection) and world.ledger()["export"] == 0
    world.close()


def test_a_volume_on_a_host_that_is_down(tmp_path: Path) -> None:
    """R4: whoever wants to reach it hears so; what was asked of it ends as it must, and says why."""
    world = VolumeWorld(tmp_path, "volume_extend")
    host = world.row()["host"]
    other = "cell1-host2" if host == "cell1-host1" else "cell1-host1"
    home, operation = world.begin()
    back = world.fall_silent(host)
    assert world.run(home, operation) == "failed"
    assert (world.row()["status"], world.row()["size_gib"]) == ("available", 2)
    held = world.volumes.ensure_attachment(("a" * 32, "v"), volume_id=world.volume, server_id="s1")
    with pytest.raises(Unavailable, match="does not answer"):
        world.volumes.connect(held.id, Connector(host=other))
    back()
    world.settle()
    assert isinstance(world.volumes.connect(held.id, Connector(host=other)), NbdConnection)
    world.close()


def test_a_key_is_free_again_while_its_volume_is_deleted(tmp_path: Path) -> None:
    """An operation that was undone and goes forward again gets a volume of its own."""
    world = VolumeWorld(tmp_path, "volume_create")
    world.engine().open()
    key = ("a" * 32, "volume0")
    wanted = VolumeWanted(project_id=PROJECT, user_id="u", size_gib=1)
    first = world.volumes.ensure_volume(key, wanted)
    assert world.volumes.remove_volume(key=key) == 1
    second = world.volumes.ensure_volume(key, wanted)
    assert second.id != first.id and world.volumes.ensure_volume(key, wanted).id == second.id
    world.engines[-1].run_until_idle()
    assert world.volumes.find(first.id) is None
    found = world.volumes.find(second.id)
    assert found is not None and found.status == "available"
    world.close()
