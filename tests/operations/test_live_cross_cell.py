"""Live migration into another cell (CC-12.3): one guest, seen once, in one cell; nothing is left in the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import BadRequest, Conflict, Unavailable
from kilonova.operations import (
    accept,
    live_migrate_cross_cell,
    live_steering,
    records,
    states,
)
from kilonova.reconcile import audit, cleanups
from kilonova.saga import journal
from kilonova.saga.faults import (
    AFTER,
    BEFORE,
    ERROR,
    KILL,
    LOST,
    RECORDED,
    Fault,
    Faults,
    Killed,
)
from kilonova.saga.state import DO
from kilonova.virt.fake.world import FakeGuest
from tests.ledger import Ledger
from tests.operations.cross_cell_world import LIVE, TwoCells
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair, zombies_of
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import CONTEXT, Shape, saga_of
from tests.operations.test_cross_cell import fault_of, leave_cell, migration
from tests.operations.test_live_migrate import end_of, merged

SAGA = saga_of(LIVE)
LOCAL, BACKED = Shape(nics=2, user_port=True), Shape(boot=True, own=1)
SHAPES = {"local": LOCAL, "volume-backed": BACKED}
TRIGGER = Fault("migrate", DO, BEFORE, ERROR)  # the guest has not begun to move


class Away(TwoCells):
    """Counts both statuses of a migration that failed as one; no volume ever had two writers."""

    def ledger(self) -> Ledger:
        assert self.guests.second_writers == [] and self.guests.moves == {}
        return merged(super().ledger())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", points_of(SAGA, trigger=TRIGGER), ids=case_id)
def test_one_fault(case: Case, shape: str, tmp_path: Path) -> None:
    """R1, R13, CC-12.3"""
    check_case(Away(tmp_path, LIVE, SHAPES[shape]), SAGA, case, states=[end_of(case, SAGA)])


@pytest.mark.parametrize("seed", range(32))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b, CC-12.3"""
    world = Away(tmp_path, LIVE, BACKED if seed % 2 else LOCAL)
    check_case(world, SAGA, random_pair(SAGA, seed), all_hit=False)


class Shared(Away):
    """Its conductors have leases."""

    shared = True


@pytest.mark.parametrize("case", zombies_of(SAGA, trigger=TRIGGER)[::3], ids=case_id)
def test_a_conductor_that_slept_beyond_its_lease(case: Case, tmp_path: Path) -> None:
    """R8, CC-12.3: it wakes after another one has ended the move, and writes in no database any more."""
    check_case(Shared(tmp_path, LIVE), SAGA, case, states=[end_of(case, SAGA)])


def test_the_order_of_the_steps() -> None:
    """CC-7.6 of a live one: the copy is whole before, the mapping in the record of the guest's arrival."""
    names = [s.name for s in SAGA.steps]
    assert names.index("records") < names.index("reach") < names.index("prepare")
    assert names.index("migrate") + 1 == names.index("hide")
    assert [s.name for s in SAGA.steps if s.point_of_no_return] == ["migrate"]


# -- what goes along


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_it_goes_along(shape: str, tmp_path: Path) -> None:
    """CC-12.3, 0.1: same uuid, addresses, devices and history; no new boot; nothing to confirm; there and back."""
    world = Away(tmp_path, LIVE, SHAPES[shape])
    before = dict(world.row())
    assert world.run(*world.accept(LIVE)) == "done"
    row = dict(world.row())
    host, guest = world.guests.find(world.server)
    assert (row["host"], row["vm_state"], row["task_state"]) == (
        "cell2-host1",
        states.ACTIVE,
        None,
    )
    assert (host, guest.boots) == ("cell2-host1", 1), "it did not boot again"
    assert {world.guests.writer(v) for v in guest.volumes} <= {(host, world.server)}
    other = {"host", "node", "availability_zone", "disks", "updated_at", "epoch"}
    same = {n: row[n] for n in row if n not in other}
    assert same == {n: before[n] for n in before if n not in other}
    assert world.in_cell("cell1") is None and audit.run(world.services) == []
    moved = migration(world, "cell2")
    assert (moved["kind"], moved["status"], moved["cross_cell"]) == (
        "live-migration",
        "completed",
        1,
    )
    world.to_host = "cell1-host2"
    assert world.run(*world.accept(LIVE)) == "done"
    assert (world.row()["host"], world.in_cell("cell2")) == ("cell1-host2", None)
    assert world.run(*world.accept("server_stop")) == "done"
    world.close()


