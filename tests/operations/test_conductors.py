"""Several conductors on one set of databases: nobody's death or sleep loses or doubles anything (the sample)."""

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import SYSTEM
from kilonova.db.engine import Row
from kilonova.db.sql import P, Q
from kilonova.saga import journal, leases
from kilonova.saga.engine import Engine
from kilonova.saga.faults import Fault, Faults, Killed
from kilonova.saga.lease import Place
from kilonova.saga.leases import LEASE_S, RENEW_S, LeaseOwner
from kilonova.saga.schema import TABLES
from kilonova.saga.state import STATE_COLUMNS
from tests import databases
from tests.operations.harness import Case, case_id, check_case, points_of, zombies_of
from tests.operations.sample import SAMPLE, Agent, SampleWorld, clean


class SharedWorld(SampleWorld):
    """Its engines have leases."""

    shared = True


def opened(world: SampleWorld, faults: Faults | None = None) -> Engine:
    engine = world.engine(faults)
    engine.open()
    return engine


def name_of(engine: Engine) -> str:
    return engine.ownership.name_in("global")


def row_of(world: SampleWorld, op: str) -> Row:
    return world.home.read(lambda tx: journal.get(tx, op))


def owner_of(world: SampleWorld, op: str) -> str | None:
    owner: str | None = row_of(world, op)["owner"]
    return owner


@pytest.mark.parametrize("case", points_of(SAMPLE), ids=case_id)
def test_one_fault_at_every_point_ends_clean(case: Case, tmp_path: Path) -> None:
    """R1, R3: a conductor that was killed is followed by another one once its lease is over."""
    check_case(SharedWorld(tmp_path), SAMPLE, case)


@pytest.mark.parametrize("case", zombies_of(SAMPLE), ids=case_id)
def test_a_zombie_doubles_nothing(case: Case, tmp_path: Path) -> None:
    """R8: a conductor sleeps beyond its lease at every point; another one ends the operation; it wakes and goes on."""
    check_case(SharedWorld(tmp_path), SAMPLE, case)


def test_without_the_fence_a_zombie_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22: a journal that asks for no fence lets some zombie's case fail."""
    o = TABLES.operation
    unfenced = sa.update(o).where(o.c.id == P("the_id"))
    values: dict[str, Any] = {
        **{n: P(n) for n in STATE_COLUMNS},
        "owner": P("owner"),
        "updated_at": P("updated_at"),
    }
    monkeypatch.setattr(journal, "_SAVE", Q(unfenced.values(values)))
    # The key (operation, seq) of a step's row is a second line of defence: it goes too.
    monkeypatch.setattr(journal, "add_step", lambda *args: None)
    caught = 0
    for n, case in enumerate(zombies_of(SAMPLE)):
        directory = tmp_path / str(n)
        directory.mkdir()
        try:
            check_case(SharedWorld(directory), SAMPLE, case)
        except (AssertionError, RuntimeError):
            caught += 1
    assert caught > 0


def test_a_planned_stop_hands_over_at_once(tmp_path: Path) -> None:
    """R5: what a conductor had is another's in the same second."""
    world = SharedWorld(tmp_path)
    world.agent.silent = True
    first, second = opened(world), opened(world)
    _, op = world.begin()
    first.nudge("global", op)
    first.run_until_idle(advance=False)
    assert owner_of(world, op) == name_of(first)
    fence = row_of(world, op)["fence"]
    world.agent.silent = False
    first.stop()
    second.run_until_idle(advance=False)
    row = row_of(world, op)
    assert (row["state"], row["owner"]) == ("done", name_of(second))
    assert row["fence"] > fence
    second.stop()
    assert world.ledger() == clean({"done": 1})
    world.close()


