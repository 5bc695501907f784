"""Evacuate: a server of a dead host runs on another one, once; when the host returns, it removes what it had (R13)."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest
from kilonova.objects.guest import PowerState
from kilonova.operations import states
from kilonova.reconcile import cleanups
from tests.ledger import Ledger
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import ONE, ServerWorld, Shape, saga_of

SAGA = saga_of("server_evacuate")
MANY = Shape(nics=2, user_port=True)


class Dead(ServerWorld):
    """A cloud in which the server's host is forced down; counting brings it back and lets it clean up."""

    back: Callable[[], None] | None = None

    def begin(self) -> tuple[str, str]:
        """Let the host die, then evacuate."""
        self.back = self.fall_silent(self.row()["host"])
        return super().begin()

    def ledger(self) -> Ledger:
        """Count what is there once the host has returned."""
        if self.back is not None:
            self.back()
            self.back = None
            cleanups.run(self.services)
        return super().ledger()

    def clean(self, state: str) -> Mapping[str, int]:
        """One server, on one host; history."""
        return plus(self.before, history(state))


def history(state: str) -> dict[str, int]:
    """What an evacuation leaves for good."""
    done = state == "done"
    ok, event = ("ok", "Success") if done else ("Error", "Error")
    return {
        f"action:evacuate:{ok}": 1,
        f"event:compute_evacuate_instance:{event}": 1,
        f"operation:server_evacuate:{state}": 1,
        f"migration:{'done' if done else 'failed'}": 1,
        "fault:cell1": 0 if done else 1,
    }


@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(Dead(tmp_path, "server_evacuate", MANY), SAGA, case)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    world = Dead(tmp_path, "server_evacuate")
    check_case(world, SAGA, random_pair(SAGA, seed), all_hit=False)


def test_never_two_guests(tmp_path: Path) -> None:
    """R13: it runs on the new host; what the dead one holds stays held until that has removed its guest."""
    world = ServerWorld(tmp_path, "server_evacuate")
    before = world.row()
    back = world.fall_silent(before["host"])
    assert world.run(*world.begin()) == "done"
    row, ledger = world.row(), world.ledger()
    assert row["host"] != before["host"] and row["vm_state"] == states.ACTIVE
    assert (row["addresses"], row["nics"]) == (before["addresses"], before["nics"])
    assert ledger["held:VCPU"] == 2 * world.before["held:VCPU"]
    assert ledger["cleanup:cell1"] == 1
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    assert ledger["guest"] == 1 and ledger["held:VCPU"] == world.before["held:VCPU"]
    assert world.guests.find(world.server)[0] == row["host"]
    world.close()


def test_only_a_fenced_host_is_left(tmp_path: Path) -> None:
    """R13: a host that is up, or only silent, is not; the answer says what to do."""
    world = ServerWorld(tmp_path, "server_evacuate")
    host = world.row()["host"]
    with pytest.raises(BadRequest, match="still in use"):
        world.begin()
    back = world.fall_silent(host)
    world.hosts.set_service(host, forced_down=False)
    world.clock.advance(120.0)
    with pytest.raises(BadRequest, match="force it down"):
        world.begin()
    assert world.row()["task_state"] is None
    back()
    ledger = world.ledger()
    world.close()
    assert ledger == world.before


def test_no_other_host_has_room(tmp_path: Path) -> None:
    """The server is where it was, and starts there when the host is back."""
    world = Dead(tmp_path, "server_evacuate", hosts=1)
    assert world.run(*world.begin()) == "failed"
    row = world.row()
    ledger = world.ledger()
    world.close()
    assert ledger == world.clean("failed") and row["vm_state"] == states.ACTIVE


def test_a_stopped_server_stays_off(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_evacuate", setup=("server_stop",))
    world.fall_silent(world.row()["host"])
    assert world.run(*world.begin()) == "done"
    row = world.row()
    world.close()
    assert (row["vm_state"], row["power_state"]) == (states.STOPPED, PowerState.SHUTDOWN)


def test_deleted_before_the_host_returns(tmp_path: Path) -> None:
    """R17: both hosts let go of it; nothing is left."""
    world = ServerWorld(tmp_path, "server_evacuate")
    back = world.fall_silent(world.row()["host"])
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("server_delete")) == "done"
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, history("done"), deleted(ONE))


def test_volumes_of_an_evacuated_server_are_free_at_once(tmp_path: Path) -> None:
    """R13: the dead host was declared so; it keeps nobody from the volumes, and writes none when it is back."""
    world = ServerWorld(tmp_path, "server_create", Shape(own=1), hosts=3)
    data = world.spare()
    found = world.volumes.find(data)
    assert found is not None
    world.engine().open()
    world.hosts.set_service(found.host, disabled=True)  # its data do not die with the server's host
    assert world.run(*world.accept("server_create")) == "done"
    host = world.row()["host"]
    back = world.fall_silent(host)
    world.guests.reboot(host)  # what fencing does
    assert world.run(*world.accept("server_evacuate")) == "done"
    assert world.run(*world.accept("server_delete")) == "done"
    free = world.volumes.find(data)
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert free is not None and free.status == "available"
    assert ledger["attachment:attached"] == ledger["volume writer"] == ledger["guest"] == 0
    assert world.guests.second_writers == []


@pytest.mark.parametrize("then", ["nothing", "server_delete"])
@pytest.mark.parametrize("shape", [Shape(own=1), Shape(boot=True, own=1)], ids=["own", "backed"])
def test_a_volume_that_died_with_its_host(shape: Shape, then: str, tmp_path: Path) -> None:
    """R1, R4: no other host can reach it. In words; the server is where it was at once, and can be deleted."""
    world = Dead(tmp_path, "server_evacuate", shape)
    held = world.volumes.attachments_of([world.server])[world.server]
    home = world.row()["host"]
    assert home in {v.host for a in held if (v := world.volumes.find(a.volume_id)) is not None}
    assert world.run(*world.begin()) == "failed"
    row = world.row()
    assert (row["host"], row["vm_state"], row["task_state"]) == (home, states.ACTIVE, None)
    if then == "server_delete":
        assert world.run(*world.accept("server_delete")) == "done"
        world.ledger()
        world.engines[-1].run_until_idle(limit=10_000)
        ledger = world.ledger()
        world.close()
        assert (ledger["guest"], ledger["held:VCPU"], ledger["attachment:attached"]) == (0, 0, 0)
        return
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean
