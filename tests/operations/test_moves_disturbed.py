"""Moves while the image, network or volume service fails or is late (R12), and on a disturbed bus (R7)."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kilonova.bus.disturbed import Disturbed
from kilonova.common.errors import Unavailable
from kilonova.operations import cleanup
from kilonova.reconcile import cleanups
from tests.operations.kill_matrix import OF_SERVERS, Row
from tests.operations.server_world import ServerWorld, Shape
from tests.operations.test_server_neighbours import Shaky

BACKED = Shape(nics=2, boot=True, own=1)
MOVES = [
    r for r in OF_SERVERS if r.name.endswith(("away", "migrate", "evacuate")) or "cross" in r.name
]
ASKING = [r for r in MOVES if r.kind != "confirm_move"]  # a confirm in a cell asks no neighbour
SERVICES = ("images", "network", "volumes")
LATE_S = 20.0


class Listened(Shaky):
    """A service that counts what it is asked, and may answer late."""

    def __init__(self, real: Any, late: Callable[[], object] | None = None) -> None:
        super().__init__(real)
        self._late = late
        self.asked: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if not callable(found):
            return found

        def call(*args: Any, **kw: Any) -> Any:
            self.asked[name] += 1
            if self._late is not None:
                self._late()
            return found(*args, **kw)

        return call


def _between(world: ServerWorld, late: bool = False) -> dict[str, Listened]:
    """Put somebody between the cloud and its services."""
    wait = (lambda: world.clock.advance(LATE_S)) if late else None
    out = {n: Listened(getattr(world, n), wait) for n in SERVICES}
    world.services.images, world.services.network = (
        cast(Any, out["images"]),
        cast(Any, out["network"]),
    )
    world.services._late["volumes"] = out["volumes"]
    return out


def _world(row: Row, path: Path, shape: Shape, disturbed: int | None = None) -> ServerWorld:
    return row.of(path, row.kind, shape, hosts=row.hosts, disturbed=disturbed)


def _calm(row: Row, path: Path, shape: Shape) -> list[tuple[str, str]]:
    """Return what a move asks of its neighbours that changes something there."""
    world = _world(row, path, shape)
    services = _between(world)
    assert world.run(*world.begin()) == "done"
    world.close()
    return [(n, m) for n, s in services.items() for m in sorted(s.asked) if m not in QUIET]


QUIET = frozenset(("publisher", "database"))
LOCAL = Shape(nics=2, user_port=True)
SHAPES = {"local": LOCAL, "backed": BACKED}
BOTH = [
    pytest.param(
        row, name, marks=[pytest.mark.slow] if name == "local" and row.name != "evacuate" else []
    )
    for row in ASKING
    for name in SHAPES
    if (row.name, name) != ("evacuate", "backed")  # its volumes lie on hosts, one of which is dead
]


def _shape(row: Row) -> Shape:
    return LOCAL if row.name == "evacuate" else BACKED


def _ids(value: object) -> str:
    return value.name.replace(" ", "-") if isinstance(value, Row) else str(value)


@pytest.mark.parametrize(("row", "shape"), BOTH, ids=_ids)
def test_a_moment(row: Row, shape: str, tmp_path: Path) -> None:
    """R12: each call of the move fails twice, before or after its work: it is asked again, and the move is done."""
    calls = _calm(row, tmp_path / "calm", SHAPES[shape])
    assert calls, "it asks its neighbours nothing"
    for n, (name, method) in enumerate(calls):
        world = _world(row, tmp_path / str(n), SHAPES[shape])
        service = _between(world)[name]
        service.fail(method, lambda: Unavailable("Not now."), 2, lost=n % 2 == 0)
        assert world.run(*world.begin()) == "done", (name, method)
        assert service.failures > 0, (name, method)
        ledger, clean = world.ledger(), dict(world.clean("done"))
        world.close()
        assert ledger == clean, (name, method)


@pytest.mark.parametrize("row", ASKING, ids=_ids)
def test_for_long(row: Row, tmp_path: Path) -> None:
    """R12: each call fails for long: done or unwound, and nothing is left."""
    ends = set()
    for n, (name, method) in enumerate(_calm(row, tmp_path / "calm", _shape(row))):
        world = _world(row, tmp_path / str(n), _shape(row))
        service = _between(world)[name]
        service.fail(method, lambda: Unavailable("Not today."), 20, lost=n % 2 == 1)
        state = world.run(*world.begin())
        assert service.failures > 0, (name, method)
        ledger, clean = world.ledger(), dict(world.clean(state))
        world.close()
        assert ledger == clean, (name, method)
        ends.add(state)
    assert ends <= {"done", "failed"}


@pytest.mark.parametrize("row", ASKING, ids=_ids)
def test_late(row: Row, tmp_path: Path) -> None:
    """R12: every answer of every neighbour takes 20 s."""
    world = _world(row, tmp_path, _shape(row))
    services = _between(world, late=True)
    state = world.run(*world.begin())
    assert sum(s.asked.total() for s in services.values()) > 0
    ledger, clean = world.ledger(), dict(world.clean(state))
    world.close()
    assert ledger == clean, state


def _clean_up(world: ServerWorld) -> None:
    """Send what was parked until it is done; let every late message come."""
    cells = [world.databases[c] for c in world.cells]
    for _ in range(200):
        if not any(db.read(cleanup.all_records) for db in cells):
            break
        cleanups.run(world.services)
        world.clock.advance(5.0)
        world.settle()
    world.clock.advance(60.0)
    world.settle()


@pytest.mark.parametrize("row", MOVES, ids=_ids)
def test_on_a_disturbed_bus(row: Row, tmp_path: Path) -> None:
    """R7: messages come up to three times, up to 30 s late, in any order, or never."""
    struck = 0
    for seed in range(4):
        world = _world(row, tmp_path / str(seed), SHAPES["local"], disturbed=seed)
        home, operation = world.begin()
        engine = world.engines[-1]
        engine.nudge(home, operation)
        engine.run_until_idle(limit=20_000)
        state = engine.wait(home, operation, 0.0)
        world.ledger()  # a host that was dead returns
        _clean_up(world)
        ledger, clean = world.ledger(), dict(world.clean(state))
        bus = world.bus.bus
        assert isinstance(bus, Disturbed)
        struck += bus.lost + bus.doubled
        world.close()
        assert ledger == clean, (seed, state)
    assert struck > 0, "nothing was disturbed"
