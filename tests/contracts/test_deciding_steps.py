"""R8: an operation that begins with a mere decision is owned by whoever journals its first transition first.

Taking it costs no commit of its own; two conductors may decide side by side, one of them goes on.
"""

import time
from typing import Any

import pytest

from kilonova.db.engine import Database
from kilonova.saga import journal
from kilonova.saga.definition import NoUndo, Saga, Step, register
from kilonova.saga.journal import Fenced
from kilonova.saga.leases import LeaseOwner
from kilonova.saga.state import RUNNING, Live
from tests.contracts import test_leases as leases_contract
from tests.contracts.test_leases import accept, dead, live, opened, together
from tests.operations.sample import SampleParams

db = leases_contract.db  # the fixture
_STEPS = tuple(
    Step(name, lambda run: None, NoUndo("does nothing"), 5.0, decides=name == "decide")
    for name in ("decide", "act")
)
DECIDING = register(Saga(kind="deciding", version=1, params=SampleParams, steps=_STEPS))


def owned(db: Database, owner: LeaseOwner, operation: str) -> Live:
    found = live(db, operation)
    before = db.statements
    assert owner.own(db, found)
    assert db.statements == before, "taking it asks the database nothing"
    return found


def first_move(db: Database, found: Live) -> bool:
    state = found.state.but(state=RUNNING, step="act", seq=2)
    saved = db.write(lambda tx: journal.save(tx, found, state, time.time()), guarded=True)
    found.unowned = found.unowned and not saved
    return saved


def row_of(db: Database, operation: str) -> Any:
    return db.read(lambda tx: journal.get(tx, operation))


def test_one_of_those_that_decide_side_by_side_goes_on(db: Database) -> None:
    owners = [opened(db) for _ in range(3)]
    for _ in range(8):
        operation = accept(db, DECIDING)
        born = row_of(db, operation)["fence"]
        held = [owned(db, o, operation) for o in owners]
        assert row_of(db, operation)["owner"] is None
        won: list[str | None] = []

        def move(mine: Live, won: list[str | None] = won) -> None:
            try:
                assert first_move(db, mine)
            except Fenced:
                return
            won.append(mine.owner)

        together(*[lambda mine=mine, move=move: move(mine) for mine in held])
        row = row_of(db, operation)
        assert won == [row["owner"]] and row["fence"] == born + 1 and row["step"] == "act"
    for o in owners:
        o.retire(db, time.time())


def test_what_follows_is_saved_by_its_owner(db: Database) -> None:
    owner = opened(db)
    operation = accept(db, DECIDING)
    held = owned(db, owner, operation)
    assert first_move(db, held)
    fence = row_of(db, operation)["fence"]
    assert first_move(db, held) and row_of(db, operation)["fence"] == fence == held.fence
    again = live(db, operation)
    assert owner.own(db, again) and not again.unowned
    owner.retire(db, time.time())


def test_who_was_declared_dead_owns_nothing(db: Database) -> None:
    sleeper, other = opened(db), opened(db)
    operation = accept(db, DECIDING)
    held = owned(db, sleeper, operation)
    dead(db, sleeper)
    other.tend(db, time.time(), force=True)
    with pytest.raises(Fenced):
        first_move(db, held)
    assert row_of(db, operation)["owner"] is None
    assert first_move(db, owned(db, other, operation))
    other.retire(db, time.time())


def test_a_cancel_meanwhile_is_seen_and_the_operation_is_still_to_be_had(db: Database) -> None:
    owner = opened(db)
    operation = accept(db, DECIDING)
    held = owned(db, owner, operation)
    db.write(lambda tx: journal.request_cancel(tx, operation))
    assert not first_move(db, held)
    held.cancelled = True
    assert first_move(db, held)
    assert row_of(db, operation)["owner"] == owner.name_in(db.name)
    owner.retire(db, time.time())