def test_a_paused_server_stays_paused(tmp_path: Path) -> None:
    world = Away(tmp_path, LIVE, setup=("server_pause",))
    assert world.run(*world.accept(LIVE)) == "done"
    row = world.row()
    world.close()
    assert (row["vm_state"], row["host"]) == (states.PAUSED, "cell2-host1")


def drive(world: Away, done: Callable[[], bool]) -> None:
    """Let time pass until something is so."""
    for _ in range(200):
        world.engines[-1].run_until_idle(advance=False)
        if done():
            return
        world.clock.advance(0.3)
    raise AssertionError("it never came to that")


def until(world: Away, status: str) -> tuple[str, str]:
    """Accept a move, and stop where its migration stands so."""
    home, operation = world.accept(LIVE)
    world.engines[-1].nudge(home, operation)
    drive(world, lambda: bool(migration(world, "cell1")["status"] == status))
    return home, operation


def test_what_its_owner_does_meanwhile_is_kept(tmp_path: Path) -> None:
    """CC-12.3, 4.7: metadata, tags and the history of a lock, made while the guest moved, are in the new cell."""
    world = Away(tmp_path, LIVE, LOCAL)
    world.guests.faults.set("live_migrate_hang")
    home, operation = until(world, "running")
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert found.mapping["cell"] == "cell1"
    records.change_server(world.services, CONTEXT, found, None, name="renamed")
    records.change_server(world.services, CONTEXT, found, "lock", locked_by="admin")
    world.guests.faults.clear()
    assert world.run(home, operation) == "done"
    row = world.row()
    from kilonova.db import actions

    told = world.databases["cell2"].read(lambda tx: actions.of_server(tx, world.server))
    world.close()
    assert (row["name"], row["locked_by"], row["host"]) == ("renamed", "admin", "cell2-host1")
    assert sorted(a["action"] for a in told) == ["create", "live-migration", "lock"]


def test_what_comes_in_the_moment_of_the_swap_is_kept(tmp_path: Path) -> None:
    """CC-12.3, 4.2: a request that found the server in its old cell writes there, or where the server is by then."""
    world = Away(tmp_path, LIVE, LOCAL)
    home, operation = world.accept(LIVE)
    stale = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(Killed):
        world.run(home, operation, Faults(Fault("migrate", DO, RECORDED, KILL)))
    world.engines[-1].abandon()
    assert stale.mapping["cell"] == "cell1"
    records.change_server(world.services, CONTEXT, stale, None, name="late")
    world.engine().open()
    assert world.run(home, operation) == "done"
    assert (world.row()["host"], world.row()["name"]) == ("cell2-host1", "late")
    records.change_server(world.services, CONTEXT, stale, None, name="later")

    def one_tag(row: Any) -> dict[str, Any]:
        return {"tags": ["later"]}

    records.change_by(world.services, CONTEXT, stale, "update tags", one_tag)
    row = world.row()
    world.close()
    assert (row["name"], row["tags"]) == ("later", '["later"]')


# -- steered


@pytest.mark.parametrize(("status", "early"), [("running", False), ("preparing", True)])
def test_abort(status: str, early: bool, tmp_path: Path) -> None:
    """CC-12.3: the server stays in its cell, its migration is cancelled; nothing is left in the other."""
    world = Away(tmp_path, LIVE, BACKED)
    world.guests.faults.set("live_migrate_hang" if status == "running" else "live_prepare_hang")
    home, operation = until(world, status)
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    live_steering.abort(world.services, found, str(row["id"]), early=early)
    assert world.run(home, operation) == "cancelled"
    ledger, clean = world.ledger(), world.clean("cancelled")
    world.close()
    assert ledger == clean


def test_force_complete(tmp_path: Path) -> None:
    world = Away(tmp_path, LIVE, BACKED)
    world.guests.faults.set("live_migrate_hang")
    home, operation = until(world, "running")
    found = accept.find_server(world.services, CONTEXT, world.server)
    (row,) = live_steering.listed(world.services, found)
    live_steering.force_complete(world.services, found, str(row["id"]))
    assert world.run(home, operation) == "done"
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_a_delete_ends_it(tmp_path: Path) -> None:
    """R17: nothing is left on either host, in either cell."""
    world = Away(tmp_path, LIVE, BACKED)
    world.guests.faults.set("live_migrate_hang")
    until(world, "running")
    home, gone = world.accept("server_delete")
    assert world.run(home, gone) == "done"
    ledger = world.ledger()
    world.close()
    held = ("held", "guest", "disk", "volume writer", "attachment", "tap", "nic", "consumer")
    assert {k: v for k, v in ledger.items() if k.startswith(held)} == {}
    assert ledger["migration:cancelled"] == ledger["deleted:cell1"] == 1


