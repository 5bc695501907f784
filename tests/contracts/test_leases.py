"""Leases and the log of events on every database: SQLite, PostgreSQL, MariaDB (R8, R16, R22)."""

import functools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from kilonova.common.clock import SYSTEM
from kilonova.common.context import service_context
from kilonova.common.ids import new_uuid
from kilonova.db import actions, notifications, versions
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.schema import cell as c
from kilonova.operations import events, stores
from kilonova.saga import journal, leases
from kilonova.saga.definition import Saga
from kilonova.saga.leases import LEASE_S, LeaseOwner
from kilonova.saga.schema import TABLES
from kilonova.saga.state import Live
from tests import databases
from tests.operations.sample import SAMPLE, SampleParams


@pytest.fixture(params=databases.KINDS, scope="module")
def db(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    with databases.opened(str(request.param), tmp_path_factory.mktemp("leases")) as made:
        versions.ensure(made, stores.CELL)
        yield made


def opened(db: Database) -> LeaseOwner:
    owner = LeaseOwner(SYSTEM)
    owner.open(db, time.time())
    return owner


def accept(db: Database, saga: Saga = SAMPLE) -> str:
    operation = new_uuid()

    def write(tx: Tx) -> None:
        journal.accept(
            tx,
            id=operation,
            kind=saga.kind,
            version=saga.version,
            resource=new_uuid(),
            epoch=1,
            project_id="p",
            context=service_context(),
            params=SampleParams(thing="t"),
        )

    db.write(write)
    return operation


def live(db: Database, operation: str) -> Live:
    found = db.read(lambda tx: journal.load(tx, operation))
    assert isinstance(found, Live)
    return found


def together(*calls: Callable[[], object]) -> None:
    """Call all at the same time; the first error is raised."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        gate.wait(30)
        try:
            call()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    if errors:
        raise errors[0]


def dead(db: Database, owner: LeaseOwner) -> None:
    """Let a lease run out by the database's word."""
    name, i = owner.name_in(db.name), TABLES.incarnation
    db.write(
        lambda tx: tx.change(
            sa.update(i)
            .where(i.c.name == name)
            .values(renewed_at=leases.database_time(tx, time.time()) - LEASE_S - 1)
        )
    )


def test_the_database_s_clock_is_seconds_since_the_epoch(db: Database) -> None:
    """R16: machines of one test agree."""
    assert abs(db.read(lambda tx: leases.database_time(tx, time.time())) - time.time()) < 60


def test_conductors_that_begin_at_once_are_told_apart(db: Database) -> None:
    """OWN-5"""
    owners: list[LeaseOwner] = []
    together(*[lambda: owners.append(opened(db)) for _ in range(6)])
    names = [o.name_in(db.name) for o in owners]
    i = TABLES.incarnation
    rows = db.read(lambda tx: tx.select(sa.select(i.c.fence).where(i.c.name.in_(names))))
    assert len({r[0] for r in rows}) == 6
    for owner in owners:
        owner.retire(db, time.time())


def test_one_of_many_claims(db: Database) -> None:
    """OWN-6: whatever the isolation of the database."""
    owners = [opened(db) for _ in range(4)]
    for _ in range(10):
        _all_claim(db, owners)
    for owner in owners:
        owner.retire(db, time.time())


def _all_claim(db: Database, owners: list[LeaseOwner]) -> None:
    operation = accept(db)
    seen = live(db, operation)
    fence, taken = seen.fence, []

    def take(owner: LeaseOwner) -> None:
        name = owner.name_in(db.name)
        got = db.write(lambda tx: leases.claim(tx, operation, seen=fence, name=name))
        taken.append(name if got else None)

    together(*[functools.partial(take, o) for o in owners])
    winners = [t for t in taken if t is not None]
    row = db.read(lambda tx: journal.get(tx, operation))
    assert winners == [row["owner"]] and row["fence"] == fence + 1


def test_a_dead_conductor_is_fenced_before_anybody_takes_over(db: Database) -> None:
    """R8: from the burial on it can neither renew, nor claim, nor save."""
    sleeper, other = opened(db), opened(db)
    operation, later = accept(db), accept(db)
    held = live(db, operation)
    assert sleeper.own(db, held)
    dead(db, sleeper)
    freed = other.tend(db, time.time(), force=True).freed
    assert operation in freed
    row = db.read(lambda tx: journal.get(tx, operation))
    assert (row["owner"], row["fence"]) == (None, held.fence + 1)
    with pytest.raises(journal.Fenced):
        db.write(lambda tx: journal.save(tx, held, held.state, time.time()))
    assert not sleeper.own(db, live(db, later))
    assert other.own(db, live(db, operation))
    old = sleeper.name_in(db.name)
    assert sleeper.tend(db, time.time(), force=True).lost
    assert sleeper.name_in(db.name) != old
    assert sleeper.own(db, live(db, later))
    for owner in (sleeper, other):
        owner.retire(db, time.time())


def test_a_claim_beside_a_burial_is_not_lost(db: Database) -> None:
    """R8: whichever commits first, the operation ends with somebody alive."""
    for _ in range(8):
        _claim_beside_burial(db)


def _claim_beside_burial(db: Database) -> None:
    sleeper, other = opened(db), opened(db)
    operation = accept(db)
    dead(db, sleeper)
    together(
        lambda: sleeper.own(db, live(db, operation)),
        lambda: other.tend(db, time.time(), force=True),
    )
    other.tend(db, time.time(), force=True)
    assert other.own(db, live(db, operation))
    other.retire(db, time.time())


def test_a_stop_hands_over(db: Database) -> None:
    """R5"""
    first, second = opened(db), opened(db)
    operation = accept(db)
    held = live(db, operation)
    assert first.own(db, held)
    assert first.retire(db, time.time()) == [operation]
    found = live(db, operation)
    assert (found.owner, found.fence) == (None, held.fence + 1)
    assert second.own(db, found)
    second.retire(db, time.time())


# -- the log of events


def _server(tx: Tx) -> str:
    server = new_uuid()
    values = {x.name: "{}" for x in c.server.columns if isinstance(x.type, sa.Text)}
    numbers = {x.name: 0 for x in c.server.columns if not isinstance(x.type, sa.Text)}
    row = {**values, **numbers, "uuid": server, "project_id": "p", "vm_state": "active"}
    tx.change(sa.insert(c.server).values(row))
    return server


def test_an_action_is_told_when_it_begins_and_when_it_ends(db: Database) -> None:
    """NOTE-7: numbers grow in the order of commits; what is rolled back is not told."""
    server = db.write(_server)
    before = db.ask(notifications.newest)
    operation = new_uuid()

    def begin(tx: Tx) -> None:
        ctx = service_context()
        actions.begin(tx, operation=operation, server=server, action="stop", ctx=ctx, now=1.0)

    db.write(begin)
    db.write(begin)
    with pytest.raises(RuntimeError):
        db.write(_finish_and_fail(operation))
    db.write(lambda tx: actions.finish(tx, operation, 2.0))
    db.write(lambda tx: actions.finish(tx, operation, 3.0))
    rows = db.ask(lambda tx: notifications.after(tx, before, 10))
    assert [(r["event"], r["at"], r["vm_state"]) for r in rows] == [
        ("stop:start", 1.0, "active"),
        ("stop:end", 2.0, "active"),
    ]
    assert rows[0]["id"] < rows[1]["id"]


def _finish_and_fail(operation: str) -> Callable[[Tx], None]:
    def fn(tx: Tx) -> None:
        actions.finish(tx, operation, 2.0)
        raise RuntimeError("not committed")

    return fn


def _tell(db: Database, text: str) -> None:
    db.write(lambda tx: notifications.told(tx, "service.update", "h", text, None, 5.0))


def test_old_events_go_and_numbers_go_on(db: Database) -> None:
    """NOTE-8: the newest stays."""
    for n in range(5):
        _tell(db, f'{{"n": {n}}}')
    newest = db.ask(notifications.newest)
    while db.write(lambda tx: notifications.purge(tx, 1e12)):
        pass
    assert [r["id"] for r in db.ask(lambda tx: notifications.after(tx, 0, 10))] == [newest]
    db.write(lambda tx: notifications.told(tx, "service.update", "h", "{}", None, 6.0))
    assert db.ask(notifications.newest) > newest


def test_a_number_that_may_come_yet_is_waited_for() -> None:
    """NOTE-9: on a server numbers are given before the commit."""
    rows: list[Row] = [{"id": n, "at": 100.0} for n in (1, 2, 4)]
    assert [r["id"] for r in events.settled(rows, 0, 101.0, local=False)] == [1, 2]
    assert [r["id"] for r in events.settled(rows, 0, 106.0, local=False)] == [1, 2, 4]
    assert [r["id"] for r in events.settled(rows, 0, 101.0, local=True)] == [1, 2, 4]
