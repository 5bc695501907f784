"""Delete: from every state, at every moment of every other operation, with hosts down, twice, under faults (R17)."""

from pathlib import Path

import pytest

from kilonova.common.errors import NotFound
from kilonova.operations import accept
from kilonova.reconcile import cleanups
from kilonova.saga.faults import AFTER, BEFORE, RECORDED, Fault, Faults
from tests.ledger import Ledger
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import CONTEXT, ONE, ServerWorld, Shape, saga_of

SAGA = saga_of("server_delete")
MANY = Shape(nics=3, user_port=True)
HISTORY = ("deleted:", "action:", "event:", "operation:", "fault:")
POWER = (
    "server_stop",
    "server_reboot_soft",
    "server_reboot_hard",
    "server_pause",
    "server_suspend",
)
SETUPS = {
    "active": (),
    "stopped": ("server_stop",),
    "paused": ("server_pause",),
    "suspended": ("server_suspend",),
}


def lasting(ledger: Ledger) -> dict[str, int]:
    """Return what is more than history."""
    return {k: v for k, v in ledger.items() if not k.startswith(HISTORY)}


def assert_gone(world: ServerWorld, before: Ledger) -> None:
    """Nothing of the server is left but one compact record and its history."""
    after = world.ledger()
    with pytest.raises(NotFound):
        accept.find_server(world.services, CONTEXT, world.server)
    world.close()
    assert lasting(after) == lasting(before)
    assert sum(v for k, v in after.items() if k.startswith("deleted:")) == 1
    assert not [k for k in after if k.startswith("action:") and k.endswith(":open")]


@pytest.mark.parametrize("case", points_of(SAGA, skip=frozenset(("volumes", "kept"))), ids=case_id)
@pytest.mark.parametrize("shape", [ONE, MANY], ids=["one", "many"])
def test_one_fault(case: Case, shape: Shape, tmp_path: Path) -> None:
    """R1, R17: a delete only goes forward, and always ends."""
    check_case(ServerWorld(tmp_path, "server_delete", shape), SAGA, case)


@pytest.mark.parametrize("seed", range(40))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    check_case(ServerWorld(tmp_path, "server_delete"), SAGA, random_pair(SAGA, seed), all_hit=False)


@pytest.mark.parametrize("vm_state", SETUPS)
def test_from_every_state(vm_state: str, tmp_path: Path) -> None:
    """R17"""
    world = ServerWorld(tmp_path, "server_delete", setup=SETUPS[vm_state])
    home, operation = world.begin()
    assert world.row()["task_state"] == "deleting"
    assert world.run(home, operation) == "done"
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, deleted(ONE, vm_state))


def test_an_error_in_cell0(tmp_path: Path) -> None:
    """R17: a server that never had a host."""
    world = ServerWorld(tmp_path, shape=Shape(faults="build_fail"))
    before = world.before
    assert world.run(*world.accept("server_create")) == "failed"
    assert world.run(*world.accept("server_delete")) == "done"
    assert_gone(world, before)


def test_before_anything_happened(tmp_path: Path) -> None:
    """R17: accepted, not placed: the create unwinds first."""
    world = ServerWorld(tmp_path)
    before = world.before
    create = world.accept("server_create")
    home, delete = world.accept("server_delete")
    assert home == "global"
    assert world.run(home, delete) == "done"
    assert world.run(*create) == "cancelled"
    assert_gone(world, before)


_MOMENTS = [
    (step.name, when)
    for step in saga_of("server_create").steps
    if step.skip is None
    for when in (BEFORE, AFTER, RECORDED)
]


@pytest.mark.parametrize(("step", "when"), _MOMENTS)
@pytest.mark.parametrize("kind", ["done", "failing"])
def test_during_a_create(step: str, when: str, kind: str, tmp_path: Path) -> None:
    """R17: accepted at every moment of a create; the create ends, then the delete."""
    shape = ONE if kind == "done" else Shape(faults="build_fail_everywhere")
    if kind == "failing" and step == "finish":
        pytest.skip("a create that fails never gets there")
    world = ServerWorld(tmp_path, shape=shape, hosts=3)
    before = world.before
    deletes: list[tuple[str, str]] = []
    faults = Faults(
        Fault(step, "do", when, "pause"),
        pause=lambda f: deletes.append(world.accept("server_delete")),
    )
    create = world.accept("server_create")
    assert world.run(*create, faults) in ("done", "cancelled", "failed")
    assert faults.missed == []
    assert world.run(*deletes[0]) == "done"
    assert_gone(world, before)


_BACK = [
    (step, when) for step in ("ports", "record", "build") for when in (BEFORE, AFTER, RECORDED)
]
_BACK += [("unwound", BEFORE), ("unwound", AFTER)]


@pytest.mark.parametrize(("step", "when"), _BACK)
def test_during_the_unwind_of_a_create(step: str, when: str, tmp_path: Path) -> None:
    """R17"""
    world = ServerWorld(tmp_path)
    before = world.before
    deletes: list[tuple[str, str]] = []
    faults = Faults(
        Fault("finish", "do", AFTER, "error"),
        Fault(step, "undo", when, "pause"),
        pause=lambda f: deletes.append(world.accept("server_delete")),
    )
    assert world.run(*world.accept("server_create"), faults) in ("cancelled", "failed")
    assert faults.missed == []
    assert world.run(*deletes[0]) == "done"
    assert_gone(world, before)


