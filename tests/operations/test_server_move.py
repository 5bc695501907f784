"""A server gets to another host, stays there or comes back, under faults: one guest runs, and nothing is left.

OBJ-2: the orders of a cold move take and return versioned objects (kilonova/objects/move_orders.py).
"""

from pathlib import Path
from typing import Any

import pytest

from kilonova.common.config import Settings
from kilonova.common.errors import BadRequest, Conflict
from kilonova.db import mappings, migrations
from kilonova.objects.server import ResizeParams
from kilonova.operations import accept, moving, server_migrate, states
from kilonova.placement import allocations
from kilonova.reconcile import cleanups, resizes
from kilonova.virt.fake.world import RUNS, FakeGuest
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import moved, plus
from tests.operations.server_world import CONTEXT, ServerWorld, Shape, saga_of

KINDS = ("server_migrate", "confirm_move", "revert_move")
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]
MANY = Shape(nics=2, user_port=True)


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(24))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    case = random_pair(saga_of(kind), seed)
    check_case(ServerWorld(tmp_path, kind, MANY), saga_of(kind), case, all_hit=False)


# -- where things are


def _where(world: ServerWorld) -> tuple[str, str, str]:
    """Return (row's host, mapping's host, host of what it holds); each must say the same."""
    row = world.row()
    mapping = world.services.world.read(lambda tx: mappings.find(tx, world.server))
    assert mapping is not None
    held = world.services.world.read(lambda tx: allocations.of_consumer(tx, world.server))
    names = {h.uuid: h.host for h in world.hosts.all()}
    (holder,) = {names[provider] for provider in held}
    return row["host"], mapping["host"], holder


def _guest(world: ServerWorld, host: str) -> FakeGuest:
    return world.guests.guests(host)[world.server]


def _runs(world: ServerWorld) -> set[str]:
    return {
        host
        for host in world.taps
        for guest in world.guests.guests(host).values()
        if guest.server == world.server and guest.power in RUNS
    }


def _migration(world: ServerWorld) -> Any:
    return world.databases["cell1"].read(lambda tx: migrations.of_server(tx, world.server))[-1]


def test_a_resize_to_another_host_and_back(tmp_path: Path) -> None:
    """Two claims, two guests of which one runs; reverted, everything is as before; resized again and confirmed."""
    world = ServerWorld(tmp_path, "server_migrate", MANY)
    source = world.row()["host"]
    assert world.run(*world.accept("resize_away")) == "done"
    row = world.row()
    there = row["host"]
    assert there != source and _where(world) == (there,) * 3
    assert (row["vm_state"], row["node"]) == (states.RESIZED, there)
    assert _guest(world, there).sizes["root"] == 2 and _guest(world, source).sizes["root"] == 1
    assert _runs(world) == {there}
    assert {p.host for p in world.network.ports_of([world.server])[world.server]} == {there}
    move = _migration(world)
    assert (move["kind"], move["status"]) == ("resize", "finished")
    assert (move["source_host"], move["dest_host"]) == (source, there)
    assert world.run(*world.accept("revert_move")) == "done"
    assert _where(world) == (source,) * 3 and _runs(world) == {source}
    assert world.server not in world.guests.guests(there)
    assert world.row()["vm_state"] == states.ACTIVE and '"vcpus":1' in world.row()["flavor"]
    assert world.run(*world.accept("resize_away")) == "done"
    assert world.run(*world.accept("confirm_move")) == "done"
    ledger, found = world.ledger(), _where(world)
    world.close()
    assert found == (there,) * 3 and world.server not in world.guests.guests(source)
    assert (
        ledger["guest"] == 1
        and ledger["held:VCPU"] == 2
        and ledger["image:active"] == world.before["image:active"]
    )


