"""Messages that come twice, late, in any order, or never change nothing (R7)."""

from pathlib import Path

import pytest

from kilonova.bus.disturbed import Disturbed
from kilonova.operations import cleanup
from kilonova.reconcile import cleanups
from kilonova.saga.faults import Fault, Faults
from tests.ledger import Ledger
from tests.operations.server_world import ServerWorld, Shape


def _clean_up(world: ServerWorld) -> None:
    """Send what was parked (a host that is not heard for three sends counts as silent) until all of it is done."""
    for _ in range(200):
        if not world.databases["cell1"].read(cleanup.all_records):
            break
        cleanups.run(world.services)
        world.clock.advance(5.0)
        world.settle()
    world.clock.advance(60.0)
    world.settle()


@pytest.mark.parametrize("seed", range(3))
def test_fifty_operations_on_a_disturbed_bus(seed: int, tmp_path: Path) -> None:
    """R7: each message 1-3 times, up to 30 s late, one in ten lost: the ledger equals that of an undisturbed run."""
    ledgers = [_play(tmp_path / str(d), seed if d else None) for d in (0, 1)]
    assert ledgers[0] == ledgers[1]


def _play(path: Path, disturbed: int | None) -> Ledger:
    """Make 25 servers, then do something with each; 50 operations, many at a time."""
    world = ServerWorld(path, disturbed=disturbed)
    engine = world.engine()
    engine.open()
    made = []
    for _ in range(25):
        engine.nudge(*world.accept("server_create"))
        made.append(world.server)
    engine.run_until_idle()
    for n, server in enumerate(made):
        world.server = server
        engine.nudge(
            *world.accept("server_delete" if n % 5 == 4 else ("server_stop", "server_pause")[n % 2])
        )
    engine.run_until_idle()
    if disturbed is not None:
        assert isinstance(world.bus.bus, Disturbed)
        assert world.bus.bus.lost > 0 and world.bus.bus.doubled > 0
    _clean_up(world)
    ledger = world.ledger()
    world.close()
    return ledger


def unwanted_guests(path: Path, seeds: int = 4) -> int:
    """Unwind creates on a disturbed bus; return how many guests are left when every cleanup is done.

    Without NICs: a late build would else wait in vain for a port that is gone, and prove nothing about the host.
    """
    left = 0
    for seed in range(seeds):
        world = ServerWorld(path / str(seed), shape=Shape(nics=0), disturbed=seed)
        faults = Faults(Fault("finish", "do", "after", "error", times=10))
        engine = world.engine(faults)
        engine.open()
        for _ in range(10):
            engine.nudge(*world.accept("server_create"))
        engine.run_until_idle()
        _clean_up(world)
        left += world.ledger()["guest"]
        world.close()
    return left


def test_late_orders_make_no_guest(tmp_path: Path) -> None:
    """R7: a ``do`` that arrives after its ``undo`` is refused by the host."""
    assert unwanted_guests(tmp_path) == 0
