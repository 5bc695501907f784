"""A database that is one SQLite file.

The rules (docs/guarantees.md): WAL; one writer connection per file behind one fair lock; BEGIN IMMEDIATE; no read
transaction is ever upgraded; nothing is called out and no decision is made while a write is open; one file per
database, never ATTACH. Under ``synchronous=FULL`` writers that wait share one commit, a savepoint each.
"""

import collections
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.sql import ClauseElement

from kilonova.common import pattern
from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import Q, render_cached

T = TypeVar("T")
log = get_logger(__name__)
CHECKPOINT_PAGES = 4000
"""Pages in the WAL (16 MiB) before they are written back: a page that changes with every commit goes back once."""
WRITER_CACHE_KIB = 2000
READER_CACHE_KIB = 512
"""Every thread reads every file by a connection of its own, and each commit empties that one's cache."""


class SqliteTx(Tx):
    """An open transaction on a connection of this process."""

    __slots__ = ("_conn",)

    def __init__(self, database: "SqliteDatabase", conn: sqlite3.Connection) -> None:
        super().__init__(database)
        self._conn = conn

    def one(self, q: Q, **values: Any) -> Row | None:
        self.database.statements += 1
        return self._conn.execute(*q.bound(values)).fetchone()

    def all(self, q: Q, **values: Any) -> list[Row]:
        self.database.statements += 1
        return self._conn.execute(*q.bound(values)).fetchall()

    def run(self, q: Q, **values: Any) -> int:
        self.database.statements += 1
        return self._conn.execute(*q.bound(values)).rowcount

    def many(self, q: Q, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self.database.statements += 1
            text, literals = q.bound({})
            self._conn.executemany(text, [{**literals, **r} for r in rows] if literals else rows)

    def select(self, statement: ClauseElement) -> list[Row]:
        self.database.statements += 1
        return self._conn.execute(*render_cached(statement)).fetchall()

    def change(self, statement: ClauseElement) -> int:
        self.database.statements += 1
        return self._conn.execute(*render_cached(statement)).rowcount


class _Question(SqliteTx):
    """What ``ask`` hands out: one question, which is its own snapshot."""

    __slots__ = ("_asked",)

    def __init__(self, database: "SqliteDatabase", conn: sqlite3.Connection) -> None:
        super().__init__(database, conn)
        self._asked = False

    def _once(self) -> None:
        if self._asked:
            raise RuntimeError("ask() takes one question; several need read()")
        self._asked = True

    def one(self, q: Q, **values: Any) -> Row | None:
        self._once()
        return super().one(q, **values)

    def all(self, q: Q, **values: Any) -> list[Row]:
        self._once()
        return super().all(q, **values)

    def select(self, statement: ClauseElement) -> list[Row]:
        self._once()
        return super().select(statement)


# Primary and extended result codes of SQLite that a full disk gives: of the file, of the WAL's index, of a new file.
_NO_ROOM = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
)


def _no_room(exc: BaseException, database: str) -> Unavailable | None:
    """Return what to raise, in words, when an error means that the disk is full; None when it means something else."""
    if not isinstance(exc, sqlite3.OperationalError) or exc.sqlite_errorcode not in _NO_ROOM:
        return None
    made = Unavailable(
        "The cloud's disk is full; nothing was changed. Try again when there is room.",
        database=database,
    )
    made.__cause__ = exc
    return made


class _Pending:
    __slots__ = ("done", "error", "fn", "hooks", "result")

    def __init__(self, fn: Callable[[Tx], Any]) -> None:
        self.fn = fn
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.hooks: list[Callable[[], None]] = []


class _FairLock:
    """A mutex that serves its waiters in the order in which they came."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: collections.deque[threading.Lock] = collections.deque()
        self._held = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *exc: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False


class _Reader:
    """One thread's connection; the lock keeps ``close`` from closing it in the middle of a question."""

    __slots__ = ("conn", "lock")

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.lock = threading.RLock()


class _Unit:
    """Writes of one thread that commit together; it holds the writer from the first of them on."""

    def __init__(self, database: "SqliteDatabase") -> None:
        self._database = database
        self.tx: Tx | None = None

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run one of the writes; one that fails leaves those before it."""
        db = self._database
        if self.tx is None:
            db._lock.__enter__()
            try:
                db._begin()
            except BaseException:
                db._lock.__exit__()
                raise
            self.tx = SqliteTx(db, db._writer)
        db._writer.execute("SAVEPOINT part")
        before = len(self.tx._hooks)
        try:
            return fn(self.tx)
        except BaseException:
            del self.tx._hooks[before:]
            if db._writer.in_transaction:
                db._writer.execute("ROLLBACK TO part")
            raise
        finally:
            if db._writer.in_transaction:
                db._writer.execute("RELEASE part")

    def end(self, how: str) -> None:
        """COMMIT or ROLLBACK, and give the writer back; after a commit the hooks run."""
        tx, db = self.tx, self._database
        if tx is None:
            return
        self.tx = None
        try:
            if db._writer.in_transaction:
                db._writer.execute(how)
            db.commits += how == "COMMIT"
        except BaseException as exc:
            db._rollback()
            if (full := _no_room(exc, db.name)) is not None:
                raise full from exc
            raise
        finally:
            db._lock.__exit__()
        if how == "COMMIT":
            for hook in tx._hooks:
                hook()


class SqliteDatabase:
    """One SQLite file.

    synchronous: "NORMAL" (an accepted write survives the death of every process) or "FULL" (also a power cut).
    """

    is_local = True

    def __init__(
        self, path: Path | str, name: str, synchronous: str = "NORMAL", busy_timeout_s: float = 10.0
    ) -> None:
        if synchronous not in ("NORMAL", "FULL"):
            raise ValueError(f"synchronous must be NORMAL or FULL, not {synchronous}")
        self.name = name
        self.path = Path(path)
        self.synchronous = synchronous
        self.statements = 0
        self.commits = 0
        self._busy_timeout_s = busy_timeout_s
        self._local = threading.local()
        self._readers: list[_Reader] = []
        self._all_lock = threading.Lock()
        self._lock = _FairLock()
        self._queue: collections.deque[_Pending] = collections.deque()
        self._closed = False
        self._writer = self._open(WRITER_CACHE_KIB)

    def _open(self, cache_kib: int) -> sqlite3.Connection:
        conn = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._busy_timeout_s,
            cached_statements=1000,
        )
        conn.row_factory = sqlite3.Row
        conn.create_function("regexp", 2, pattern.matches, deterministic=True)
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute(f"PRAGMA synchronous={self.synchronous}")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute(f"PRAGMA cache_size=-{cache_kib}")
        conn.execute("PRAGMA temp_store=MEMORY")
        conn.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return conn

    @contextmanager
    def together(self) -> Iterator[None]:
        unit = _Unit(self)
        self._local.unit = unit
        try:
            yield
        except BaseException:
            unit.end("ROLLBACK")
            raise
        finally:
            self._local.unit = None
        unit.end("COMMIT")

    def _unit(self) -> "_Unit | None":
        """Return the open unit of this thread."""
        unit: _Unit | None = getattr(self._local, "unit", None)
        return unit

    def write(self, fn: Callable[[Tx], T], *, guarded: bool = False) -> T:
        if (unit := self._unit()) is not None:
            return unit.write(fn)
        if self.synchronous == "FULL":
            return self._write_shared(fn)
        with self._lock:
            tx = SqliteTx(self, self._writer)
            try:
                self._begin()
                result = fn(tx)
                self._writer.execute("COMMIT")
                self.commits += 1
            except BaseException as exc:
                self._rollback()
                if (full := _no_room(exc, self.name)) is not None:
                    raise full from exc
                raise
        for hook in tx._hooks:
            hook()
        return result

    def _begin(self) -> None:
        if self._closed:
            raise Unavailable("the database is closed", database=self.name)
        self._writer.execute("BEGIN IMMEDIATE")

    def _rollback(self) -> None:
        if not self._closed and self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _write_shared(self, fn: Callable[[Tx], T]) -> T:
        mine = _Pending(fn)
        self._queue.append(mine)
        with self._lock:
            if not mine.done.is_set():
                self._lead()
        if mine.error is not None:
            raise mine.error
        for hook in mine.hooks:
            hook()
        result: T = mine.result
        return result

    def _lead(self) -> None:
        """Run everything that waits in one transaction; an error at COMMIT reaches every member."""
        members: list[_Pending] = []
        while self._queue and len(members) < 64:
            members.append(self._queue.popleft())
        try:
            self._begin()
            for m in members:
                self._run_member(m)
            self._writer.execute("COMMIT")
            self.commits += 1
        except BaseException as exc:  # noqa: BLE001 - handed to every waiting writer
            self._rollback()
            for m in members:
                m.error = m.error or _no_room(exc, self.name) or exc
        finally:
            for m in members:
                m.done.set()

    def _run_member(self, m: _Pending) -> None:
        self._writer.execute("SAVEPOINT member")
        tx = SqliteTx(self, self._writer)
        try:
            m.result = m.fn(tx)
            m.hooks = tx._hooks
        except BaseException as exc:
            m.error = _no_room(exc, self.name) or exc
            if not self._writer.in_transaction:
                raise
            self._writer.execute("ROLLBACK TO member")
        self._writer.execute("RELEASE member")

    def ask(self, fn: Callable[[Tx], T]) -> T:
        if (unit := self._unit()) is not None and unit.tx is not None:
            return fn(unit.tx)
        reader = self._reader()
        conn = reader.conn
        if conn.in_transaction:
            return fn(SqliteTx(self, conn))
        with reader.lock:
            if self._closed:
                raise Unavailable("the database is closed", database=self.name)
            return fn(_Question(self, conn))

    def read(self, fn: Callable[[Tx], T]) -> T:
        if (unit := self._unit()) is not None and unit.tx is not None:
            return fn(unit.tx)
        reader = self._reader()
        conn = reader.conn
        if conn.in_transaction:  # a question asked inside another one: the same snapshot
            return fn(SqliteTx(self, conn))
        with reader.lock:
            if self._closed:
                raise Unavailable("the database is closed", database=self.name)
            conn.execute("BEGIN")
            try:
                return fn(SqliteTx(self, conn))
            finally:
                conn.execute("ROLLBACK")

    def _reader(self) -> _Reader:
        """Return this thread's connection for reading."""
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._new_reader()
        return reader

    def _new_reader(self) -> _Reader:
        with self._all_lock:
            if self._closed:
                raise Unavailable("the database is closed", database=self.name)
            conn = self._open(READER_CACHE_KIB)
            conn.execute("PRAGMA query_only=ON")
            reader = _Reader(conn)
            self._readers.append(reader)
            return reader

    def version(self) -> int:
        """Return the version of the schema that the file has; 0: none."""
        with self._lock:
            found: int = self._writer.execute("PRAGMA user_version").fetchone()[0]
        return found

    def script(self, statements: Iterable[str]) -> None:
        """Run DDL in one transaction; all or nothing."""
        with self._lock:
            self._begin()
            try:
                for s in statements:
                    self._writer.execute(s)
                self._writer.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise

    def close(self) -> None:
        """Close every connection once the question that uses it is answered; closing twice is fine."""
        with self._lock:
            with self._all_lock:
                self._closed = True
                readers, self._readers = self._readers, []
            for reader in readers:
                with reader.lock:
                    reader.conn.close()
            self._writer.close()