def test_a_host_that_cannot_sends_it_on(tmp_path: Path) -> None:
    """Alternates: the copies are made once, the claim follows, and what the first host had of it is gone."""
    world = ServerWorld(tmp_path, "server_migrate", hosts=3)
    world.guests.faults.set("build_fail_once")
    source = world.row()["host"]
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits["build_fail_once"] == 1
    there = world.row()["host"]
    assert there != source and _where(world) == (there,) * 3
    assert _migration(world)["dest_host"] == there
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_no_host_can(tmp_path: Path) -> None:
    """It is as it was: on its source, running, with a fault; two hosts were tried."""
    world = ServerWorld(tmp_path, "server_migrate", hosts=3)
    world.guests.faults.set("build_fail_everywhere")
    source = world.row()["host"]
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits["build_fail_everywhere"] == 2
    ledger, clean, found, runs = world.ledger(), world.clean("failed"), _where(world), _runs(world)
    world.close()
    assert ledger == clean and found == (source,) * 3 and runs == {source}


def test_the_only_host(tmp_path: Path) -> None:
    """A cold migration never stays where it is; nothing was touched."""
    world = ServerWorld(tmp_path, "server_migrate", hosts=1)
    assert world.run(*world.begin()) == "failed"
    ledger, clean, boots = world.ledger(), world.clean("failed"), _guest(world, "cell1-host1").boots
    world.close()
    assert ledger == clean and boots == 1


def test_to_a_host_that_is_named(tmp_path: Path) -> None:
    """2.56: exactly there, or not at all."""
    world = ServerWorld(tmp_path, "server_migrate", hosts=4)
    source = world.row()["host"]
    wanted = sorted({h.host for h in world.hosts.all()} - {source})[1]
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(BadRequest, match="Cannot migrate to the host where the server exists"):
        server_migrate.start(world.services, CONTEXT, found, host=source)
    with pytest.raises(BadRequest, match="Compute host nowhere could not be found"):
        server_migrate.start(world.services, CONTEXT, found, host="nowhere")
    world.guests.faults.set("build_fail_once", host=wanted)
    world.engine().open()
    assert (
        world.run("cell1", server_migrate.start(world.services, CONTEXT, found, host=wanted))
        == "failed"
    )
    assert world.row()["host"] == source
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert (
        world.run("cell1", server_migrate.start(world.services, CONTEXT, found, host=wanted))
        == "done"
    )
    host = world.row()["host"]
    world.close()
    assert host == wanted


@pytest.mark.parametrize("end", ["confirm_move", "revert_move"])
def test_a_stopped_server_stays_stopped(end: str, tmp_path: Path) -> None:
    """Its disks go along all the same; nothing starts it."""
    world = ServerWorld(tmp_path, "server_migrate", setup=("server_stop",))
    assert world.run(*world.begin()) == "done"
    assert _runs(world) == set() and world.row()["power_state"] == 4
    assert world.run(*world.accept(end)) == "done"
    row, runs = world.row(), _runs(world)
    world.close()
    assert (row["vm_state"], row["power_state"], runs) == (states.STOPPED, 4, set())


@pytest.mark.parametrize(
    "shape", [Shape(boot=True), Shape(own=1), Shape(boot=True, own=2)], ids=str
)
@pytest.mark.parametrize("end", ["confirm_move", "revert_move"])
def test_volumes_go_along(end: str, shape: Shape, tmp_path: Path) -> None:
    """One writer at every moment, whichever host it is; a root disk that is a volume is not copied."""
    world = ServerWorld(tmp_path, "server_migrate", shape)
    source = world.row()["host"]
    assert world.run(*world.begin()) == "done"
    there = world.row()["host"]
    assert world.ledger() == world.clean("done")
    volumes = _guest(world, there).volumes
    assert len(volumes) == shape.made + shape.own
    assert {world.guests.writer(v) for v in volumes} == {(there, world.server)}
    assert world.run(*world.accept(end)) == "done"
    host = there if end == "confirm_move" else source
    assert {world.guests.writer(v) for v in volumes} == {(host, world.server)}
    ledger = world.ledger()
    world.close()
    clean = plus(world.before, moved("server_migrate", "done", shape), moved(end, "done", shape))
    assert ledger == clean and world.guests.second_writers == []


