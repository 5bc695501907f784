"""Evacuation into another cell (CC-12.5): the server of a fenced host runs there, once; never two writers (R13)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest, Conflict
from kilonova.objects.guest import PowerState
from kilonova.objects.server import RequestedServer
from kilonova.operations import accept, server_evacuate_cross_cell, states
from kilonova.reconcile import audit, cleanups
from kilonova.saga.faults import AFTER, KILL, Fault, Faults, Killed
from kilonova.saga.state import DO
from tests.ledger import Ledger
from tests.operations.cross_cell_world import EVACUATE, TwoCells
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair, zombies_of
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import CONTEXT, Shape, saga_of
from tests.operations.test_cross_cell import fault_of, leave_cell, migration

SAGA = saga_of(EVACUATE)
MANY = Shape(nics=2, user_port=True)
HOME = "cell1-host1"


class Dead(TwoCells):
    """The server's host is forced down; counting brings it back and lets it clean up."""

    back: Callable[[], None] | None = None

    def begin(self) -> tuple[str, str]:
        """Let the host die, then evacuate."""
        self.back = self.fall_silent(HOME)
        return super().begin()

    def ledger(self) -> Ledger:
        """Count what is there once the host has returned."""
        if self.back is not None:
            self.back()
            self.back = None
            cleanups.run(self.services)
        assert self.guests.second_writers == []
        return super().ledger()


class Shared(Dead):
    """Its conductors have leases."""

    shared = True


@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1, R13, CC-12.5"""
    check_case(Dead(tmp_path, EVACUATE, MANY), SAGA, case)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b, CC-12.5"""
    check_case(Dead(tmp_path, EVACUATE), SAGA, random_pair(SAGA, seed), all_hit=False)


@pytest.mark.parametrize("case", zombies_of(SAGA)[::3], ids=case_id)
def test_a_conductor_that_slept_beyond_its_lease(case: Case, tmp_path: Path) -> None:
    """R8, CC-12.5"""
    check_case(Shared(tmp_path, EVACUATE), SAGA, case)


def test_never_two_guests(tmp_path: Path) -> None:
    """R13, CC-12.5: all of it is there; what the dead host holds stays held until that has removed its guest."""
    world = Dead(tmp_path, EVACUATE)
    before = dict(world.row())
    back = world.fall_silent(HOME)
    assert world.run(*world.accept(EVACUATE)) == "done"
    row, ledger = dict(world.row()), world.ledger()
    same = ("uuid", "name", "keys", "tags", "metadata", "addresses", "nics", "user_data", "flavor")
    assert {n: row[n] for n in same} == {n: before[n] for n in same}
    assert (row["host"], row["vm_state"], row["task_state"]) == (
        "cell2-host1",
        states.ACTIVE,
        None,
    )
    moved = migration(world, "cell2")
    assert (moved["kind"], moved["status"], moved["cross_cell"]) == ("evacuation", "done", 1)
    assert world.in_cell("cell1") is None
    assert ledger["held:VCPU"] == 2 * world.before["held:VCPU"]
    assert ledger["cleanup:cell1"] == 1
    told = {f["kind"] for f in audit.run(world.services)}
    assert told == {"cleanup_waiting", "not_read"}, "a host that does not answer owes a cleanup"
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    assert ledger["guest"] == 1 and ledger["held:VCPU"] == world.before["held:VCPU"]
    assert world.guests.find(world.server)[0] == "cell2-host1"
    assert audit.run(world.services) == []
    assert world.run(*world.accept("server_stop")) == "done"
    world.close()


@pytest.mark.parametrize("step", ["records", "guest", "swap", "moved"])
def test_the_dead_host_returns_on_the_way(step: str, tmp_path: Path) -> None:
    """R13: a conductor is killed, the host boots and is taken for alive again: it starts nothing of the server."""
    world = Dead(tmp_path, EVACUATE)
    back = world.fall_silent(HOME)
    killed = Faults(Fault(step, DO, AFTER, KILL))
    home, operation = world.accept(EVACUATE)
    with pytest.raises(Killed):
        world.run(home, operation, killed)
    assert not killed.missed
    world.engines[-1].abandon()
    world.guests.reboot(HOME)  # what fencing does
    back()
    off = world.guests.guests(HOME).get(world.server)
    assert off is None or off.power == PowerState.SHUTDOWN
    world.engine().open()
    assert world.run(home, operation) == "done"
    cleanups.run(world.services)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


