"""Live migration under faults: the server runs on one host at every moment, nothing is left on another (R1, R13)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import BadRequest, Conflict
from kilonova.db import migrations
from kilonova.objects.guest import PowerState
from kilonova.objects.live_orders import LiveWhere
from kilonova.objects.query import LiveMove
from kilonova.operations import accept, live_migrate, live_moves, live_steering, states
from kilonova.reconcile import cleanups
from kilonova.saga.definition import Saga
from kilonova.saga.faults import AFTER, BEFORE, ERROR, LOST, Fault, Faults
from kilonova.saga.state import DO, DONE, FAILED
from kilonova.virt.fake.world import FakeGuest
from tests.ledger import Ledger
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import plus
from tests.operations.server_world import CONTEXT, ServerWorld, Shape, saga_of

SAGA = saga_of("live_migrate")
LOCAL = Shape(nics=2, user_port=True)
BACKED = Shape(boot=True, own=1)
SHAPES = {"local": LOCAL, "volume-backed": BACKED}
TRIGGER = Fault("migrate", DO, BEFORE, ERROR)  # the guest has not begun to move


class Moving(ServerWorld):
    """A cloud with a server that moves; no volume ever had two writers."""

    def clean(self, state: str) -> Mapping[str, int]:
        """One server, on one host; history."""
        assert self.guests.second_writers == []
        assert self.guests.moves == {}
        return plus(self.before, history(state))

    def other(self) -> str:
        """Return the host that the server is not on."""
        here = self.row()["host"]
        return next(h.host for h in self.hosts.all() if h.host != here)

    def other_of(self, server: str) -> str:
        """Return the host that a server is not on."""
        here = self.guests.find(server)[0]
        return next(h.host for h in self.hosts.all() if h.host != here)

    def migration(self) -> str:
        """Return the status of the newest migration."""
        rows = self.databases["cell1"].read(lambda tx: migrations.of_server(tx, self.server))
        return str(rows[-1]["status"])


def history(state: str, status: str | None = None) -> dict[str, int]:
    """What a live migration leaves for good."""
    ok, event = ("ok", "Success") if state == DONE else ("Error", "Error")
    return {
        f"action:live-migration:{ok}": 1,
        f"event:compute_live_migration:{event}": 1,
        f"operation:live_migrate:{state}": 1,
        f"migration:{status or ('completed' if state == DONE else 'error')}": 1,
        "fault:cell1": 1 if state == FAILED else 0,
    }


def merged(found: Ledger) -> Ledger:
    """Count both statuses of one that failed as one: which it is depends on how far it came."""
    found["migration:error"] += found.pop("migration:failed", 0)
    return +found


class Merged(Moving):
    def ledger(self) -> Ledger:
        return merged(super().ledger())


def end_of(case: Case, saga: Saga = SAGA) -> str:
    """Return how a live move must end: what is seen to have arrived is not taken back."""
    for f in case:
        if f.kind != ERROR or f.direction != DO or f.when not in (BEFORE, AFTER):
            continue
        if saga.positions[f.step] < saga.positions["migrate"]:
            return FAILED
        if f.step == "migrate" and f.when == BEFORE:
            return FAILED
    return DONE


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", points_of(SAGA, trigger=TRIGGER), ids=case_id)
def test_one_fault(case: Case, shape: str, tmp_path: Path) -> None:
    """R1, R13"""
    world = Merged(tmp_path, "live_migrate", SHAPES[shape])
    check_case(world, SAGA, case, states=[end_of(case)])


@pytest.mark.parametrize("seed", range(24))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    world = Merged(tmp_path, "live_migrate", BACKED if seed % 2 else LOCAL)
    check_case(world, SAGA, random_pair(SAGA, seed), all_hit=False)


# -- what the hosts do


def moves_to(world: Moving) -> str:
    """Accept a live migration to the other host; return that."""
    target = world.other()
    found = accept.find_server(world.services, CONTEXT, world.server)
    live_migrate.start(world.services, CONTEXT, found, host=target)
    return target


def test_it_moves_and_nothing_else_changes(tmp_path: Path) -> None:
    """R13: same addresses, devices and disks; its volumes are written from the new host alone."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    before, target = world.row(), world.other()
    assert world.run(*world.begin()) == "done"
    row = world.row()
    assert row["host"] == target and row["vm_state"] == states.ACTIVE
    for kept in ("addresses", "nics", "devices", "hardware", "power_state"):
        assert row[kept] == before[kept], kept
    host, guest = world.guests.find(world.server)
    assert (host, guest.boots) == (target, 1), "it did not boot again"
    assert {world.guests.writer(v) for v in guest.volumes} == {(target, world.server)}
    assert world.ledger() == world.clean("done")
    assert world.migration() == "completed"
    world.close()


