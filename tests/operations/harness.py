"""Faults at every point of every step: what each operation's tests are made of (RELIABILITY R1, R1b, R22).

An operation brings a World (its databases, hosts, neighbours, and a ledger of everything that it can leave); the cases
follow from its definition. Everything runs on one thread with a ManualClock: cases are exact and take milliseconds.

    @pytest.mark.parametrize("faults", points_of(SAGA), ids=case_id)
    def test_every_fault_ends_clean(faults, tmp_path):
        check_case(MyWorld(tmp_path), SAGA, faults)
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kilonova.common.clock import ManualClock
from kilonova.saga.definition import Ask, NoUndo, Saga, Step
from kilonova.saga.engine import Engine
from kilonova.saga.faults import (
    AFTER,
    BEFORE,
    ERROR,
    KILL,
    LOST,
    PAUSE,
    RECORDED,
    SENT,
    TWICE,
    UNWOUND,
    Fault,
    Faults,
    Killed,
)
from kilonova.saga.leases import LEASE_S
from kilonova.saga.state import DO, DONE, FAILED, UNDO

Case = tuple[Fault, ...]
INCARNATIONS = 10


class World(Protocol):
    """What one case runs in; made anew for each. shared: its engines own operations by lease."""

    clock: ManualClock
    shared: bool

    def engine(self, faults: Faults | None) -> Engine:
        """Return a new engine on this world's databases, bus and ManualClock, not opened yet."""
        ...

    def begin(self) -> tuple[str, str]:
        """Accept the operation; return (home database, operation id)."""
        ...

    def ledger(self) -> Mapping[str, Any]:
        """Count everything that the operation may leave anywhere."""
        ...

    def clean(self, state: str) -> Mapping[str, Any]:
        """Return what the ledger must be after the operation ended in ``state``."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    state: str
    incarnations: int
    missed: list[Fault]
    ledger: Mapping[str, Any]


class Watched(Faults):
    """Faults whose every point, struck or not, is shown to somebody first: what is seen from outside just then."""

    def __init__(
        self, look: Callable[[str], None], *faults: Fault, pause: Callable[[Fault], None]
    ) -> None:
        super().__init__(*faults, pause=pause)
        self._look = look

    def at(self, step: str, direction: str, when: str) -> str | None:
        """Look, then strike."""
        self._look(f"{step}:{direction}:{when}")
        return super().at(step, direction, when)


def case_id(case: Case) -> str:
    """Return a readable test id."""
    return "+".join(str(f) for f in case) or "undisturbed"


def _undoable(step: Step | Ask) -> bool:
    undo = step.undo if isinstance(step, Step) else step.undo_order
    return not isinstance(undo, NoUndo) or step.unrecord is not None


def last_reversible(saga: Saga) -> str:
    """Return the name of the last step whose failure unwinds everything."""
    for step in saga.steps:
        if step.point_of_no_return:
            return step.name
    return saga.steps[-1].name


def _around(step: Step | Ask, direction: str) -> list[Fault]:
    double = SENT if isinstance(step, Ask) else BEFORE
    times = 3 if direction == UNDO else 1
    return [
        Fault(step.name, direction, BEFORE, ERROR, times=times),
        Fault(step.name, direction, BEFORE, KILL),
        Fault(step.name, direction, double, TWICE),
        Fault(step.name, direction, AFTER, ERROR),
        Fault(step.name, direction, AFTER, KILL),
        Fault(step.name, direction, AFTER, LOST),
        Fault(step.name, direction, RECORDED, ERROR),
        Fault(step.name, direction, RECORDED, KILL),
    ]


def points_of(
    saga: Saga, skip: frozenset[str] = frozenset(), trigger: Fault | None = None
) -> list[Case]:
    """Return one case per point, kind and direction. skip: steps whose order may be None, so no host is asked.

    trigger: what makes it unwind; None: a failure of the last step that can be taken back.
    """
    cases: list[Case] = []
    steps = [s for s in saga.steps if s.name not in skip]
    for step in steps:
        cases += [(f,) for f in _around(step, DO)]
    if saga.forward_only:
        return cases
    last = last_reversible(saga)
    trigger = trigger or Fault(last, DO, AFTER, ERROR)
    for step in steps:
        if _undoable(step):
            cases += [(trigger, f) for f in _around(step, UNDO)]
        if step.name == last:
            break
    for when in (BEFORE, AFTER):
        cases.append((trigger, Fault(UNWOUND, UNDO, when, ERROR, times=3)))
        cases.append((trigger, Fault(UNWOUND, UNDO, when, KILL)))
    cases.append((trigger, Fault(UNWOUND, UNDO, RECORDED, KILL)))
    return cases


def zombies_of(
    saga: Saga, skip: frozenset[str] = frozenset(), trigger: Fault | None = None
) -> list[Case]:
    """Return a case per point where a conductor sleeps beyond its lease, wakes up, and goes on (R8).

    skip, trigger: as of ``points_of``.
    """
    steps = [s for s in saga.steps if s.name not in skip]
    whens = (BEFORE, AFTER, RECORDED)
    cases: list[Case] = [(Fault(s.name, DO, when, PAUSE),) for s in steps for when in whens]
    if saga.forward_only:
        return cases
    last = last_reversible(saga)
    trigger = trigger or Fault(last, DO, AFTER, ERROR)
    for step in steps:
        if _undoable(step):
            cases += [(trigger, Fault(step.name, UNDO, when, PAUSE)) for when in whens]
        if step.name == last:
            break
    return [*cases, *((trigger, Fault(UNWOUND, UNDO, when, PAUSE)) for when in whens)]


def random_pair(saga: Saga, seed: int) -> Case:
    """Return two faults (R1b), the second often during recovery or unwind; the same ones for the same seed."""
    rng = random.Random(seed)
    every = [f for step in saga.steps for d in (DO, UNDO) for f in _around(step, d)]
    first = rng.choice([f for f in every if f.direction == DO])
    second = rng.choice([f for f in every if f != first])
    return (first, second)


def random_sleeper(saga: Saga, seed: int) -> Case:
    """Return a conductor that sleeps beyond its lease, and one more fault anywhere (R1b, R8).

    Never a sleep just before an effect with an unwind meanwhile: what it makes too late is taken back by a reconciler.
    """
    rng = random.Random(seed)
    every = [f for step in saga.steps for d in (DO, UNDO) for f in _around(step, d)]
    step, direction, other = (
        rng.choice(saga.steps).name,
        rng.choice((DO, DO, UNDO)),
        rng.choice(every),
    )
    whens = (
        (AFTER, RECORDED) if (other.kind, direction) == (ERROR, DO) else (BEFORE, AFTER, RECORDED)
    )
    return (other, Fault(step, direction, rng.choice(whens), PAUSE))


def expected_state(saga: Saga, case: Case) -> str:
    """Return how an operation without retreats must end: an error before the point of no return unwinds it."""
    last = -1 if saga.forward_only else saga.positions[last_reversible(saga)]
    for f in case:
        fatal = f.kind == ERROR and f.direction == DO and f.when != RECORDED
        if fatal and saga.positions[f.step] <= last:
            return FAILED
    return DONE


def run_case(world: World, case: Case) -> Outcome:
    """Run the operation to its end, with a new engine after every kill, and another one in every pause.

    A world with a ``look(point)`` is shown every point of every step.
    """
    others: list[Engine] = []
    faults = Watched(
        getattr(world, "look", lambda _: None),
        *case,
        pause=lambda _: others.append(_taker(world, faults)),
    )
    engine = world.engine(faults)
    engine.open()
    database, operation = world.begin()
    engine.nudge(database, operation)
    for n in range(1, INCARNATIONS + 1):  # noqa: B007
        try:
            engine.run_until_idle()
            state = engine.wait(database, operation, 0.0)
            break
        except Killed:
            engine.abandon()
            engine = world.engine(faults)
            engine.open()
    else:
        raise AssertionError(f"killed {n} times")
    outcome = Outcome(state, n, faults.missed, dict(world.ledger()))
    for e in (engine, *others):
        e.stop()
    return outcome


def _taker(world: World, faults: Faults) -> Engine:
    """A conductor fell asleep: let another one do everything once that lease is over."""
    assert world.shared, "only a conductor with a lease can be overtaken"
    taker = world.engine(faults)
    taker.open()
    world.clock.advance(LEASE_S + 1.0)
    taker.run_until_idle()
    return taker


def check_case(
    world: World,
    saga: Saga,
    case: Case,
    *,
    states: Sequence[str] | None = None,
    all_hit: bool = True,
) -> Outcome:
    """Run a case and demand: it ended as it must, every fault struck, and the ledger is clean.

    states: the end states allowed, when the operation can retreat (None: as ``expected_state`` says).
    """
    try:
        outcome = run_case(world, case)
    finally:
        world.close()
    if all_hit:
        assert not outcome.missed, f"never reached, so nothing was tested: {outcome.missed}"
        assert outcome.state in (states or [expected_state(saga, case)])
    clean = dict(world.clean(outcome.state))
    assert outcome.ledger == clean, f"{case_id(case)} left something"
    return outcome
