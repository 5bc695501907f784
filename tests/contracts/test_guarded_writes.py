"""R10: guarded writes (READ COMMITTED on PostgreSQL): what is compared and swapped, inserted by key or locked holds.

docs/decisions/guarded-writes.md says which writes are guarded and why that is as if they came one after the other.
"""

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.common.errors import Conflict
from kilonova.common.ids import new_uuid
from kilonova.db import versions
from kilonova.db.engine import Database, Tx
from kilonova.db.opening import open_database
from kilonova.db.sql import P, Q
from kilonova.operations import stores
from kilonova.placement import claims, providers
from kilonova.placement.inventories import Inventory
from kilonova.placement.schema import allocation, consumer
from tests import databases
from tests.contracts.test_database import ADD, COUNT, EMPTY, GET, META, beside, get, thing

PROCESSES = 3
ROOM = 20
SWAP = Q(
    sa.update(thing).where(thing.c.id == P("id_"), thing.c.n == P("seen")).values(n=P("seen") + 1)
)
BUMP = Q(sa.update(thing).where(thing.c.id == P("id_")).values(n=thing.c.n + 1))


@pytest.fixture(params=databases.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def db(kind: str, tmp_path: Path) -> Iterator[Database]:
    with databases.opened(kind, tmp_path) as made:
        versions.ensure(made, META)
        yield made


def test_what_is_compared_and_swapped_is_swapped_once(db: Database) -> None:
    db.write(lambda tx: tx.run(ADD, id="a", **EMPTY))
    lost: list[int] = []

    def work() -> None:
        for _ in range(30):
            while not db.write(swap, guarded=True):
                lost.append(1)

    def swap(tx: Tx) -> bool:
        return tx.run(SWAP, id_="a", seen=tx.one(GET, id="a")["n"]) == 1

    beside(*[work] * 4)
    assert get(db, "a")["n"] == 120


def test_a_row_that_was_changed_first_is_held_to_the_end(db: Database) -> None:
    """Lock, then count, then insert: as a claim does."""
    db.write(lambda tx: tx.run(ADD, id="lock", **EMPTY))
    limit = 7

    def one(tx: Tx, name: str) -> None:
        tx.run(BUMP, id_="lock")
        if tx.value(COUNT) - 1 < limit:
            tx.run(ADD, id=name, **{**EMPTY, "n": 1})

    def work(who: int) -> None:
        for i in range(5):
            db.write(lambda tx, i=i: one(tx, f"{who}-{i}"), guarded=True)  # type: ignore[misc]

    beside(*[lambda who=who: work(who) for who in range(5)])
    assert db.ask(lambda tx: tx.value(COUNT)) - 1 == limit


def test_a_key_that_was_taken_meanwhile_runs_it_again(db: Database) -> None:
    seen: list[bool] = []

    def make(tx: Tx) -> bool:
        there = tx.one(GET, id="a") is not None
        seen.append(there)
        if len(seen) == 1 and not db.is_local and "mysql" not in db.backend.dialect.name:  # type: ignore[attr-defined]
            beside(lambda: db.write(lambda other: other.run(ADD, id="a", **EMPTY)))
        if not there:
            tx.run(ADD, id="a", **{**EMPTY, "n": 5})
        return there

    assert db.write(make, guarded=True) == seen[-1]
    assert get(db, "a") is not None
    if "postgresql" in str(getattr(db, "backend", "")):
        assert seen == [False, True], "another committed between two statements"


def test_a_guarded_write_that_fails_leaves_nothing(db: Database) -> None:
    def broken(tx: Tx) -> None:
        tx.run(ADD, id="a", **EMPTY)
        raise Conflict("no")

    with pytest.raises(Conflict):
        db.write(broken, guarded=True)
    assert get(db, "a") is None


# -- claims of several processes


def _claim(db: Database, who: str, provider: str) -> str:
    def write(tx: Tx) -> claims.Change:
        amounts = {provider: {"VCPU": 1}}
        return claims.claim(tx, consumer=who, project="p", user="u", amounts=amounts, now=1.0)

    try:
        return "again" if db.write(write, guarded=True).repeated else "won"
    except claims.OverCapacity:
        return "full"


def _claimer(url: str, seed: int, provider: str, shared: list[str], out: Any) -> None:
    """Claim for consumers of its own and for those that every process claims for, in an order of its own."""
    db = open_database(url, "global")
    asked = [new_uuid() for _ in range(ROOM)] + shared
    random.Random(seed).shuffle(asked)
    out.put({who: _claim(db, who, provider) for who in asked})
    db.close()


def _world(url: str) -> tuple[Database, str]:
    db = open_database(url, "global")
    versions.ensure(db, stores.WORLD)
    provider = new_uuid()
    stock = {"VCPU": Inventory(ROOM)}
    db.write(
        lambda tx: providers.ensure_host(tx, uuid=provider, name="h", inventory=stock, now=1.0)
    )
    return db, provider


def test_processes_fill_a_provider_exactly(kind: str, tmp_path: Path) -> None:
    """No claim is lost, doubled or over capacity, and the generation counts each of them once."""
    url = databases.url(kind, tmp_path)
    db, provider = _world(url)
    before = db.read(lambda tx: providers.get(tx, provider)).generation
    shared = [new_uuid() for _ in range(5)]
    spawn = multiprocessing.get_context("spawn")
    out: Any = spawn.Queue()
    made = [
        spawn.Process(target=_claimer, args=(url, seed, provider, shared, out))
        for seed in range(PROCESSES)
    ]
    for p in made:
        p.start()
    answers = [out.get(timeout=120) for _ in made]
    for p in made:
        p.join(60)
    won = [who for a in answers for who, what in a.items() if what == "won"]
    again = {who for a in answers for who, what in a.items() if what == "again"}
    assert len(won) == len(set(won)) == ROOM, "as many as there is room for, each once"
    assert again <= set(won) & set(shared)
    rows = db.read(lambda tx: tx.select(sa.select(allocation.c.consumer, allocation.c.used)))
    assert sorted(r[0] for r in rows) == sorted(won) and {r[1] for r in rows} == {1}
    named = db.read(lambda tx: tx.select(sa.select(consumer.c.uuid)))
    assert sorted(r[0] for r in named) == sorted(won)
    after = db.read(lambda tx: providers.get(tx, provider)).generation
    assert after - before == ROOM
    db.close()
