"""What every database does: a SQLite file, PostgreSQL, MariaDB. Writes are as if one came after the other."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.common.config import BadConfig
from kilonova.common.errors import BadRequest, Conflict, Unavailable
from kilonova.db import opening, versions
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.opening import open_database
from kilonova.db.portable import among, gathered, matches, member, whole
from kilonova.db.sql import P, Q, insert, insert_or_ignore, insert_or_replace
from kilonova.db.sqlite import SqliteDatabase
from kilonova.operations import stores
from kilonova.saga import journal
from tests import databases

META = sa.MetaData()
thing = sa.Table(
    "thing",
    META,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("f", sa.Float),
    sa.Column("b", sa.LargeBinary),
    sa.Column("name", sa.Text),
)
sa.Index("ix_thing_f", thing.c.f, sqlite_where=thing.c.f.isnot(None))
numbered = sa.Table(
    "numbered",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("r", sa.REAL),
)
ADD = insert(thing)
GET = Q(sa.select(thing).where(thing.c.id == P("id")))
ALL = Q(sa.select(thing).order_by(thing.c.id))
SET = Q(sa.update(thing).where(thing.c.id == P("id_")).values(n=P("n")))
COUNT = Q(sa.select(sa.func.count()).where(thing.c.n > 0))
DROP = Q(sa.delete(thing).where(thing.c.id == P("id")))
EMPTY: dict[str, Any] = {"n": 0, "f": None, "b": None, "name": None}


@pytest.fixture(params=databases.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def db(kind: str, tmp_path: Path) -> Iterator[Database]:
    with databases.opened(kind, tmp_path) as made:
        versions.ensure(made, META)
        yield made


def add(db: Database, id: str, **values: Any) -> None:
    db.write(lambda tx: tx.run(ADD, id=id, **{**EMPTY, **values}))


def get(db: Database, id: str) -> Row:
    return db.ask(lambda tx: tx.one(GET, id=id))


def ids(rows: list[Row]) -> list[str]:
    return [r["id"] for r in rows]


def beside(*work: Any) -> None:
    """Run functions on a thread each, to their end; the first error is raised."""
    errors: list[BaseException] = []

    def run(fn: Any) -> None:
        try:
            fn()
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(fn,)) for fn in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    if errors:
        raise errors[0]


# -- values and rows


def test_values_come_back_as_they_were(db: Database) -> None:
    values = {"n": 2**62, "f": 1764301945.123457, "b": b"\0\xff'\\", "name": "naïve 🚀 'x' %s \\ ?"}
    add(db, "a", **values)
    add(db, "b")
    row = get(db, "a")
    assert dict(row) == {"id": "a", **values}
    assert dict(get(db, "b")) == {"id": "b", **EMPTY}
    assert type(row["n"]) is int and type(row["f"]) is float and type(row["b"]) is bytes


def test_rows_are_asked_by_place_name_and_slice(db: Database) -> None:
    add(db, "a", n=3)
    row = get(db, "a")
    id_, n, *rest = row
    assert (id_, n, rest) == ("a", 3, [None, None, None])
    assert row[0] == row["id"] == "a" and row[-1] is None
    assert tuple(row[:2]) == ("a", 3) and len(row) == 5
    assert list(row.keys()) == ["id", "n", "f", "b", "name"]
    assert get(db, "missing") is None


def test_counts_are_of_rows_found(db: Database) -> None:
    add(db, "a", n=1)
    assert db.write(lambda tx: tx.run(SET, id_="a", n=1)) == 1, "found, though nothing is new"
    assert db.write(lambda tx: tx.run(SET, id_="b", n=1)) == 0
    change = sa.update(thing).where(thing.c.n == 1).values(n=thing.c.n + 1)
    assert db.write(lambda tx: tx.change(change)) == 1
    assert db.write(lambda tx: tx.run(DROP, id="a")) == 1
    assert db.write(lambda tx: tx.run(DROP, id="a")) == 0


def test_many_rows_in_one_call(db: Database) -> None:
    rows = [{"id": f"i{i:03}", **EMPTY, "n": i} for i in range(120)]
    db.write(lambda tx: tx.many(ADD, rows))
    db.write(lambda tx: tx.many(ADD, []))
    assert [r["n"] for r in db.read(lambda tx: tx.all(ALL))] == list(range(120))
    again = [{"id": "new", **EMPTY}, *rows[60:70], {"id": "newer", **EMPTY}]
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        db.write(lambda tx: tx.many(ADD, again))
    assert get(db, "new") is None, "all or nothing"
    db.write(lambda tx: tx.many(SET, [{"id_": f"i{i:03}", "n": 7} for i in range(5)]))
    assert [r["n"] for r in db.read(lambda tx: tx.all(ALL))][:6] == [7, 7, 7, 7, 7, 5]


def test_sums_and_counts_are_integers(db: Database) -> None:
    for i in range(3):
        add(db, str(i), n=2**40)
    total, mean = db.ask(
        lambda tx: tx.select(sa.select(sa.func.sum(thing.c.n), sa.func.avg(thing.c.n)))
    )[0]
    assert total == 3 * 2**40 and type(total) is int and float(mean) == 2**40


def test_numbers_are_cast_and_cut_alike(db: Database) -> None:
    add(db, "a", f=7.75)
    cut = sa.select(whole(thing.c.f), sa.cast(sa.literal(2.5, sa.Float), sa.Float))
    assert tuple(db.ask(lambda tx: tx.select(cut))[0]) == (7, 2.5)


def test_ids_are_given_by_the_database(db: Database) -> None:
    add_one = insert(numbered, "name")
    for name in ("x", "y"):
        db.write(lambda tx, name=name: tx.run(add_one, name=name))
    db.write(lambda tx: tx.change(sa.update(numbered).values(r=1764301945.123457)))
    found = db.ask(lambda tx: tx.select(sa.select(numbered).order_by(numbered.c.id)))
    assert {r["r"] for r in found} == {1764301945.123457}
    assert [r["name"] for r in found] == ["x", "y"] and found[0]["id"] < found[1]["id"]


# -- what SQL says differently


def test_text_sorts_by_its_bytes_and_null_is_the_smallest(db: Database) -> None:
    names = ["a", "B", "b", "é", "A", "_", None, "a ", "Z"]
    for i, name in enumerate(names):
        add(db, f"{i}", name=name, f=None if name is None else float(i))
    rising = db.ask(lambda tx: tx.select(sa.select(thing).order_by(thing.c.name, thing.c.id)))
    wanted = [None, *sorted((n for n in names if n), key=str.encode)]
    assert [r["name"] for r in rising] == wanted
    falling = db.ask(lambda tx: tx.select(sa.select(thing).order_by(thing.c.f.desc())))
    assert falling[-1]["f"] is None and falling[0]["f"] == 8.0


def test_text_is_compared_letter_by_letter(db: Database) -> None:
    for name in ("a", "A", "a "):
        add(db, name)
    assert [get(db, n)["id"] for n in ("a", "A", "a ")] == ["a", "A", "a "]


def test_insert_or_ignore_and_or_replace(db: Database) -> None:
    ignore, replace = insert_or_ignore(thing), insert_or_replace(thing)
    values = {"id": "a", **EMPTY}
    assert db.write(lambda tx: tx.run(ignore, **{**values, "n": 1})) == 1
    assert db.write(lambda tx: tx.run(ignore, **{**values, "n": 2})) == 0
    assert get(db, "a")["n"] == 1
    db.write(lambda tx: tx.run(replace, **{**values, "n": 3}))
    db.write(lambda tx: tx.run(replace, **{**values, "id": "b", "n": 4}))
    assert [r["n"] for r in db.ask(lambda tx: tx.all(ALL))] == [3, 4]


def test_a_list_of_any_length_is_one_parameter(db: Database) -> None:
    q = Q(sa.select(thing.c.id).where(among(thing.c.id, "ids")).order_by(thing.c.id))
    for name in ("a", "é'\"", "c"):
        add(db, name)
    assert ids(db.ask(lambda tx: tx.all(q, ids='["c", "é\'\\"", "nobody"]'))) == ["c", "é'\""]
    assert db.ask(lambda tx: tx.all(q, ids="[]")) == []


def test_a_member_of_a_json_object(db: Database) -> None:
    add(db, "a", name='{"k": "v", "it\'s \\"q\\".x": "1", "n": "ü"}')
    add(db, "b", name="{}")

    def having(key: str, value: str) -> list[str]:
        q = sa.select(thing.c.id).where(member(thing.c.name, key) == value)
        return ids(db.ask(lambda tx: tx.select(q)))

    assert having("k", "v") == having('it\'s "q".x', "1") == having("n", "ü") == ["a"]
    assert having("k", "V") == having("missing", "v") == having("$", "v") == []


def test_patterns_and_parts_match_letters_in_either_case(db: Database) -> None:
    for name in ("Web-1", "web_2", "db.3"):
        add(db, name, name=name)
    add(db, "nameless")

    def found(where: Any) -> list[str]:
        return sorted(ids(db.ask(lambda tx: tx.select(sa.select(thing.c.id).where(where)))))

    assert found(matches(thing.c.name, "^WEB.[12]$")) == ["Web-1", "web_2"]
    assert found(matches(thing.c.name, "[0-9]")) == ["Web-1", "db.3", "web_2"]
    assert found(thing.c.name.icontains("B_", autoescape=True)) == ["web_2"]
    assert found(thing.c.name.icontains("%", autoescape=True)) == []


def test_a_column_is_gathered_as_a_json_list(db: Database) -> None:
    for name in ("a", "é'\""):
        add(db, name, name=name)
    q = sa.select(gathered(thing.c.name)).where(thing.c.n == 0)
    assert sorted(json.loads(db.ask(lambda tx: tx.select(q))[0][0])) == ["a", "é'\""]
    none = sa.select(gathered(thing.c.name)).where(thing.c.n == 1)
    assert db.ask(lambda tx: tx.select(none))[0][0] == "[]"


def test_pairs_are_compared(db: Database) -> None:
    for i, n in enumerate((1, 1, 2)):
        add(db, str(i), n=n)
    after = sa.tuple_(thing.c.n, thing.c.id) > sa.tuple_(sa.literal(1), sa.literal("0"))
    assert ids(db.ask(lambda tx: tx.select(sa.select(thing).where(after)))) == ["1", "2"]


def test_a_bad_pattern_or_character_is_the_callers_fault(db: Database) -> None:
    if db.is_local:
        pytest.skip("SQLite stores any character; its patterns are checked in this process")
    with pytest.raises(BadRequest):
        db.ask(lambda tx: tx.select(sa.select(thing).where(matches(thing.c.name, "(("))))
    if "postgresql" in str(getattr(db, "backend", "")):
        with pytest.raises(BadRequest):
            add(db, "a\0b")


# -- transactions


def test_a_write_is_whole_or_nothing(db: Database) -> None:
    told: list[str] = []

    def broken(tx: Tx) -> None:
        tx.run(ADD, id="a", **EMPTY)
        tx.after_commit(lambda: told.append("a"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        db.write(broken)
    assert get(db, "a") is None and told == []
    db.write(lambda tx: tx.after_commit(lambda: told.append("b")))
    assert told == ["b"]


def test_a_statement_that_is_wrong_raises_and_the_database_goes_on(db: Database) -> None:
    add(db, "a")
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        add(db, "a")
    with pytest.raises(Exception, match=r"(?i)no such|exist"):
        db.ask(lambda tx: tx.select(sa.select(sa.text("1")).select_from(sa.text("nowhere"))))
    add(db, "b")
    assert ids(db.ask(lambda tx: tx.all(ALL))) == ["a", "b"]


def test_a_read_is_one_snapshot_and_cannot_write(db: Database) -> None:
    add(db, "a", n=1)

    def look(tx: Tx) -> tuple[int, int, int]:
        first = tx.value(GET, id="a"), tx.one(GET, id="a")["n"]
        beside(lambda: db.write(lambda w: w.run(SET, id_="a", n=2)))
        inner = db.read(lambda other: other.one(GET, id="a")["n"])
        return first[1], tx.one(GET, id="a")["n"], inner

    assert db.read(look) == (1, 1, 1)
    assert get(db, "a")["n"] == 2
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        db.read(lambda tx: tx.run(SET, id_="a", n=3))
    assert get(db, "a")["n"] == 2


def test_ask_takes_one_question(db: Database) -> None:
    add(db, "a")

    def two(tx: Tx) -> None:
        tx.one(GET, id="a")
        tx.one(GET, id="a")

    with pytest.raises(RuntimeError, match="one question"):
        db.ask(two)
    assert get(db, "a") is not None


def test_a_closed_database_is_refused(db: Database) -> None:
    db.close()
    db.close()
    for call in (db.write, db.read, db.ask):
        with pytest.raises(Unavailable):
            call(lambda tx: tx.all(ALL))


# -- writers beside each other: what a write has read holds until its commit


def test_no_update_is_lost(db: Database) -> None:
    """R10: read, then write, on one row; many times by four threads."""
    add(db, "a")

    def work() -> None:
        for _ in range(30):
            db.write(lambda tx: tx.run(SET, id_="a", n=tx.one(GET, id="a")["n"] + 1))

    beside(*[work] * 4)
    assert get(db, "a")["n"] == 120


def test_a_count_that_was_read_holds(db: Database) -> None:
    """R10: no row is there to lock: each counts, and inserts only below the limit."""
    for limit in (1, 3, 7):
        db.write(lambda tx: tx.change(sa.delete(thing)))

        def one(tx: Tx, name: str, limit: int = limit) -> None:
            if tx.value(COUNT) < limit:
                tx.run(ADD, id=name, **{**EMPTY, "n": 1})

        def work(who: int, one: Any = one) -> None:
            for i in range(5):
                db.write(lambda tx, i=i: one(tx, f"{who}-{i}"))

        beside(*[lambda who=who, work=work: work(who) for who in range(6)])
        assert db.ask(lambda tx: tx.value(COUNT)) == limit


def test_two_that_look_at_each_others_row_do_not_both_act(db: Database) -> None:
    """Write skew: of two that are on call one must stay."""
    for round_ in range(15):
        for name in ("a", "b"):
            db.write(lambda tx, name=name: tx.run(insert_or_replace(thing), id=name, **ON_CALL))

        def leave(tx: Tx, me: str) -> None:
            if tx.value(COUNT) > 1:
                tx.run(SET, id_=me, n=0)

        start = threading.Barrier(2, timeout=30)

        def work(me: str, start: Any = start, leave: Any = leave) -> None:
            start.wait()
            db.write(lambda tx: leave(tx, me))

        beside(lambda work=work: work("a"), lambda work=work: work("b"))
        assert db.ask(lambda tx: tx.value(COUNT)) == 1, round_


ON_CALL = {**EMPTY, "n": 1}


def test_one_of_many_inserts_a_row_that_all_miss(db: Database) -> None:
    class Taken(Conflict):
        pass

    def make(tx: Tx) -> None:
        if tx.one(GET, id="a") is not None:
            raise Taken("taken")
        tx.run(ADD, id="a", **EMPTY)

    won: list[int] = []

    def work() -> None:
        try:
            db.write(make)
        except Taken:
            return
        won.append(1)

    for _ in range(8):
        won.clear()
        beside(*[work] * 5)
        assert won == [1]
        db.write(lambda tx: tx.run(DROP, id="a"))


def test_rows_locked_the_other_way_round_end(db: Database) -> None:
    for name in ("a", "b"):
        add(db, name)

    def both(first: str, second: str) -> None:
        def work(tx: Tx) -> None:
            for name in (first, second):
                tx.run(SET, id_=name, n=tx.one(GET, id=name)["n"] + 1)

        for _ in range(20):
            db.write(work)

    beside(lambda: both("a", "b"), lambda: both("b", "a"))
    assert get(db, "a")["n"] == get(db, "b")["n"] == 40


def test_the_fence_lets_no_older_writer_in(kind: str, tmp_path: Path) -> None:
    """R8: equal passes, lower does not, whoever writes beside."""
    with databases.opened(kind, tmp_path) as db:
        versions.ensure(db, stores.CELL)

        def pass_(fence: int, seq: int) -> bool:
            try:
                db.write(lambda tx: journal.fence_foreign(tx, "op", fence, seq, 1.0))
            except journal.Fenced:
                return False
            return True

        tried = [(2, 5), (2, 5), (2, 4), (1, 9), (2, 6), (3, 1), (2, 7), (3, 1)]
        assert [pass_(*t) for t in tried] == [True, True, False, False, True, True, False, True]
        passed: list[tuple[int, int]] = []
        beside(
            *[
                lambda n=n: [passed.append((n, s)) for s in range(9) if pass_(n, s)]
                for n in range(4, 8)
            ]
        )
        assert (7, 8) in passed and not pass_(7, 7) and pass_(7, 8)


# -- schema


def test_a_schema_is_made_once_by_many(kind: str, tmp_path: Path) -> None:
    url = databases.url(kind, tmp_path)
    opened = [open_database(url, "x") for _ in range(3 if kind != "sqlite" else 1)]
    beside(*[lambda db=db: versions.ensure(db, META) for db in opened])
    for db in opened:
        versions.ensure(db, META)
        add(db, "a") if db is opened[0] else None
        assert get(db, "a") is not None
        db.close()


def test_an_upgrade_runs_once_and_a_newer_schema_is_refused(kind: str, tmp_path: Path) -> None:
    def more(op: Any) -> None:
        op.add_column("thing", sa.Column("more", sa.Text, nullable=True))
        op.create_index("ix_thing_n", "thing", ["n"])

    with databases.opened(kind, tmp_path) as db:
        versions.ensure(db, META)
        add(db, "a", n=5)
        for _ in range(2):
            versions.ensure(db, META, [more])
        q = sa.select(sa.text("more")).select_from(sa.text("thing"))
        assert db.ask(lambda tx: tx.select(q))[0]["more"] is None
        with pytest.raises(Conflict, match="schema version 2; this release knows 1"):
            versions.ensure(db, META)


def test_urls() -> None:
    for good in ("sqlite:////a/b.db", "postgresql://u:p@h:1/n?sslmode=require", "mysql://u@h/n"):
        opening.check(good)
    for bad in ("", "x.db", "oracle://h/n", "postgresql://h", "mysql://u:secret@h/"):
        with pytest.raises(BadConfig) as told:
            opening.check(bad)
        assert "secret" not in str(told.value)
    with pytest.raises(BadConfig, match="unix_socket"):
        open_database("mysql://u@h/n?colour=blue", "x")


# -- a server that goes away


@pytest.fixture
def away(kind: str, db: Database) -> databases.Server:
    if isinstance(db, SqliteDatabase):
        pytest.skip("a file does not go away")
    return databases.server(kind)


def test_a_server_that_is_killed_is_told_and_found_again(
    away: databases.Server, db: Database
) -> None:
    """R9: what was answered is there; nobody waits for a server that is away; it is used again when it is back."""
    add(db, "a", n=1)
    assert get(db, "a")["n"] == 1
    away.kill()
    try:
        for call in (db.write, db.read, db.ask):
            with pytest.raises(Unavailable):
                call(lambda tx: tx.all(ALL))
    finally:
        away.start()
    databases.eventually(lambda: get(db, "a"), Unavailable)
    add(db, "b")
    assert ids(db.read(lambda tx: tx.all(ALL))) == ["a", "b"]


def test_a_write_whose_connection_is_lost_runs_again(away: databases.Server, db: Database) -> None:
    """R9: a restart between two statements is not seen by who writes."""
    add(db, "a", n=1)
    runs: list[int] = []

    def work(tx: Tx) -> None:
        runs.append(tx.one(GET, id="a")["n"])
        if len(runs) == 1:
            away.kill()
            away.start()
        tx.run(SET, id_="a", n=runs[-1] + 1)

    db.write(work)
    assert runs == [1, 1] and get(db, "a")["n"] == 2