def test_there_and_back(tmp_path: Path) -> None:
    """OBJ-4: both ways."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    first = world.row()["host"]
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("live_migrate")) == "done"
    row, ledger = world.row(), world.ledger()
    world.close()
    assert row["host"] == first
    assert ledger == plus(world.before, history("done"), history("done"))


def test_a_paused_server_stays_paused(tmp_path: Path) -> None:
    world = Moving(tmp_path, "live_migrate", setup=("server_pause",))
    assert world.run(*world.begin()) == "done"
    row = world.row()
    world.close()
    assert (row["vm_state"], row["power_state"]) == (states.PAUSED, PowerState.PAUSED)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "fault",
    [
        "live_check_destination_fail",
        "live_check_source_fail",
        "live_prepare_fail",
        "live_migrate_fail",
    ],
)
def test_the_host_cannot(fault: str, shape: str, tmp_path: Path) -> None:
    """R1: the server is as it was, with a fault; the guest never stopped."""
    world = Merged(tmp_path, "live_migrate", SHAPES[shape])
    before = world.row()["host"]
    world.guests.faults.set(fault)
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits[fault] >= 1
    row, ledger, clean = world.row(), world.ledger(), world.clean("failed")
    assert (row["host"], row["vm_state"], row["task_state"]) == (before, states.ACTIVE, None)
    assert world.guests.find(world.server)[1].boots == 1
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("fault", ["live_leave_fail_once", "live_arrive_fail_once"])
def test_what_comes_after_is_done_until_it_works(fault: str, tmp_path: Path) -> None:
    """R1: there is no way back once the guest runs at the destination."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    world.guests.faults.set(fault)
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits[fault] == 1
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_an_undo_that_fails_is_tried_again(tmp_path: Path) -> None:
    """R1: what was prepared at the destination goes."""
    world = Merged(tmp_path, "live_migrate", BACKED)
    for fault in ("live_migrate_fail", "live_rollback_fail_once"):
        world.guests.faults.set(fault)
    world.guests.faults.set("live_rollback_destination_fail_once")
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits["live_rollback_destination_fail_once"] == 1
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


# -- the choice of a host


def test_another_host_is_tried(tmp_path: Path) -> None:
    """A destination that cannot take it sends it to the next one."""
    world = Moving(tmp_path, "live_migrate", hosts=3)
    source = world.row()["host"]
    world.guests.faults.set("live_prepare_fail", times=1)
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits["live_prepare_fail"] == 1
    row, ledger, clean = world.row(), world.ledger(), world.clean("done")
    world.close()
    assert row["host"] != source and ledger == clean


def test_the_host_that_was_asked_for(tmp_path: Path) -> None:
    world = Moving(tmp_path, "live_migrate", hosts=3)
    world.engine().open()
    target = moves_to(world)
    world.engines[-1].run_until_idle()
    row = world.row()
    world.close()
    assert row["host"] == target


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nowhere", "Compute host nowhere could not be found"),
        ("cell1-host1", "to current host"),
        ("cell1-host2", "is unavailable at this time"),
    ],
)
def test_hosts_that_are_refused(host: str, message: str, tmp_path: Path) -> None:
    """Nova's words; nothing was touched."""
    world = Moving(tmp_path, "live_migrate")
    if world.row()["host"] != "cell1-host1":
        host = {"cell1-host1": "cell1-host2", "cell1-host2": "cell1-host1"}.get(host, host)
    if "unavailable" in message:
        world.hosts.set_service(host, forced_down=True)
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(BadRequest, match=message):
        live_migrate.start(world.services, CONTEXT, found, host=host)
    assert world.row()["task_state"] is None
    world.close()


