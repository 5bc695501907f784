"""Servers under several conductors: one is killed or sleeps at every point of an operation, another one ends it."""

from dataclasses import replace
from pathlib import Path

import pytest

from kilonova.reconcile import ports
from kilonova.saga.definition import Saga
from kilonova.saga.faults import Fault
from tests.operations.harness import Case, case_id, check_case, points_of, run_case, zombies_of
from tests.operations.server_world import ONE, SETUP, ServerWorld, Shape
from tests.operations.server_world import saga_of as whole_saga_of
from tests.operations.test_server_resize import SAGAS as STAYS

KINDS = ("server_create", "server_delete", "server_resize", "confirm_resize", "revert_resize")
SKIP = {
    "server_create": frozenset(("volumes", "in_use")),
    "server_delete": frozenset(("volumes", "kept")),
}
OTHERS = sorted(set(SETUP) - set(KINDS) - {"server_evacuate"})
BACKED = Shape(boot=True, own=1)


class SharedWorld(ServerWorld):
    """Its conductors have leases. A server that is resized has no other host to go to."""

    shared = True

    def __init__(self, root: Path, kind: str, shape: Shape = ONE) -> None:
        super().__init__(root, kind, shape, **({"hosts": 1} if kind in STAYS else {}))


def saga_of(kind: str) -> Saga:
    """Return the steps that can be reached in this world."""
    return STAYS.get(kind) or whole_saga_of(kind)


def kills_of(kind: str) -> list[Case]:
    """Return the cases of a kind with a kill in them."""
    return [
        c for c in points_of(saga_of(kind), SKIP.get(kind, frozenset())) if c[-1].kind == "kill"
    ]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


ZOMBIES = [(k, c) for k in KINDS for c in zombies_of(saga_of(k), SKIP.get(k, frozenset()))]
KILLS = [(k, c) for k in KINDS for c in kills_of(k)]


@pytest.mark.parametrize(("kind", "case"), KILLS, ids=_ids)
def test_another_conductor_ends_what_a_killed_one_began(
    kind: str, case: Case, tmp_path: Path
) -> None:
    """R2, R3: within the lease, with nothing lost, doubled or left."""
    check_case(SharedWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize(("kind", "case"), ZOMBIES, ids=_ids)
def test_a_conductor_that_slept_beyond_its_lease(kind: str, case: Case, tmp_path: Path) -> None:
    """R8: it wakes after another one has ended the operation, and changes nothing."""
    check_case(SharedWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("kind", ["server_create", "server_delete"])
def test_the_same_with_volumes(kind: str, tmp_path: Path) -> None:
    """R8: a server that boots from a volume and has another one."""
    for n, case in enumerate(zombies_of(saga_of(kind), frozenset(("kept",)))):
        # the volume that the create makes has a step of that name too
        own = tuple(replace(f, skip=1) if f.step == "finish" else f for f in case)
        world = SharedWorld(tmp_path / str(n), kind, BACKED)
        check_case(world, saga_of(kind), own if kind == "server_create" else case)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_a_sleeper_in_every_other_operation(kind: str, tmp_path: Path) -> None:
    """R8: at every point that one fault reaches."""
    shape = Shape(spare=1) if kind.startswith("volume_") else ONE
    for n, case in enumerate(zombies_of(saga_of(kind))):
        world = SharedWorld(tmp_path / str(n), kind, shape)
        check_case(world, saga_of(kind), case, states=["done", "failed"], all_hit=False)


def test_what_a_sleeper_makes_too_late_is_taken_back(tmp_path: Path) -> None:
    """R8: it wakes in the middle of a call to the network service, and the create has been unwound meanwhile."""
    world = SharedWorld(tmp_path, "server_create")
    asleep = Fault("ports", "do", "before", "pause")
    outcome = run_case(world, (asleep, Fault("build", "do", "after", "error")))
    assert (outcome.state, outcome.missed) == ("failed", [])
    clean = dict(world.clean("failed"))
    assert outcome.ledger != clean, "else there was nothing to take back"
    for _ in range(3):
        world.clock.advance(2 * ports.EVERY_S)
        ports.run(world.services)
    ledger = dict(world.ledger())
    world.close()
    assert ledger == clean