def test_a_conductor_that_starts_again_need_not_wait(tmp_path: Path) -> None:
    """R3: the kernel's lock on its place shows that the one before is dead; one that runs beside keeps its own."""
    world = SharedWorld(tmp_path)
    world.agent.silent = True
    places = [Place(tmp_path), Place(tmp_path)]
    engines = [world.engine(ownership=LeaseOwner(world.clock, p)) for p in places]
    ops = []
    for engine in engines:
        engine.open()
        ops.append(world.begin()[1])
        engine.nudge("global", ops[-1])
        engine.run_until_idle(advance=False)
    assert [owner_of(world, op) for op in ops] == [name_of(e) for e in engines]
    engines[0].abandon()
    places[0].close()  # as the kernel does when the process dies
    again = Place(tmp_path)
    world.agent.silent = False
    second = world.engine(ownership=LeaseOwner(world.clock, again))
    second.open()
    second.run_until_idle(advance=False)
    assert row_of(world, ops[0])["state"] == "done"
    assert owner_of(world, ops[1]) == name_of(engines[1])
    engines[1].run_until_idle()
    for engine in (second, engines[1]):
        engine.stop()
    for place in (again, places[1]):
        place.close()
    assert world.ledger() == clean({"done": 2})
    world.close()


def test_a_place_whose_file_was_cut_off_is_empty(tmp_path: Path) -> None:
    (tmp_path / "conductor-0.lock").write_text('{"global": ["conductor-')
    place = Place(tmp_path)
    assert place.before("global") == []
    place.note("global", ["a"])
    place.close()
    again = Place(tmp_path)
    assert again.before("global") == ["a"]
    again.close()


def test_operations_of_a_live_conductor_are_left_alone(tmp_path: Path) -> None:
    """OWN-1: neither a sweep nor a nudge makes another conductor take what a live one has; the owner is told."""
    world = SharedWorld(tmp_path)
    world.agent.silent = True
    first, second = opened(world), opened(world)
    _, op = world.begin()
    first.nudge("global", op)
    first.run_until_idle(advance=False)
    for _ in range(20):
        world.clock.advance(RENEW_S)
        first.sweep()
        second.run_until_idle(advance=False)
        first.run_until_idle(advance=False)
    assert owner_of(world, op) == name_of(first)
    world.home.write(lambda tx: journal.request_cancel(tx, op, world.clock.now()))
    second.nudge("global", op)
    second.run_until_idle(advance=False)
    world.agent.silent = False
    first.run_until_idle()
    row = row_of(world, op)
    assert (row["state"], row["owner"]) == ("cancelled", name_of(first))
    for engine in (first, second):
        engine.stop()
    world.close()


def test_a_conductor_that_cannot_renew_stops_before_others_take_over(tmp_path: Path) -> None:
    """OWN-2: between 8 s and 10 s after the last renewal nobody acts."""
    world = SharedWorld(tmp_path)
    first = opened(world)
    world.clock.advance(leases.STOP_AFTER_S - 0.1)
    assert first.ownership.holds("global")
    world.clock.advance(0.2)
    assert not first.ownership.holds("global")
    _, op = world.begin()
    first.nudge("global", op)
    assert first.step_once()
    assert owner_of(world, op) is None
    second = opened(world)
    assert leases_ended(world) == []
    world.clock.advance(LEASE_S)
    second.sweep()
    assert leases_ended(world) == [name_of(first)]
    world.close()


def leases_ended(world: SampleWorld) -> list[str]:
    rows = world.home.read(lambda tx: tx.select(sa.select(TABLES.incarnation)))
    return [r["name"] for r in rows if r["ended_at"] is not None]


def test_a_conductor_that_was_taken_for_dead_begins_anew(tmp_path: Path) -> None:
    """OWN-3: it gets another name and works on."""
    world = SharedWorld(tmp_path)
    first, second = opened(world), opened(world)
    old = name_of(first)
    world.clock.advance(LEASE_S + 1)
    second.sweep()
    first.sweep()
    assert name_of(first) != old
    _, op = world.begin()
    first.nudge("global", op)
    first.run_until_idle()
    assert owner_of(world, op) == name_of(first)
    for engine in (first, second):
        engine.stop()
    assert world.ledger() == clean({"done": 1})
    world.close()