@pytest.mark.parametrize("end", ["confirm_move", "revert_move"])
@pytest.mark.parametrize("change", ["volume_attach", "volume_detach"])
def test_volumes_of_a_server_that_waits(change: str, end: str, tmp_path: Path) -> None:
    """Attached or detached in VERIFY_RESIZE, it stays so through the confirm and the revert."""
    setup = ("volume_attach",) if change == "volume_detach" else ()
    world = ServerWorld(tmp_path, "server_migrate", Shape(spare=1), setup=setup)
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept(change)) == "done"
    assert world.run(*world.accept(end)) == "done"
    guest, row, writer = (
        _guest(world, world.row()["host"]),
        world.row(),
        world.guests.writer(world.spare()),
    )
    world.close()
    wanted = (world.spare(),) if change == "volume_attach" else ()
    assert guest.volumes == wanted and world.guests.second_writers == []
    assert (world.spare() in row["disks"]) == bool(wanted)
    assert writer == ((row["host"], world.server) if wanted else None)


# -- hosts that do not answer


def test_a_source_that_is_down_is_refused(tmp_path: Path) -> None:
    """Its disks cannot be had: 409 in Nova's words."""
    world = ServerWorld(tmp_path, "server_migrate")
    world.fall_silent(world.row()["host"])
    with pytest.raises(Conflict, match="Service is unavailable"):
        world.begin()
    world.close()


@pytest.mark.parametrize("kind", ["server_migrate", "revert_move"])
@pytest.mark.parametrize("who", ["source", "destination"])
def test_a_host_goes_down_on_the_way(who: str, kind: str, tmp_path: Path) -> None:
    """R4, R17: it ends; what the silent host owes is done when it is back, and then nothing is left."""
    world = ServerWorld(tmp_path, kind)
    here, other = (
        world.row()["host"],
        ({h.host for h in world.hosts.all()} - {world.row()["host"]}).pop(),
    )
    home, operation = world.begin()
    back = world.fall_silent(here if (who == "source") == (kind == "server_migrate") else other)
    fenced = (kind, who) == ("revert_move", "destination")  # it is forced down: nothing runs there
    state = world.run(home, operation)
    assert state == ("done" if fenced else "failed")
    assert world.row()["task_state"] is None and (world.row()["host"] == here) != fenced
    if fenced:
        world.guests.reboot(here)  # what fencing does
        here = other
    back()
    cleanups.run(world.services)
    ledger, clean, runs = world.ledger(), world.clean(state), _runs(world)
    world.close()
    assert ledger == clean and runs == {here}


def test_a_confirm_while_the_source_is_down(tmp_path: Path) -> None:
    """R17: done at once for the user; the source's claim stands until it has removed the guest."""
    world = ServerWorld(tmp_path, "confirm_move")
    before = world.ledger()
    back = world.fall_silent(_migration(world)["source_host"])
    assert world.run(*world.begin()) == "done"
    owed = world.ledger()
    assert owed["held:VCPU"] == before["held:VCPU"] and owed["cleanup:cell1"] == 1
    assert world.row()["vm_state"] == states.ACTIVE
    back()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_a_host_that_owes_a_cleanup_is_not_chosen(tmp_path: Path) -> None:
    """R14: the files of the server's earlier life there are never taken for its own."""
    world = ServerWorld(tmp_path, "confirm_move")
    back = world.fall_silent(_migration(world)["source_host"])
    assert world.run(*world.begin()) == "done"
    back()
    assert world.run(*world.accept("server_migrate")) == "failed", "the cleanup comes first"
    cleanups.run(world.services)
    world.settle()
    assert world.run(*world.accept("server_migrate")) == "done"
    world.close()


