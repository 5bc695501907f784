"""Writes of one thread that commit together: with either durability, beside other writers, and after an error."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import Unavailable
from kilonova.db import idempotency, versions
from kilonova.db.engine import Database, Tx
from kilonova.db.idempotency import Key
from kilonova.db.opening import open_database
from kilonova.db.sqlite import SqliteDatabase
from kilonova.operations import stores
from tests import databases


@pytest.fixture(params=["NORMAL", "FULL", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param in databases.KINDS:
        made = open_database(databases.url(request.param, tmp_path), "x")
    else:
        made = SqliteDatabase(tmp_path / "x.db", "x", request.param)
    versions.ensure(made, stores.WORLD)
    yield made
    made.close()


def key(name: str) -> Key:
    return Key("p", "u", "POST", "/", name)


def add(name: str) -> Any:
    return lambda tx: idempotency.reserve(tx, key(name), body_hash="", minted="[]", now=1.0)


def there(database: Database, *names: str) -> list[bool]:
    return [database.read(lambda tx, n=n: idempotency.find(tx, key(n))) is not None for n in names]


def test_all_or_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.together():
        database.write(add("a"))
        database.write(add("b"))
        raise KeyError
    assert there(database, "a", "b") == [False, False]
    with database.together():
        database.write(add("a"))
        database.write(add("b"))
    assert there(database, "a", "b") == [True, True]


def test_a_part_that_fails_leaves_the_others(database: Database) -> None:
    def broken(tx: Tx) -> None:
        add("b")(tx)
        tx.after_commit(lambda: told.append("b"))
        raise ValueError("b")

    told: list[str] = []
    with database.together():
        database.write(add("a"))
        with pytest.raises(ValueError, match="b"):
            database.write(broken)
        database.write(lambda tx: tx.after_commit(lambda: told.append("c")))
    assert there(database, "a", "b") == [True, False] and told == ["c"]


def test_others_wait_and_see_nothing_of_it(database: Database) -> None:
    seen: list[bool] = []
    wrote = threading.Event()

    def other() -> None:
        seen.extend(there(database, "a"))
        wrote.set()
        database.write(add("b"))
        seen.extend(there(database, "a", "b"))

    with database.together():
        database.write(add("a"))
        beside = threading.Thread(target=other)
        beside.start()
        assert wrote.wait(30)
        assert there(database, "a") == [True], "its own thread reads what it wrote"
    beside.join(30)
    assert (seen[0], seen[2]) == (False, True)
    if database.is_local:  # one file has one writer, who is waited for; a server has many
        assert seen[1]


def test_a_block_without_a_write_holds_nobody_up(database: Database) -> None:
    with database.together():
        assert there(database, "a") == [False]
        beside = threading.Thread(target=lambda: database.write(add("a")))
        beside.start()
        beside.join(30)
        assert there(database, "a") == [True]


def test_a_closed_database_is_refused_and_the_writer_given_back(database: Database) -> None:
    database.close()
    for _ in range(2):
        with pytest.raises(Unavailable), database.together():
            database.write(add("a"))
