"""Neighbours and hosts that misbehave: late, failing, dropping the reply, silent (R12, R4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kilonova.common.errors import Conflict, Unavailable
from kilonova.operations import cleanup
from kilonova.reconcile import audit, cleanups
from kilonova.saga import history
from kilonova.saga.faults import AFTER, Fault, Faults
from tests.operations.server_ledger import created, deleted, not_created, plus, powered
from tests.operations.server_world import ONE, ServerWorld, Shape

MANY = Shape(nics=3, user_port=True)


class Shaky:
    """A service of which some methods fail for a while. lost: after they did their work."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._plans: dict[str, tuple[Callable[[], Exception], bool]] = {}
        self._left: dict[str, int] = {}
        self.failures = 0

    def fail(
        self, method: str, error: Callable[[], Exception], times: int, *, lost: bool = False
    ) -> None:
        self._plans[method] = (error, lost)
        self._left[method] = times

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._plans:
            return real

        def call(*args: Any, **kw: Any) -> Any:
            error, lost = self._plans[name]
            strikes = self._left[name] > 0
            if strikes:
                self._left[name] -= 1
                self.failures += 1
            if strikes and not lost:
                raise error()
            result = real(*args, **kw)
            if strikes:
                raise error()
            return result

        return call


def shaky(world: ServerWorld) -> Shaky:
    """Put a Shaky between the cloud and its network."""
    network = Shaky(world.network)
    world.services.network = cast(Any, network)
    return network


def _down() -> Exception:
    return Unavailable("The network service does not answer.")


def _refusal() -> Exception:
    return Conflict("No more addresses on the network.")


def _bug() -> Exception:
    return ValueError("planted")


@pytest.mark.parametrize("shape", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _bug])
@pytest.mark.parametrize("method", ["ensure_port"])
def test_create_while_the_network_fails_for_a_moment(
    method: str, error: Callable[[], Exception], lost: bool, shape: Shape, tmp_path: Path
) -> None:
    """R12"""
    world = ServerWorld(tmp_path, shape=shape)
    network = shaky(world)
    network.fail(method, error, 2, lost=lost)
    assert world.run(*world.begin()) == "done"
    assert network.failures == 2
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, created(shape))


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("error", "times"), [(_refusal, 1), (_down, 20), (_bug, 20)])
@pytest.mark.parametrize("method", ["ensure_port"])
def test_create_while_the_network_fails(
    method: str, error: Callable[[], Exception], times: int, lost: bool, tmp_path: Path
) -> None:
    """R12: unwound: nothing is left, not even what was made before the reply was lost."""
    world = ServerWorld(tmp_path, shape=MANY)
    network = shaky(world)
    network.fail(method, error, times, lost=lost)
    assert world.run(*world.begin()) == "failed"
    network.fail(method, error, 0)
    ledger = world.ledger()
    world.close()
    assert network.failures and ledger == plus(world.before, not_created(MANY))


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _refusal, _bug])
def test_unwind_while_the_network_fails(
    error: Callable[[], Exception], lost: bool, tmp_path: Path
) -> None:
    """R12: an undo is retried until it works."""
    world = ServerWorld(tmp_path, shape=MANY)
    network = shaky(world)
    network.fail("remove_port", error, 6, lost=lost)
    faults = Faults(Fault("finish", "do", AFTER, "error"))
    assert world.run(*world.begin(), faults) == "failed"
    assert network.failures == 6
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, not_created(MANY))


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _refusal, _bug])
@pytest.mark.parametrize("method", ["remove_ports_of"])
def test_delete_while_the_network_fails(
    method: str, error: Callable[[], Exception], lost: bool, tmp_path: Path
) -> None:
    """R12, R17"""
    world = ServerWorld(tmp_path, "server_delete", MANY)
    network = shaky(world)
    network.fail(method, error, 8, lost=lost)
    assert world.run(*world.begin()) == "done"
    assert network.failures == 8
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, deleted(MANY))


def test_what_takes_too_long_is_shown(tmp_path: Path) -> None:
    """R4: a step over its deadline is overdue, in the operation and in the audit, within 30 s."""
    world = ServerWorld(tmp_path, "server_delete")
    network = shaky(world)
    begun = world.clock.now()
    seen: list[tuple[float, bool, bool]] = []

    def look() -> Exception:
        now = world.clock.now()
        late = world.databases["cell1"].read(lambda tx: bool(history.overdue(tx, now)))
        kinds = {f["kind"] for f in audit.run(world.services)}
        seen.append((now - begun, late, "operation_overdue" in kinds))
        return Unavailable("The network service does not answer.")

    network.fail("remove_ports_of", look, 20)
    assert world.run(*world.begin()) == "done"
    assert any(after > 90 for after, _, _ in seen)
    assert all((late, told) == (True, True) for after, late, told in seen if after > 90)
    assert not any(late or told for after, late, told in seen if after < 60)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, deleted(ONE))


# -- hosts that are there and say nothing


def _mute(world: ServerWorld, host: str) -> Callable[[], None]:
    """Let a host's agent lose every order, while its heartbeats go on. Returns what ends it."""
    agent = next(a for a in world.agents if a.identity.host == host)
    real = agent.orders.receive
    agent.orders.receive = lambda body: None  # type: ignore[method-assign]

    def heal() -> None:
        agent.orders.receive = real  # type: ignore[method-assign]

    return heal


def test_a_host_that_never_answers_a_build(tmp_path: Path) -> None:
    """R4: after its deadline another host builds; the mute one cleans up when it hears again."""
    world = ServerWorld(tmp_path)
    heals = [_mute(world, "cell1-host1")]
    world.hosts.set_service("cell1-host2", disabled=True)
    create = world.begin()
    engine = world.engines[-1]
    engine.nudge(*create)
    engine.step_once()
    world.hosts.set_service("cell1-host2", disabled=False)
    assert world.run(*create) == "done"
    assert world.row()["host"] == "cell1-host2"
    assert world.databases["cell1"].read(cleanup.all_records)
    heals[0]()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, created(ONE))


@pytest.mark.parametrize("kind", ["server_stop", "server_reboot_hard", "server_suspend"])
def test_a_host_that_never_answers_a_power_operation(kind: str, tmp_path: Path) -> None:
    """R4: it ends at its deadline, with the old state and a fault that says so."""
    world = ServerWorld(tmp_path, kind)
    _mute(world, world.row()["host"])
    begun = world.clock.now()
    assert world.run(*world.begin()) == "failed"
    assert 300 <= world.clock.now() - begun < 400
    power = world.guests.find(world.server)[1].power
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, powered(kind, "failed", power))


def test_a_host_that_never_answers_a_delete(tmp_path: Path) -> None:
    """R17: three sends without a word, then the host owes it; the server is gone for its owner."""
    world = ServerWorld(tmp_path, "server_delete")
    heal = _mute(world, world.row()["host"])
    begun = world.clock.now()
    assert world.run(*world.begin()) == "done"
    assert world.clock.now() - begun < 60
    cleanups.run(world.services)
    assert world.ledger()["cleanup:cell1"] == 1
    heal()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, deleted(ONE))


def test_a_host_that_comes_back_is_asked_at_once(tmp_path: Path) -> None:
    """R3: an order that an agent missed while it was restarted is sent when it registers, not up to 30 s later."""
    world = ServerWorld(tmp_path, "server_stop")
    host = world.row()["host"]
    heal = _mute(world, host)
    stop = world.begin()
    engine = world.engines[-1]
    engine.nudge(*stop)
    while world.clock.now() < 1_700_000_000 + 40:  # several sends, longer and longer apart
        if not (engine.step_once() or world.bus.pump() or engine.sweep()):
            world.clock.advance(1.0)
    heal()
    at = world.clock.now()
    agent = next(a for a in world.agents if a.identity.host == host)
    agent.start()
    assert world.run(*stop) == "done"
    assert world.clock.now() - at < 1.0
    world.close()