def test_while_a_build_hangs(tmp_path: Path) -> None:
    """R17: a long step is aborted; nothing waits for its deadline."""
    world = ServerWorld(tmp_path)
    before = world.before
    world.guests.faults.set("build_hang")
    engine = world.engine()
    engine.open()
    create = world.accept("server_create")
    engine.nudge(*create)
    for _ in range(50):
        engine.step_once()
        world.bus.pump()
    assert world.guests.faults.hits["build_hang"] >= 1
    at = world.clock.now()
    assert world.run(*world.accept("server_delete")) == "done"
    assert world.clock.now() - at < 60
    assert_gone(world, before)


@pytest.mark.parametrize("when", [BEFORE, AFTER, RECORDED])
@pytest.mark.parametrize("kind", POWER)
def test_during_a_power_operation(kind: str, when: str, tmp_path: Path) -> None:
    """R17"""
    world = ServerWorld(tmp_path, kind)
    deletes: list[tuple[str, str]] = []
    faults = Faults(
        Fault("guest", "do", when, "pause"),
        pause=lambda f: deletes.append(world.accept("server_delete")),
    )
    before = plus(world.before, {k: -v for k, v in _built().items()})
    assert world.run(*world.begin(), faults) in ("done", "cancelled")
    assert faults.missed == []
    assert world.run(*deletes[0]) == "done"
    assert_gone(world, Ledger(before))


def _built() -> dict[str, int]:
    return {k: -v for k, v in deleted(ONE).items() if not k.startswith(HISTORY)}


def test_while_a_power_operation_hangs(tmp_path: Path) -> None:
    """R17"""
    world = ServerWorld(tmp_path, "server_stop")
    world.guests.faults.set("power_hang")
    stop = world.begin()
    engine = world.engines[-1]
    engine.nudge(*stop)
    for _ in range(50):
        engine.step_once()
        world.bus.pump()
    assert world.guests.faults.hits["power_hang"] >= 1
    assert world.run(*world.accept("server_delete")) == "done"
    assert_gone(world, Ledger(plus(world.before, {k: -v for k, v in _built().items()})))


def test_twice_at_once(tmp_path: Path) -> None:
    """R17: both are accepted, both end."""
    world = ServerWorld(tmp_path, "server_delete")
    first, second = world.begin(), world.begin()
    assert world.run(*second) == "done"
    assert world.run(*first) == "done"
    assert_gone(world, Ledger(plus(world.before, {k: -v for k, v in _built().items()})))


@pytest.mark.parametrize("step", ["guest", "ports", "forget"])
@pytest.mark.parametrize("when", [BEFORE, AFTER, RECORDED])
def test_again_at_every_moment_of_a_delete(step: str, when: str, tmp_path: Path) -> None:
    """R17"""
    world = ServerWorld(tmp_path, "server_delete")
    more: list[tuple[str, str]] = []

    def again(f: Fault) -> None:
        try:
            more.append(world.accept("server_delete"))
        except NotFound:  # it is gone already
            assert (step, when) in (("forget", AFTER), ("forget", RECORDED))

    faults = Faults(Fault(step, "do", when, "pause"), pause=again)
    assert world.run(*world.begin(), faults) == "done"
    assert faults.missed == []
    for operation in more:
        assert world.run(*operation) == "done"
    assert_gone(world, Ledger(plus(world.before, {k: -v for k, v in _built().items()})))


@pytest.mark.parametrize("shape", [ONE, MANY], ids=["one", "many"])
def test_a_host_that_is_down(shape: Shape, tmp_path: Path) -> None:
    """R17: gone for the user at once; the claim is held until the host is back and confirms."""
    world = ServerWorld(tmp_path, "server_delete", shape)
    host = world.row()["host"]
    back = world.fall_silent(host)
    assert world.run(*world.begin()) == "done"
    parked = world.ledger()
    gone = deleted(shape)
    held = {
        k: -v
        for k, v in gone.items()
        if k.startswith(("consumer", "held:", "guest", "disk", "tap", "nic"))
    }
    waiting = {"cleanup:cell1": 1, "audit:cleanup_waiting": 1, "audit:not_read": 1}
    assert parked == plus(world.before, gone, held, waiting)
    back()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, gone)


def test_a_cleanup_that_fails_first(tmp_path: Path) -> None:
    """R17: the record stays, counts its tries and says why, until the host could do it."""
    world = ServerWorld(tmp_path, "server_delete")
    back = world.fall_silent(world.row()["host"])
    assert world.run(*world.begin()) == "done"
    back()
    world.guests.faults.set("delete_fail", times=2)
    for expected in (1, 1, 0):
        cleanups.run(world.services)
        assert world.ledger()["cleanup:cell1"] == expected
    assert world.guests.faults.hits["delete_fail"] == 2
    assert world.ledger() == plus(world.before, deleted(ONE))
    world.close()


def test_a_guest_that_cannot_be_deleted_for_a_while(tmp_path: Path) -> None:
    """R17: retried until it works; meanwhile the server shows as being deleted."""
    world = ServerWorld(tmp_path, "server_delete")
    world.guests.faults.set("delete_fail", times=5)
    assert world.run(*world.begin()) == "done"
    assert world.guests.faults.hits["delete_fail"] == 5
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, deleted(ONE))