@pytest.mark.parametrize("down", [None, "source_host", "dest_host"])
def test_delete_of_a_moved_server_leaves_nothing(down: str | None, tmp_path: Path) -> None:
    """R17: both guests, both claims, the migration."""
    world = ServerWorld(tmp_path, "confirm_move", Shape(own=1))
    back = None if down is None else world.fall_silent(_migration(world)[down])
    assert world.run(*world.accept("server_delete")) == "done"
    if back is not None:
        assert world.ledger()["held:VCPU"] > 0
        back()
        cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    held = ("held", "guest", "disk", "kept", "consumer", "nic", "tap", "cleanup", "attachment")
    assert {k: v for k, v in ledger.items() if k.startswith(held)} == {}
    assert ledger["migration:confirmed"] == 1 and ledger["volume:user:available"] == 1


def test_a_delete_on_the_way(tmp_path: Path) -> None:
    """The move unwinds at its next step, then the server is deleted; nothing is left of either."""
    world = ServerWorld(tmp_path, "server_migrate")
    world.guests.faults.set("snapshot_hang")
    home, operation = world.begin()
    world.engines[-1].nudge(home, operation)
    with pytest.raises(RuntimeError, match="does not come to rest"):
        world.engines[-1].run_until_idle(limit=500)
    assert world.guests.faults.hits["snapshot_hang"]
    assert world.run(*world.accept("server_delete")) == "done"
    ledger = world.ledger()
    world.close()
    held = ("held", "guest", "disk", "kept", "consumer", "nic", "tap", "cleanup", "copy")
    assert {k: v for k, v in ledger.items() if k.startswith(held)} == {}
    assert ledger["image:active"] == world.before["image:active"]


@pytest.mark.parametrize("who", ["source_host", "dest_host"])
def test_a_reboot_starts_only_the_guest_that_counts(who: str, tmp_path: Path) -> None:
    """R14: an agent of another boot starts what is placed on it; what a move left there stays off and stays there."""
    world = ServerWorld(tmp_path, "confirm_move")
    move = _migration(world)
    world.reboot(move[who])
    runs, there = _runs(world), world.server in world.guests.guests(move["source_host"])
    world.close()
    assert runs == {move["dest_host"]} and there


@pytest.mark.parametrize(
    ("kind", "fault", "state"),
    [
        ("server_migrate", "power_fail", "failed"),
        ("server_migrate", "snapshot_fail", "failed"),
        ("server_migrate", "snapshot_no_room", "failed"),
        ("server_migrate", "copy_disk_fail", "failed"),
        ("server_migrate", "build_fail", "failed"),
        ("confirm_move", "delete_fail_once", "done"),
        ("revert_move", "power_fail", "failed"),
        ("revert_move", "revert_fail", "failed"),
        ("revert_move", "delete_fail_once", "done"),
    ],
)
def test_the_host_cannot(kind: str, fault: str, state: str, tmp_path: Path) -> None:
    """R15: what a host cannot do is taken back; past the point of no return it is done until it works."""
    world = ServerWorld(tmp_path, kind, MANY)
    world.guests.faults.set(fault, times=1)
    assert world.run(*world.begin()) == state
    assert world.guests.faults.hits[fault] == 1
    ledger, clean = world.ledger(), world.clean(state)
    world.close()
    assert ledger == clean


def test_a_forgotten_move_is_confirmed_by_itself(tmp_path: Path) -> None:
    """As a resize is: after the window, and no earlier."""
    world = ServerWorld(tmp_path, "confirm_move")
    world.engine().open()
    world.services.settings = {"settings": Settings(resize_confirm_window_s=60.0)}
    resizes.run(world.services)
    assert world.row()["task_state"] is None, "not yet"
    world.clock.advance(61.0)
    resizes.run(world.services)
    world.engines[-1].run_until_idle(limit=10_000)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_a_journal_of_a_release_that_knew_no_other_host() -> None:
    """R18: a resize whose claim was recorded before stays on its host, and ends."""
    params = ResizeParams(server_id="s")
    assert moving.stays(params, {"claim": {"host": "cell1-host1"}})
    assert moving.has_no_disks(params, {"claim": {"host": "cell1-host1"}})