def test_no_other_host(tmp_path: Path) -> None:
    """No valid host: at once where it is asked for, else in the fault."""
    world = Merged(tmp_path, "live_migrate", hosts=1)
    world.engine().open()
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(Conflict, match="No valid host") as refused:
        live_migrate.start(world.services, CONTEXT, found, dry=True)
    assert refused.value.message
    assert world.run(*world.begin()) == "failed"
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize(
    ("shape", "block", "ok"),
    [
        ("local", None, True),
        ("local", True, True),
        ("local", False, False),
        ("volume-backed", False, False),  # its swap disk is local
    ],
)
def test_block_or_shared(shape: str, block: bool | None, ok: bool, tmp_path: Path) -> None:
    """source: compute API, os-migrateLive block_migration."""
    world = Merged(tmp_path, "live_migrate", SHAPES[shape])
    world.engine().open()
    found = accept.find_server(world.services, CONTEXT, world.server)
    live_migrate.start(world.services, CONTEXT, found, block=block)
    world.engines[-1].run_until_idle()
    ledger, clean = world.ledger(), world.clean("done" if ok else "failed")
    world.close()
    assert ledger == clean


# -- hosts that fall silent


def test_the_source_dies_once_the_guest_has_left(tmp_path: Path) -> None:
    """It arrived, as the destination says; what the source has of it goes when it is back."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    source, target = world.row()["host"], world.other()
    home, operation = world.begin()
    back: list[Callable[[], None]] = []
    switch = world.guests.switch

    def and_die(*args: Any) -> FakeGuest:
        there = switch(*args)
        back.append(world.fall_silent(source))
        return there

    world.guests.switch = and_die  # type: ignore[method-assign, assignment]
    lost = Faults(Fault("migrate", DO, AFTER, LOST))
    assert world.run(home, operation, lost) == "done"
    row = world.row()
    assert row["host"] == target and row["task_state"] is None and back
    assert world.guests.second_writers == []
    back[0]()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("dies", ["source", "destination"])
@pytest.mark.parametrize("verb", ["live_prepare_hang", "live_migrate_hang"])
def test_a_host_dies_before_it_arrives(dies: str, verb: str, tmp_path: Path) -> None:
    """R4: the server is where it was; the dead host cleans up when it is back."""
    world = Merged(tmp_path, "live_migrate", BACKED)
    source, target = world.row()["host"], world.other()
    world.guests.faults.set(verb)
    home, operation = world.begin()
    engine = world.engines[-1]
    engine.nudge(home, operation)
    while not world.guests.faults.hits.get(verb):
        engine.run_until_idle(advance=False)
        world.clock.advance(0.3)
    back = world.fall_silent(source if dies == "source" else target)
    world.guests.moves.clear()  # the connection broke
    for host in (source, target):
        there = world.guests.guests(host).get(world.server)
        if there is not None and there.moving == "coming":
            world.guests.drop(host, world.server)
    world.guests.faults.clear()
    world.guests.faults.set("live_migrate_fail")
    world.clock.advance(20.0)
    assert world.run(home, operation) == "failed"
    assert world.row()["host"] == source and world.row()["task_state"] is None
    back()
    cleanups.run(world.services)
    world.settle()
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


# -- steered


def _drive(world: Moving, done: Callable[[], bool]) -> None:
    """Let time pass until something is so."""
    for _ in range(200):
        world.engines[-1].run_until_idle(advance=False)
        if done():
            return
        world.clock.advance(0.3)
    raise AssertionError("it never came to that")


def _until(world: Moving, status: str) -> tuple[str, str]:
    home, operation = world.begin()
    world.engines[-1].nudge(home, operation)
    _drive(world, lambda: world.migration() == status)
    return home, operation


def test_abort(tmp_path: Path) -> None:
    """source: compute API 2.24: the server stays, its migration is cancelled; no fault."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    world.guests.faults.set("live_migrate_hang")
    home, operation = _until(world, "running")
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    live_steering.abort(world.services, found, str(row["id"]), early=False)
    assert world.run(home, operation) == "cancelled"
    ledger = world.ledger()
    clean = plus(world.before, history("cancelled", "cancelled"))
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("early", [False, True])
def test_abort_in_line(early: bool, tmp_path: Path) -> None:
    """source: compute API 2.65: what waits, or is prepared, can be aborted from then on."""
    world = Moving(tmp_path, "live_migrate")
    world.guests.faults.set("live_prepare_hang")
    home, operation = _until(world, "preparing")
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    if not early:
        with pytest.raises(BadRequest, match=r"is preparing\. Cannot abort live migration"):
            live_steering.abort(world.services, found, str(row["id"]), early=early)
        world.guests.faults.clear()
        assert world.run(home, operation) == "done"
        world.close()
        return
    live_steering.abort(world.services, found, str(row["id"]), early=early)
    assert world.run(home, operation) == "cancelled"
    ledger = world.ledger()
    clean = plus(world.before, history("cancelled", "cancelled"))
    world.close()
    assert ledger == clean