def test_a_jump_of_the_clock_is_applied_once(tmp_path: Path) -> None:
    """R16: each conductor moves the times of its own operations; those of others stay as they are."""
    world = SharedWorld(tmp_path)
    world.agent.silent = True
    first, second = opened(world), opened(world)
    ops = [world.begin()[1] for _ in range(2)]
    for engine, op in zip((first, second), ops, strict=True):
        engine.nudge("global", op)
        engine.run_until_idle(advance=False)
    before = [row_of(world, op)["wake_at"] for op in ops]
    world.clock.jump(-3600.0)
    first.sweep()
    second.sweep()
    after = [row_of(world, op)["wake_at"] for op in ops]
    assert [round(a - b) for a, b in zip(after, before, strict=True)] == [-3600, -3600]
    world.agent.silent = False
    first.run_until_idle()
    second.run_until_idle()
    assert world.ledger() == clean({"done": 2})
    for engine in (first, second):
        engine.stop()
    world.close()


def test_one_conductor_leads(tmp_path: Path) -> None:
    """OWN-4: the oldest that lives; the next one when it is gone."""
    world = SharedWorld(tmp_path)
    engines = [opened(world) for _ in range(3)]
    assert [e.leads("global") for e in engines] == [True, False, False]
    engines[0].stop()
    assert [e.leads("global") for e in engines] == [False, True, False]
    world.clock.advance(LEASE_S + 1)
    engines[2].sweep()
    assert [e.leads("global") for e in engines[1:]] == [False, True]
    world.close()


def test_the_limits_of_hosts_are_shared_evenly(tmp_path: Path) -> None:
    """QUEUE-2: ten builds at a host, over two conductors five each."""
    world = SharedWorld(tmp_path)
    world.agent.silent = True
    first = opened(world)
    ops = [world.begin()[1] for _ in range(24)]
    second = opened(world)
    first._tend("global", force=True)
    for engine, mine in ((first, ops[:12]), (second, ops[12:])):
        for op in mine:
            engine.nudge("global", op)
        while engine.step_once():
            pass
    rows = [row_of(world, op) for op in ops]
    assert sum(r["waits_for"] == "answer" for r in rows) == 10
    world.agent.silent = False
    for _ in range(40):
        world.clock.advance(RENEW_S)
        for engine in (first, second):
            engine.run_until_idle(advance=False)
    assert world.ledger() == clean({"done": 24})
    for engine in (first, second):
        engine.stop()
    world.close()


# -- threads and real clocks


def test_three_conductors_share_the_work_and_one_dies(tmp_path: Path) -> None:
    """R2, R3: own connections, real threads; one is killed in the middle, all operations end, nothing is doubled."""
    world = SharedWorld(tmp_path)
    bus = MemoryBus(workers=2)
    agent = Agent(bus, "h1")
    faults = Faults(Fault("copy", "do", "after", "kill", skip=3))
    dbs = [
        {n: databases.at(tmp_path / f"{n}.db", n) for n in ("global", "cell1")} for _ in range(3)
    ]
    engines = [
        Engine(d, bus, world.services, workers=2, faults=f, ownership=LeaseOwner(SYSTEM))
        for d, f in zip(dbs, (faults, None, None), strict=True)
    ]
    for engine in engines:
        engine.start()
    ops = [world.begin(clock=SYSTEM)[1] for _ in range(60)]
    for op in ops:
        bus.publish("nudge.global", op.encode())
    assert {engines[1].wait("global", op, 60.0) for op in ops} == {"done"}
    assert faults.missed == []
    assert isinstance(engines[0].crashed, Killed)
    owners = {owner_of(world, op) for op in ops}
    assert {name_of(e) for e in engines[1:]} <= owners
    for engine in engines:
        engine.stop()
    assert threading.active_count() < 50
    bus.close()
    world.agent.guests = agent.guests
    assert world.ledger() == clean({"done": 60})
    world.close()
    for d in dbs:
        for db in d.values():
            db.close()