def test_only_a_fenced_host_is_left(tmp_path: Path) -> None:
    """R13: not one that is up, nor one that is only silent; in words, before anything is made."""
    world = Dead(tmp_path, EVACUATE)
    world.engine().open()
    with pytest.raises(BadRequest, match="still in use"):
        world.accept(EVACUATE)
    back = world.fall_silent(HOME)
    world.hosts.set_service(HOME, forced_down=False)
    world.clock.advance(120.0)
    with pytest.raises(BadRequest, match="force it down"):
        world.accept(EVACUATE)
    assert world.row()["task_state"] is None
    back()
    ledger = world.ledger()
    world.close()
    assert ledger == world.before


def test_a_stopped_server_stays_off(tmp_path: Path) -> None:
    world = Dead(tmp_path, EVACUATE, setup=("server_stop",))
    assert world.run(*world.begin()) == "done"
    row = world.row()
    world.close()
    assert (row["vm_state"], row["power_state"]) == (states.STOPPED, PowerState.SHUTDOWN)


def test_deleted_before_the_host_returns(tmp_path: Path) -> None:
    """R17: both hosts let go of it; nothing is left."""
    world = Dead(tmp_path, EVACUATE)
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("server_delete")) == "done"
    ledger, moved = world.ledger(), world.clean("done")
    world.close()
    over = {k.replace("cell1", "cell2"): v for k, v in deleted(world.shape).items()}
    assert ledger == plus({k: v for k, v in moved.items() if v}, over)


class Apart(TwoCells):
    """The server is made where its volume is not."""

    at = HOME

    def _requested(self, now: float) -> RequestedServer:
        return super()._requested(now).replace(requested_host=self.at)


def test_volumes_have_one_writer(tmp_path: Path) -> None:
    """R13: a volume whose data are on another host is written from the new cell alone, also when the host is back."""
    world = Apart(tmp_path, "server_create", Shape(own=1), setup=None)
    data = world.spare()
    found = world.volumes.find(data)
    assert found is not None
    world.engine().open()
    world.at = HOME if found.host != HOME else "cell1-host2"
    assert world.run(*world.accept("server_create")) == "done"
    back = world.fall_silent(world.at)
    world.guests.reboot(world.at)
    world.to_host = next(h for h in ("cell2-host1", "cell2-host2") if h != found.host)
    assert world.run(*world.accept(EVACUATE)) == "done"
    back()
    cleanups.run(world.services)
    ledger, writer = world.ledger(), world.guests.writer(data)
    world.close()
    assert writer == (world.to_host, world.server) and ledger["guest"] == 1
    assert world.guests.second_writers == []


@pytest.mark.parametrize("shape", [Shape(own=1), Shape(boot=True, own=1)], ids=["own", "backed"])
def test_a_volume_that_died_with_its_host(shape: Shape, tmp_path: Path) -> None:
    """R1, R4: it is where it was at once, not when the host returns."""
    world = Dead(tmp_path, EVACUATE, shape, hosts=1)
    assert world.run(*world.begin()) == "failed"
    row = world.row()
    assert (row["host"], row["vm_state"], row["task_state"]) == (HOME, states.ACTIVE, None)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


class Free(Dead):
    """The scheduler chooses."""

    to_host = None


def test_its_own_cell_is_preferred(tmp_path: Path) -> None:
    """CC-3.9 of an evacuation: another cell only when its own has no host, or one there is named."""
    world = Free(tmp_path, EVACUATE)
    world.engine().open()
    world.fall_silent(HOME)
    start = server_evacuate_cross_cell.start
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert start(world.services, CONTEXT, found) is None
    assert start(world.services, CONTEXT, found, host="cell1-host2") is None
    world.hosts.set_service("cell1-host2", disabled=True)
    assert world.run(*world.accept(EVACUATE)) == "done"
    assert world.row()["host"].startswith("cell2-")
    world.close()


def test_another_host_is_tried_and_none_is_left(tmp_path: Path) -> None:
    """R1: the fault of one host sends it to the next; when all fail, it is where it was, with a fault."""
    world = Free(tmp_path / "one", EVACUATE)
    leave_cell(world)
    world.guests.faults.set("build_elsewhere", server=world.server)
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits["build_elsewhere"] == 1
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean
    world = Free(tmp_path / "two", EVACUATE)
    leave_cell(world)
    world.guests.faults.set("build_fail", server=world.server)
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits["build_fail"] >= 1
    ledger, clean, said = world.ledger(), world.clean("failed"), fault_of(world, "cell1")
    world.close()
    assert ledger == clean and said


def test_what_is_refused(tmp_path: Path) -> None:
    """A state that cannot be evacuated."""
    world = Dead(tmp_path, EVACUATE, setup=("server_pause",))
    with pytest.raises(Conflict, match="Cannot 'evacuate'"):
        world.begin()
    world.close()