def test_an_abort_that_comes_too_late(tmp_path: Path) -> None:
    """It arrived: the migration is completed, whatever was asked."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    world.guests.faults.set("live_migrate_hang")
    home, operation = _until(world, "running")
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    build = world.guests.guests(world.other())[world.server]
    assert build.moving == "coming"
    world.guests.moves.clear()
    here = world.row()["host"]
    target = world.other()
    from kilonova.operations import guest_orders

    world.guests.switch(
        here, target, world.server, guest_orders.build_of(world.services, world.row())
    )
    live_steering.abort(world.services, found, str(row["id"]), early=False)
    world.guests.faults.clear()
    assert world.run(home, operation) == "done"
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_force_complete(tmp_path: Path) -> None:
    """source: compute API 2.22."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    world.guests.faults.set("live_migrate_hang")
    home, operation = _until(world, "running")
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    live_steering.force_complete(world.services, found, str(row["id"]))
    assert world.run(home, operation) == "done"
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_one_goes_at_a_time(tmp_path: Path) -> None:
    """The line of a source: the second one shows queued until the first has ended."""
    world = Moving(tmp_path, "live_migrate")
    first = world.server
    world.guests.faults.set("live_migrate_hang", server=first)
    running = _until(world, "running")
    here = world.row()["host"]
    for other in world.hosts.all():
        world.hosts.set_service(other.host, disabled=other.host != here)
    world.create()
    _drive(world, lambda: world.row() is not None and world.row()["vm_state"] == states.ACTIVE)
    for other in world.hosts.all():
        world.hosts.set_service(other.host, disabled=False)
    assert world.row()["host"] == here
    second = _until(world, "queued")
    world.guests.faults.clear()
    assert world.run(*running) == "done"
    assert world.run(*second) == "done"
    world.close()


def test_a_delete_ends_it(tmp_path: Path) -> None:
    """R17: nothing is left on either host."""
    world = Moving(tmp_path, "live_migrate", BACKED)
    world.guests.faults.set("live_migrate_hang")
    _until(world, "running")
    home, gone = world.accept("server_delete")
    assert world.run(home, gone) == "done"
    ledger = world.ledger()
    world.close()
    held = ("held", "guest", "disk", "volume writer", "attachment", "tap", "nic", "consumer")
    assert {k: v for k, v in ledger.items() if k.startswith(held)} == {}
    assert ledger["migration:cancelled"] == 1


# -- the decision by itself


@pytest.mark.parametrize(
    ("source", "target", "lost", "verdict"),
    [
        (LiveWhere.HERE, LiveWhere.PREPARED, False, False),
        (LiveWhere.HERE, LiveWhere.ABSENT, False, False),
        (LiveWhere.HERE, None, False, False),
        (LiveWhere.LEAVING, LiveWhere.COMING, False, None),
        (LiveWhere.LEAVING, None, False, None),
        (LiveWhere.LEFT, LiveWhere.HERE, False, True),
        (LiveWhere.LEFT, None, False, True),
        (None, LiveWhere.HERE, False, True),
        (None, LiveWhere.COMING, True, None),
        (None, LiveWhere.PREPARED, False, None),
        (None, LiveWhere.PREPARED, True, False),
        (None, None, True, None),
        (LiveWhere.ABSENT, LiveWhere.HERE, False, True),
    ],
)
def test_where_it_is_seen_decides(
    source: LiveWhere | None, target: LiveWhere | None, lost: bool, verdict: bool | None
) -> None:
    """No answer is no proof: only a host that is known to be down counts as empty."""

    def says(where: LiveWhere | None) -> LiveMove | None:
        return None if where is None else LiveMove(where=where)

    assert live_moves.arrived(says(source), says(target), source_lost=lost) is verdict