def test_a_delete_that_comes_as_it_arrives(tmp_path: Path) -> None:
    """R17: it is seen where its guest is, then it is deleted there, with one history; its old cell has nothing."""
    world = Away(tmp_path, LIVE)
    home, operation = world.accept(LIVE)
    gone: list[tuple[str, str]] = []
    switch = world.guests.switch

    def and_delete(*args: Any) -> FakeGuest:
        there = switch(*args)
        gone.append(world.accept("server_delete"))
        return there

    world.guests.switch = and_delete  # type: ignore[method-assign, assignment]
    assert world.run(home, operation) == "done"
    assert gone and gone[0][0] == "cell1"
    assert world.run(*gone[0]) == "done"
    ledger, moved = world.ledger(), world.clean("done")
    world.close()
    over = {k.replace("cell1", "cell2"): v for k, v in deleted(world.shape).items()}
    assert ledger == plus({k: v for k, v in moved.items() if v}, over)


# -- the choice of a host, and what is refused


class Three(Away):
    """One more cell to go to; the scheduler chooses."""

    cells = ("cell1", "cell2", "cell3")
    to_host = None


def test_another_host_then_another_cell(tmp_path: Path) -> None:
    """CC-5.12 of a live one: hosts that cannot take it send it on; nothing is left there."""
    world = Three(tmp_path, LIVE, hosts=1)
    leave_cell(world)
    world.guests.faults.set("live_prepare_fail", times=1)
    assert world.run(*world.accept(LIVE)) == "done"
    assert world.guests.faults.hits["live_prepare_fail"] == 1
    cell = world.row()["host"].partition("-")[0]
    ledger, clean = world.ledger(), world.clean("done")
    empty = {"cell2", "cell3"} - {cell}
    assert [world.in_cell(c) for c in empty] == [None]
    world.close()
    assert ledger == {k.replace("cell2", cell): v for k, v in clean.items() if v}


@pytest.mark.parametrize(
    "fault",
    [
        "live_check_destination_fail",
        "live_check_source_fail",
        "live_prepare_fail",
        "live_migrate_fail",
    ],
)
def test_the_host_cannot(fault: str, tmp_path: Path) -> None:
    """R1: the server is as it was, with a fault in words; the guest never stopped."""
    world = Away(tmp_path, LIVE, BACKED)
    world.guests.faults.set(fault)
    assert world.run(*world.accept(LIVE)) == "failed"
    assert world.guests.faults.hits[fault] >= 1
    ledger, clean, said = world.ledger(), world.clean("failed"), fault_of(world, "cell1")
    assert world.guests.find(world.server)[1].boots == 1
    world.close()
    assert ledger == clean and said


@pytest.mark.parametrize(
    ("fault", "done", "undone"),
    [
        (
            "live_check_source_fail",
            ["begin", "check", "place", "check_destination", "check_source"],
            ["place"],
        ),
        (
            "live_migrate_fail",
            [s.name for s in SAGA.steps][: SAGA.positions["migrate"] + 1],
            ["migrate", "prepare", "reach", "records", "place"],
        ),
    ],
)
def test_what_an_operator_reads(
    fault: str, done: list[str], undone: list[str], tmp_path: Path
) -> None:
    """CC-1.2, 12.3: what both hosts refuse they refuse before anything is made; each undo is told, in reverse order."""
    world = Away(tmp_path, LIVE)
    world.guests.faults.set(fault)
    home, operation = world.accept(LIVE)
    assert world.run(home, operation) == "failed"
    steps = world.services.world.read(lambda tx: journal.steps_of(tx, operation))
    world.close()
    assert [s["step"] for s in steps if s["direction"] == "do"] == done
    back = [s["step"] for s in steps if s["direction"] == "undo" and s["step"] != "unwound"]
    assert [s for s in back if s] == undone
    assert [bool(s["error"]) for s in steps if s["state"] == "failed"] == [True]


def test_its_own_cell_is_preferred(tmp_path: Path) -> None:
    """CC-3.9 of a live one: another cell only when that is better, its own has no host, or one there is named."""
    world = Three(tmp_path, LIVE)
    start = live_migrate_cross_cell.start
    world.engine().open()
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert start(world.services, CONTEXT, found) is None
    assert start(world.services, CONTEXT, found, host="cell1-host2") is None
    assert start(world.services, CONTEXT, found, host="nowhere") is None
    world.hosts.set_service("cell1-host2", disabled=True)
    assert world.run(*world.accept(LIVE)) == "done"
    assert world.row()["host"].partition("-")[0] != "cell1"
    world.close()


