"""A database as the rest sees it: ``db.write(fn)``, ``db.read(fn)`` and a Tx to ask questions with.

Behind it: one SQLite file (db/sqlite.py), or a database of a PostgreSQL or MariaDB server (db/server.py). What a write
reads it may rely on until its commit, as if writes came one after the other: SQLite has one writer, the servers run
writes SERIALIZABLE and ``write`` runs its function again when two collide. So a function that is given to ``write``
may run more than once; it leaves nothing outside of its Tx, and hooks run once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy.sql import ClauseElement

from kilonova.common.errors import Unavailable
from kilonova.db.sql import Q

T = TypeVar("T")
Row = Any  # by index and by column name: sqlite3.Row, or a tuple that can do the same


class Collision(Unavailable):
    """Two writers wanted the same and this one lost, again and again; nothing was changed."""

    code = "collision"


class Tx(ABC):
    """An open transaction. Made by a Database only; never kept after the function returns."""

    __slots__ = ("_hooks", "database")

    def __init__(self, database: "Database") -> None:
        self.database = database
        self._hooks: list[Callable[[], None]] = []

    @abstractmethod
    def one(self, q: Q, **values: Any) -> Row | None:
        """Return the first row, or None."""
        ...

    @abstractmethod
    def all(self, q: Q, **values: Any) -> list[Row]:
        """Return every row."""
        ...

    def value(self, q: Q, **values: Any) -> Any:
        """Return the first column of the first row, or None."""
        row = self.one(q, **values)
        return None if row is None else row[0]

    @abstractmethod
    def run(self, q: Q, **values: Any) -> int:
        """Execute a change; return how many rows it touched."""
        ...

    def put(self, q: Q, **values: Any) -> None:
        """Execute a change that is not looked at.

        A server may be told of it with what follows: an error of it comes then, at the commit at the latest.
        """
        self.run(q, **values)

    @abstractmethod
    def many(self, q: Q, rows: Sequence[dict[str, Any]]) -> None:
        """Execute a change once per row, in one call; not looked at, as ``put``."""
        ...

    @abstractmethod
    def select(self, statement: ClauseElement) -> list[Row]:
        """Run a statement composed for this call (lists with filters). Those of one shape are compiled once."""
        ...

    @abstractmethod
    def change(self, statement: ClauseElement) -> int:
        """Execute a change composed for this call; return how many rows it touched."""
        ...

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` once this transaction is committed (nudges); never if it is not."""
        self._hooks.append(hook)


class Database(Protocol):
    """What every back end offers. Safe to use from any thread."""

    name: str
    statements: int
    is_local: bool
    """Whether it is a file of this machine, which answers at once or not at all."""

    def write(self, fn: Callable[[Tx], T], *, guarded: bool = False) -> T:
        """Run ``fn`` in a write transaction and commit; any exception rolls all of it back and is raised.

        guarded: all that ``fn`` relies on is in rows that it changes by compare-and-swap, inserts by key, or has
        changed (so locked) before it reads; a server may then let others commit between two of its statements.
        """
        ...

    def read(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` on one consistent snapshot; writing in it is an error."""
        ...

    def ask(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn``, which asks one question: cheaper than ``read``. A second question is an error."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Make all writes of this thread in the block one transaction, open from the first of them to the block's end.

        What the thread reads after its first write it reads there. Nothing may wait in the block; an error undoes all.
        """
        ...

    def close(self) -> None:
        """Close every connection."""
        ...
