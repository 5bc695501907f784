"""A database of a PostgreSQL or MariaDB server.

Writes run SERIALIZABLE unless they are guarded, so that what one reads holds until its commit; one that collides with
another is undone and run again, a bounded number of times. A connection that is lost before the commit means the same;
one that is lost while the commit is under way means nobody knows: OutcomeUnknown, and whoever asked looks again. Reads
are snapshots.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql import ClauseElement

from kilonova.common.errors import Unavailable
from kilonova.db.engine import Collision, Row, Tx
from kilonova.db.pool import Pool
from kilonova.db.sql import Q, Text, positional_now

T = TypeVar("T")
TRIES = 60
PATIENCE_S = 20.0
"""A write that collides is run again at most so often and so long."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.05


class Why(Enum):
    """What a server's error means for who asked."""

    COLLISION = "two transactions wanted the same"
    TAKEN = "a row with this key is there"
    LOST = "the connection is gone"
    TIMEOUT = "the statement took too long"
    FULL = "the server has no room"
    OTHER = "the statement is wrong"


class ServerError(Exception):
    """A statement failed. code: SQLSTATE, or the number that MariaDB gives."""

    def __init__(self, why: Why, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.why = why
        self.code = code


class OutcomeUnknown(Unavailable):
    """The connection was lost while a transaction was being committed: it may have been, or not."""

    code = "outcome_unknown"


class Answer(NamedTuple):
    """What a statement gave: its rows, and how many rows a change touched."""

    rows: list[Row]
    touched: int


class Session(Protocol):
    """One connection. Every method raises ServerError; ``lost`` says that no other statement can follow."""

    lost: bool

    def ask(self, text: Text, values: Mapping[str, Any]) -> Answer:
        """Run a statement that is kept prepared."""
        ...

    def ask_once(self, text: str, values: Sequence[Any]) -> Answer:
        """Run a statement that was composed for this call."""
        ...

    def put(self, text: Text, values: Mapping[str, Any]) -> None:
        """Run a change whose answer is not looked at: perhaps later, with what follows, and then it may fail there."""
        ...

    def many(self, text: Text, rows: Sequence[Mapping[str, Any]]) -> None:
        """``put`` a change once per row."""
        ...

    def command(self, text: str) -> None:
        """Run what has no parameters; what was put before it is done then."""
        ...

    def begin(self, text: str) -> None:
        """Begin a transaction by ``text``, perhaps with its first question."""
        ...

    def confirm(self) -> None:
        """Have at least something of the transaction answered: a connection that was lost while idle is known then."""
        ...

    def commit(self) -> None:
        """Commit, with what was put."""
        ...

    def rollback(self, to: str | None = None) -> None:
        """Undo all, or what came after a savepoint; what was put and waits is dropped."""
        ...

    def leave(self) -> None:
        """End a snapshot."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class Backend(NamedTuple):
    """A kind of server. connect(writes): a session to write or for snapshots. begin, snapshot: how these begin.

    guarded: how a write begins that is right under READ COMMITTED.
    """

    dialect: Dialect
    connect: Callable[[bool], Session]
    begin: str
    snapshot: str
    guarded: str


class ServerTx(Tx):
    """An open transaction on a server; ``failure`` is its first error, after which nothing more can be done in it."""

    __slots__ = ("_dialect", "_session", "failure")

    def __init__(self, database: "ServerDatabase", session: Session) -> None:
        super().__init__(database)
        self._session = session
        self._dialect = database.backend.dialect
        self.failure: ServerError | None = None

    def _ask(self, q: Q, values: dict[str, Any]) -> Answer:
        self.database.statements += 1
        try:
            return self._session.ask(q.on(self._dialect), values)
        except ServerError as exc:
            self.failure = self.failure or exc
            raise

    def _ask_once(self, statement: ClauseElement) -> Answer:
        self.database.statements += 1
        try:
            return self._session.ask_once(*positional_now(statement, self._dialect))
        except ServerError as exc:
            self.failure = self.failure or exc
            raise

    def one(self, q: Q, **values: Any) -> Row | None:
        rows = self._ask(q, values).rows
        return rows[0] if rows else None

    def all(self, q: Q, **values: Any) -> list[Row]:
        return self._ask(q, values).rows

    def run(self, q: Q, **values: Any) -> int:
        return self._ask(q, values).touched

    def put(self, q: Q, **values: Any) -> None:
        self.many(q, (values,))

    def many(self, q: Q, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        self.database.statements += 1
        try:
            self._session.many(q.on(self._dialect), rows)
        except ServerError as exc:
            self.failure = self.failure or exc
            raise

    def command(self, text: str) -> None:
        """Run SAVEPOINT and its like."""
        try:
            self._session.command(text)
        except ServerError as exc:
            self.failure = self.failure or exc
            raise

    def select(self, statement: ClauseElement) -> list[Row]:
        return self._ask_once(statement).rows

    def change(self, statement: ClauseElement) -> int:
        return self._ask_once(statement).touched


class _Question(ServerTx):
    """What ``ask`` hands out: one question, which is its own snapshot."""

    __slots__ = ("_asked",)

    def __init__(self, database: "ServerDatabase", session: Session) -> None:
        super().__init__(database, session)
        self._asked = False

    def _once(self) -> None:
        if self._asked:
            raise RuntimeError("ask() takes one question; several need read()")
        self._asked = True

    def _ask(self, q: Q, values: dict[str, Any]) -> Answer:
        self._once()
        return super()._ask(q, values)

    def _ask_once(self, statement: ClauseElement) -> Answer:
        self._once()
        return super()._ask_once(statement)


class _Again(Exception):
    """The transaction was undone by no fault of its own."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(str(error))
        self.error = error


class _Unit:
    """Writes of one thread that commit together; it holds a session from the first of them on."""

    def __init__(self, database: "ServerDatabase") -> None:
        self._database = database
        self.tx: ServerTx | None = None

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run one of the writes; one that fails leaves those before it. Raises Collision: repeat the block."""
        db = self._database
        if self.tx is None:
            session = db.writers.take()
            try:
                session.begin(db.backend.begin)
            except BaseException as exc:
                db.writers.drop(session)
                raise db.meaning(exc) from exc
            self.tx = ServerTx(db, session)
        tx = self.tx
        before = len(tx._hooks)
        try:
            tx.command("SAVEPOINT part")
            result = fn(tx)
            if tx.failure is not None:
                raise tx.failure
            tx.command("RELEASE SAVEPOINT part")
        except BaseException as exc:
            del tx._hooks[before:]
            self._undo_part(tx)
            raise db.meaning(tx.failure or exc, exc) from exc
        return result

    def _undo_part(self, tx: ServerTx) -> None:
        failure = tx.failure
        if tx._session.lost or (failure is not None and failure.why is Why.COLLISION):
            return
        tx._session.rollback(to="part")
        tx.failure = None

    def end(self, how: str) -> None:
        """COMMIT or ROLLBACK, and give the session back; after a commit the hooks run."""
        tx, db = self.tx, self._database
        if tx is None:
            return
        self.tx = None
        if how == "ROLLBACK" or tx.failure is not None:
            db.undo(tx._session)
            if how == "COMMIT" and tx.failure is not None:
                raise db.meaning(tx.failure)
            return
        try:
            db.commit(tx)
        except _Again as exc:
            raise db.meaning(exc.error) from exc
        for hook in tx._hooks:
            hook()


class ServerDatabase:
    """One database of a server. Safe to use from any thread."""

    is_local = False

    def __init__(self, name: str, backend: Backend, writers: int = 8, readers: int = 8) -> None:
        """Connect to nothing yet. writers, readers: connections at most."""
        self.name = name
        self.backend = backend
        self.statements = 0
        self.commits = 0
        self.repeats = 0
        self.writers: Pool[Session] = Pool(name, lambda: backend.connect(True), writers)
        self.readers: Pool[Session] = Pool(name, lambda: backend.connect(False), readers)
        self._local = threading.local()

    # -- writing

    def write(self, fn: Callable[[Tx], T], *, guarded: bool = False) -> T:
        unit: _Unit | None = getattr(self._local, "unit", None)
        if unit is not None:
            return unit.write(fn)
        begin = self.backend.guarded if guarded else self.backend.begin
        began, tries, taken = time.monotonic(), 0, 0
        while True:
            tries += 1
            try:
                return self._write_once(fn, begin)
            except _Again as again:
                taken += again.error.why is Why.TAKEN
                late = time.monotonic() - began > PATIENCE_S
                if tries >= TRIES or late or taken > 2:
                    raise self.meaning(again.error) from again
            self.repeats += 1
            time.sleep(min(_PAUSE_S * 2 ** min(tries, 8), _LONGEST_PAUSE_S) * random.random())  # noqa: S311

    def _write_once(self, fn: Callable[[Tx], T], begin: str) -> T:
        session = self.writers.take()
        tx = ServerTx(self, session)
        try:
            session.begin(begin)
            result = fn(tx)
            if tx.failure is not None:
                raise tx.failure
            session.confirm()
        except BaseException as exc:
            self.undo(session)
            failure = exc if isinstance(exc, ServerError) else tx.failure
            if failure is not None and failure.why in (Why.COLLISION, Why.TAKEN, Why.LOST):
                raise _Again(failure) from exc
            raise self.meaning(failure or exc, exc) from exc.__cause__
        self.commit(tx)
        for hook in tx._hooks:
            hook()
        return result

    def commit(self, tx: ServerTx) -> None:
        """Commit and give the session back. Raises _Again when it was undone instead, OutcomeUnknown."""
        session = tx._session
        try:
            session.commit()
        except ServerError as exc:
            if session.lost:
                self.writers.drop(session)
                raise OutcomeUnknown(
                    "The database went away while it wrote; look whether it was done.",
                    database=self.name,
                ) from exc
            self.undo(session)
            if exc.why in (Why.COLLISION, Why.TAKEN):
                raise _Again(exc) from exc
            raise self.meaning(exc) from exc
        except BaseException:
            self.writers.drop(session)
            raise
        self.commits += 1
        self.writers.give(session)

    def undo(self, session: Session) -> None:
        """Roll back and give the session back; one that cannot is closed, which does the same."""
        try:
            if not session.lost:
                session.rollback()
        except ServerError:
            session.lost = True
        if session.lost:
            self.writers.drop(session)
        else:
            self.writers.give(session)

    def meaning(self, exc: BaseException, seen: BaseException | None = None) -> BaseException:
        """Return what to raise for an error; ``seen`` is what the caller's function made of it."""
        if not isinstance(exc, ServerError):
            return exc
        if exc.why is Why.COLLISION:
            return Collision(
                "Too much happened at once; nothing was changed. Try again.", database=self.name
            )
        if exc.why in (Why.LOST, Why.TIMEOUT):
            return Unavailable(
                "The database does not answer. Try again.", database=self.name, why=exc.code
            )
        if exc.why is Why.FULL:
            return Unavailable(
                "The cloud's disk is full; nothing was changed. Try again when there is room.",
                database=self.name,
            )
        return seen or exc

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

    # -- reading

    def ask(self, fn: Callable[[Tx], T]) -> T:
        return self._snapshot(fn, "")

    def read(self, fn: Callable[[Tx], T]) -> T:
        return self._snapshot(fn, self.backend.snapshot)

    def _snapshot(self, fn: Callable[[Tx], T], begin: str) -> T:
        unit: _Unit | None = getattr(self._local, "unit", None)
        if unit is not None and unit.tx is not None:
            return fn(unit.tx)
        outer: ServerTx | None = getattr(self._local, "snapshot", None)
        if outer is not None:  # a question asked inside another one: the same snapshot
            return fn(outer)
        try:
            return self._read_once(fn, begin)
        except _Again:  # a connection that was idle while the server was restarted, say
            pass
        try:
            return self._read_once(fn, begin)
        except _Again as again:
            raise self.meaning(again.error) from again

    def _read_once(self, fn: Callable[[Tx], T], begin: str) -> T:
        session = self.readers.take()
        tx = ServerTx(self, session) if begin else _Question(self, session)
        try:
            if begin:
                session.begin(begin)
                self._local.snapshot = tx
            result = fn(tx)
            if begin:
                session.leave()
        except BaseException as exc:
            self._local.snapshot = None
            self.readers.drop(session) if session.lost else self._end_snapshot(session, begin)
            failure = exc if isinstance(exc, ServerError) else tx.failure
            if failure is not None and failure.why in (Why.LOST, Why.COLLISION):
                raise _Again(failure) from exc
            raise self.meaning(failure or exc, exc) from exc.__cause__
        self._local.snapshot = None
        self.readers.give(session)
        return result

    def _end_snapshot(self, session: Session, begin: str) -> None:
        try:
            if begin:
                session.rollback()
        except ServerError:
            self.readers.drop(session)
        else:
            self.readers.give(session)

    def close(self) -> None:
        """Close every connection once what uses it has ended; closing twice is fine."""
        self.writers.close()
        self.readers.close()