def test_what_is_refused(tmp_path: Path) -> None:
    """Nova's words, before anything is made."""
    world = Away(tmp_path, LIVE, setup=("server_stop",))
    with pytest.raises(Conflict, match="Cannot 'os-migrateLive'"):
        world.accept(LIVE)
    world.close()
    world = Away(tmp_path / "two", LIVE)
    world.hosts.set_service("cell2-host1", forced_down=True)
    with pytest.raises(BadRequest, match="is unavailable at this time"):
        world.accept(LIVE)
    world.fall_silent("cell1-host1")
    with pytest.raises(Conflict, match="Service is unavailable"):
        world.accept(LIVE)
    assert world.row()["task_state"] is None
    world.close()


def test_the_network_must_know_several_bindings(tmp_path: Path) -> None:
    """CC-3.1, 3.2 of a live one."""
    world = Away(tmp_path, LIVE)
    world.network.binding_extended = False
    assert world.run(*world.accept(LIVE)) == "failed"
    ledger, clean, said = world.ledger(), world.clean("failed"), fault_of(world, "cell1")
    world.close()
    assert ledger == clean and "binding-extended" in said


# -- hosts and cells that fall silent


def test_the_cell_that_it_leaves_dies(tmp_path: Path) -> None:
    """R11, CC-12.3: from the guest's arrival on it is seen, and settled, in its new cell; what is left goes later."""
    world = Away(tmp_path, LIVE, BACKED)
    home, operation = world.accept(LIVE)
    dead: list[str] = []
    asked: list[str] = []
    switch, cell = world.guests.switch, world.services.cell

    def and_die(*args: Any) -> FakeGuest:
        dead.append("cell1")
        return switch(*args)

    def unless_dead(name: str) -> Any:
        if name in dead:
            asked.append(name)
            raise Unavailable("The database does not answer. Try again.")
        return cell(name)

    world.guests.switch = and_die  # type: ignore[method-assign, assignment]
    world.services.cell = unless_dead  # type: ignore[method-assign]
    world.engines[-1].nudge(home, operation)
    drive(world, lambda: bool(dead) and not world.in_cell("cell2")["task_state"])  # type: ignore[index]
    row = world.row()
    assert asked and (row["host"], row["vm_state"]) == ("cell2-host1", states.ACTIVE)
    assert migration(world, "cell2")["status"] == "completed"
    assert world.in_cell("cell1") is not None, "it could not be told"
    dead.clear()
    assert world.run(home, operation) == "done"
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_the_source_dies_once_the_guest_has_left(tmp_path: Path) -> None:
    """R4: it arrived, as the destination says; what the source has of it goes when it is back."""
    world = Away(tmp_path, LIVE, BACKED)
    home, operation = world.accept(LIVE)
    back: list[Callable[[], None]] = []
    switch = world.guests.switch

    def and_die(*args: Any) -> FakeGuest:
        there = switch(*args)
        back.append(world.fall_silent("cell1-host1"))
        return there

    world.guests.switch = and_die  # type: ignore[method-assign, assignment]
    lost = Faults(Fault("migrate", DO, AFTER, LOST))
    assert world.run(home, operation, lost) == "done"
    row = world.row()
    assert row["host"] == "cell2-host1" and row["task_state"] is None and back
    back[0]()
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("dies", ["cell1-host1", "cell2-host1"])
@pytest.mark.parametrize("verb", ["live_prepare_hang", "live_migrate_hang"])
def test_a_host_dies_before_it_arrives(dies: str, verb: str, tmp_path: Path) -> None:
    """R4: the server is where it was; the dead host cleans up when it is back."""
    world = Away(tmp_path, LIVE, BACKED)
    world.guests.faults.set(verb)
    home, operation = world.accept(LIVE)
    engine = world.engines[-1]
    engine.nudge(home, operation)
    drive(world, lambda: bool(world.guests.faults.hits.get(verb)))
    back = world.fall_silent(dies)
    world.guests.moves.clear()  # the connection broke
    for host in ("cell1-host1", "cell2-host1"):
        there = world.guests.guests(host).get(world.server)
        if there is not None and there.moving == "coming":
            world.guests.drop(host, world.server)
    world.guests.faults.clear()
    world.guests.faults.set("live_migrate_fail")
    world.clock.advance(20.0)
    assert world.run(home, operation) == "failed"
    assert world.row()["host"] == "cell1-host1" and world.row()["task_state"] is None
    back()
    cleanups.run(world.services)
    world.settle()
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean
