"""Ask cells' databases, each for at most 1 s: a cell that is dead hides what is in it and holds up nothing else (R11).

A local file is asked at once. Any other cell is asked on a thread of a pool; one that hangs keeps that thread until its
driver gives up, so a cell with ``MOST_SILENT`` unanswered questions is down at once, without another thread.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Tx

log = get_logger(__name__)
T = TypeVar("T")
CELL_TIMEOUT_S = 1.0
MOST_SILENT = 2


class CellDown(Unavailable):
    """A cell's database does not answer; what is in it is unknown, not gone."""

    code = "cell_down"

    def __init__(self, cell: str, **facts: object) -> None:
        super().__init__("A cell of this cloud cannot be reached now.", cell=cell, **facts)


class Cells:
    """Questions to cells. Safe from any thread. cells: name -> database; it may change while this lives."""

    def __init__(self, cells: Mapping[str, Database], timeout_s: float = CELL_TIMEOUT_S) -> None:
        self._cells = cells
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._silent: collections.Counter[str] = collections.Counter()
        self._down: set[str] = set()  # as last told

    def close(self) -> None:
        """End the pool."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def all(self, question: Callable[[Tx], T]) -> tuple[dict[str, T], list[str]]:
        """Ask every cell at once; return (answers by cell, cells that did not answer), both in the cells' order."""
        asked: dict[str, Future[T]] = {}
        answers: dict[str, T] = {}
        cells = dict(self._cells)
        for name, database in cells.items():
            if not getattr(database, "is_local", True) and not self._is_silent(name):
                asked[name] = self._submit(database, question)
        for name, database in cells.items():
            if getattr(database, "is_local", True):
                self._take(answers, name, lambda database=database: database.read(question))  # type: ignore[misc]
        wait(asked.values(), timeout=self._timeout_s)
        for name, future in asked.items():
            if self._answered(name, future):
                self._take(answers, name, future.result)
        ordered = {name: answers[name] for name in cells if name in answers}
        for name in cells:
            self._tell(name, down=name not in answers)
        return ordered, [name for name in cells if name not in answers]

    def one(self, name: str, question: Callable[[Tx], T]) -> T:
        """Ask one cell. Raises CellDown when it is not there or does not answer."""
        database = self._cells.get(name)
        if database is None:
            raise CellDown(name)
        try:
            if getattr(database, "is_local", True):
                return database.ask(question)
            if self._is_silent(name):
                raise CellDown(name)
            future = self._submit(database, question)
            wait((future,), timeout=self._timeout_s)
            if not self._answered(name, future):
                raise CellDown(name)
            return future.result()
        except CellDown:
            raise
        except Unavailable as exc:
            raise CellDown(name, why=exc.message) from exc

    # -- parts

    def _submit(self, database: Database, question: Callable[[Tx], T]) -> "Future[T]":
        with self._lock:
            if self._pool is None:
                workers = 32 + MOST_SILENT * len(self._cells)
                self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cells")
            return self._pool.submit(database.read, question)

    def _is_silent(self, name: str) -> bool:
        with self._lock:
            return self._silent[name] >= MOST_SILENT

    def _answered(self, name: str, future: "Future[Any]") -> bool:
        """Tell whether a question was answered; one that was not counts until it is."""
        if future.done():
            return True
        with self._lock:
            self._silent[name] += 1
        future.add_done_callback(lambda _: self._heard(name))
        return False

    def _heard(self, name: str) -> None:
        with self._lock:
            self._silent[name] -= 1

    def _tell(self, name: str, *, down: bool) -> None:
        """Log it once when a cell falls silent, and once when it answers again."""
        with self._lock:
            if (name in self._down) == down:
                return
            (self._down.add if down else self._down.discard)(name)
        say = log.warning if down else log.info
        say("a cell does not answer" if down else "a cell answers again", extra={"cell": name})

    @staticmethod
    def _take(answers: dict[str, T], name: str, answer: Callable[[], T]) -> None:
        with contextlib.suppress(Unavailable):
            answers[name] = answer()
