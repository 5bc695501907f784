"""Every move in a cloud of two releases: each can read what the other says, and ends what the other began.

OBJ-4: hosts and conductors of both releases move servers to each other, both ways. OBJ-10: everybody writes what the
older release reads. R18: a journal of the older release is finished by the newer one, and the other way round.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.objects.base import speak
from kilonova.operations import stores
from kilonova.saga.definition import NoUndo, Saga, Step
from kilonova.saga.engine import Engine
from kilonova.saga.faults import AFTER, ERROR, KILL, RECORDED, Fault, Faults
from kilonova.saga.state import DO, UNDO
from tests.operations.cross_cell_world import CONFIRM, MIGRATE, RESIZE, REVERT, TwoCells
from tests.operations.harness import Case, case_id, check_case, last_reversible
from tests.operations.server_world import ServerWorld, Shape, saga_of
from tests.operations.test_live_migrate import TRIGGER, Merged
from tests.operations.test_server_evacuate import Dead
from tests.operations.test_server_resize import SAGAS
from tests.upgrade.releases import RELEASES, Reader, Release

SHAPES = {"local": Shape(nics=2, user_port=True), "volume-backed": Shape(boot=True, own=1)}


class Stays(ServerWorld):
    """A cloud of one host: a server is resized where it is."""

    def __init__(self, *of: Any) -> None:
        super().__init__(*of, hosts=1)


MOVES: dict[str, type[ServerWorld]] = {
    **dict.fromkeys(("server_resize", "confirm_resize", "revert_resize"), Stays),
    **dict.fromkeys(("server_migrate", "confirm_move", "revert_move"), ServerWorld),
    "live_migrate": Merged,
    "server_evacuate": Dead,
    **dict.fromkeys((RESIZE, MIGRATE, CONFIRM, REVERT), TwoCells),
}
# The volumes of an evacuated server may be on the host that is down; in one place the ledger knows local disks alone.
LOCAL_ONLY = ("server_evacuate", "server_resize", "confirm_resize", "revert_resize")
EACH = [(k, s) for k in MOVES for s in SHAPES if s == "local" or k not in LOCAL_ONLY]


@pytest.fixture(autouse=True)
def spoken() -> Iterator[None]:
    """No test leaves another one an older language."""
    yield
    speak(None)


def listening(world: ServerWorld, reader: Reader) -> ServerWorld:
    """Have a reader hear every message of a world, whoever sends it and whoever gets it; also the answers."""
    publish, request = world.bus.plain.publish, world.bus.plain.request

    def said(subject: str, body: bytes) -> None:
        reader.take(body)
        publish(subject, body)

    def asked(subject: str, body: bytes, timeout_s: float) -> bytes:
        reader.take(body)
        reply = request(subject, body, timeout_s)
        reader.take(reply)
        return reply

    world.bus.plain.publish = said  # type: ignore[method-assign]
    world.bus.plain.request = asked  # type: ignore[method-assign]
    return world


def at_rest(world: ServerWorld, operation: str, reader: Reader) -> None:
    """Have a reader read what is journaled of an operation: parameters and results."""
    table = stores.CELL.tables["operation"]
    mine = sa.select(table).where(table.c.id == operation)
    (row,) = [r for db in world.databases.values() for r in db.read(lambda tx: tx.select(mine))]
    for column in row:
        if isinstance(column, (str, bytes)):
            reader.take(column)


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
@pytest.mark.parametrize(("kind", "shape"), EACH)
def test_the_older_release_can_read_all_of_it(
    kind: str, shape: str, release: Release, tmp_path: Path
) -> None:
    """OBJ-4, OBJ-10: so it does not matter which of the hosts and conductors are of which release."""
    speak(release.versions)
    reader = Reader(release)
    world = listening(MOVES[kind](tmp_path, kind, SHAPES[shape]), reader)
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    at_rest(world, operation, reader)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean
    params = saga_of(kind).params.__name__
    assert reader.seen[params] and reader.seen["Order"] and reader.seen["Answer"]


def _saga(kind: str) -> Saga:
    return SAGAS.get(kind) or saga_of(kind)


def _kills(kind: str) -> list[Case]:
    """Return the cases in which the conductor dies between two steps, on its way and on its way back."""
    saga = _saga(kind)
    cases: list[Case] = [(Fault(s.name, DO, RECORDED, KILL),) for s in saga.steps]
    if saga.forward_only:
        return cases
    last = last_reversible(saga)
    trigger = TRIGGER if kind == "live_migrate" else Fault(last, DO, AFTER, ERROR)
    for step in saga.steps[: saga.positions[last] + 1]:
        if not isinstance(step.undo if isinstance(step, Step) else step.undo_order, NoUndo):
            cases.append((trigger, Fault(step.name, UNDO, RECORDED, KILL)))
    return cases


def taken_over(of: type[ServerWorld], releases: tuple[Release | None, ...]) -> type[ServerWorld]:
    """Return a world in which the conductor that begins is of the first release, the next one of the second."""

    class TwoReleases(of):  # type: ignore[valid-type, misc]
        def engine(self, faults: Faults | None = None) -> Engine:
            now = releases[min(len(self.engines), 1)]
            speak(None if now is None else now.versions)
            made: Engine = super().engine(faults)
            return made

    return TwoReleases


CASES = [(kind, case) for kind in MOVES for case in _kills(kind)]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_a_newer_conductor_ends_what_an_older_one_began(
    kind: str, case: Case, tmp_path: Path
) -> None:
    """R18: from every step, and from every step of the way back."""
    of = taken_over(MOVES[kind], (RELEASES[0], None))
    check_case(of(tmp_path, kind, SHAPES["local"]), _saga(kind), case)


@pytest.mark.parametrize(("kind", "case"), CASES[::3], ids=_ids)
def test_an_older_conductor_ends_what_a_newer_one_began(
    kind: str, case: Case, tmp_path: Path
) -> None:
    """R18, OBJ-10: while an older one may be there, nobody journals what it cannot read."""
    of = taken_over(MOVES[kind], (RELEASES[-1], RELEASES[-1]))
    world = of(tmp_path, kind, SHAPES["local"])
    reader = Reader(RELEASES[-1])
    check_case(listening(world, reader), _saga(kind), case)
    assert reader.seen
