"""Attaching and detaching NICs under faults: done, or as it was before with a fault and a failed action."""

from pathlib import Path

import msgspec
import pytest

from kilonova.common.errors import Conflict
from kilonova.objects.guest import DeviceAddress
from kilonova.operations import accept, power
from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import CONTEXT, STARTS, ServerWorld, Shape, saga_of

KINDS = ("interface_attach", "interface_detach")
MINE = Shape(attach_user_port=True)
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize(("kind", "case"), CASES[::5], ids=_ids)
def test_one_fault_with_the_users_own_port(kind: str, case: Case, tmp_path: Path) -> None:
    """R1: the port is let go, never deleted."""
    check_case(ServerWorld(tmp_path, kind, MINE), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(40))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % 2]
    check_case(
        ServerWorld(tmp_path, kind), saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_refuses(kind: str, tmp_path: Path) -> None:
    """The guest is as it was, one fault, safe words for the tenant."""
    world = ServerWorld(tmp_path, kind)
    fault = "attach_nic_fail" if kind == "interface_attach" else "detach_nic_fail"
    world.guests.faults.set(fault, times=1)
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    assert world.guests.faults.hits[fault] == 1
    ledger, clean, row = world.ledger(), world.clean("failed"), world.row()
    world.close()
    assert ledger == clean
    assert (row["vm_state"], row["task_state"]) == ("active", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_is_down(kind: str, tmp_path: Path) -> None:
    """R4: it ends as soon as the host is known to be down; what the host may have done is put right when it is back."""
    world = ServerWorld(tmp_path, kind)
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(home, operation) == "failed"
    assert world.row()["task_state"] is None
    back()
    cleanups.run(world.services)
    world.settle()
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_undo_is_given_up_when_the_server_has_changed(kind: str, tmp_path: Path) -> None:
    """Parked at a host that was down, then done after all: nothing may undo it any more."""
    world = ServerWorld(tmp_path, kind)
    home, operation = world.begin()
    back = world.fall_silent(world.row()["host"])
    assert world.run(home, operation) == "failed"
    back()
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    assert world.ledger()["cleanup:cell1"] == 1
    cleanups.run(world.services)
    world.settle()
    found = world.ledger()
    nics = len(world.guests.find(world.server)[1].nics)
    world.close()
    assert (found["cleanup:cell1"], nics) == (0, 2 if kind == "interface_attach" else 1)
    assert not [k for k in found if k.startswith("audit:")]


def test_the_record_tells_of_the_nic(tmp_path: Path) -> None:
    """NICs, devices with tags, addresses; the guest's document is a generation on, each way."""
    world = ServerWorld(tmp_path, "interface_attach")
    before = world.row()
    assert world.run(*world.begin()) == "done"
    row = world.row()
    nics = msgspec.json.decode(row["nics"])
    devices = msgspec.json.decode(row["devices"], type=list[DeviceAddress])
    assert [n["tag"] for n in nics] == [None, "late"]
    assert [d.mac for d in devices if d.tag == "late"] == [nics[1]["mac"]]
    assert len(msgspec.json.decode(row["addresses"])["private"]) == 2
    assert row["metadata_generation"] == before["metadata_generation"] + 1
    assert world.run(*world.accept("interface_detach")) == "done"
    after = world.row()
    world.close()
    for name in ("nics", "devices", "addresses", "security_groups"):
        assert after[name] == before[name], name
    assert after["metadata_generation"] == before["metadata_generation"] + 2


def test_they_follow_one_another(tmp_path: Path) -> None:
    """Accepted one behind the other, each runs in its turn; a power action queues too, and ends what they show."""
    world = ServerWorld(tmp_path, "interface_attach")
    queued = [world.accept("interface_attach") for _ in range(3)]
    queued.append(world.accept("server_stop"))
    with pytest.raises(Conflict, match="task_state powering-off"):
        world.accept("interface_attach")
    assert [world.run(*q) for q in reversed(queued)] == ["done"] * 4
    row, guest = world.row(), world.guests.find(world.server)[1]
    found = world.ledger()
    world.close()
    assert (row["vm_state"], row["task_state"]) == ("stopped", None)
    assert len(guest.nics) == len(msgspec.json.decode(row["nics"])) == 4
    assert not [k for k in found if k.startswith("audit:")]


def test_a_delete_ends_those_that_wait(tmp_path: Path) -> None:
    """The delete cancels them; nothing of a reserved port is left."""
    world = ServerWorld(tmp_path, "server_delete")
    before = world.ledger()
    for _ in range(2):
        world.accept("interface_attach")
    assert world.run(*world.begin()) == "done"
    found = world.ledger()
    world.close()
    for name in ("port:made:bound", "tap", "nic"):
        assert found[name] == before[name] - 1, name
    assert not [k for k in found if k.startswith("audit:") or ":live" in k]


def test_a_locked_server_refuses(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "interface_attach")
    found = accept.find_server(world.services, CONTEXT, world.server)
    assert found.row is not None
    locked = accept.Found(found.mapping, {**found.row, "locked_by": "owner"})
    with pytest.raises(Conflict, match="is locked"):
        STARTS["interface_attach"](world, locked)
    with pytest.raises(Conflict, match="is locked"):
        power.start(world.services, CONTEXT, saga_of("server_stop"), locked)
    world.close()
