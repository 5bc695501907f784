"""Which cells this process uses: it follows the global database's table of cells while it runs.

A cell that is added is opened, one that is deleted is let go, one that could not be opened is tried again: every 3 s,
and at once when another process says so or a host of an unknown cell registers. Every role follows it alike.
"""

import threading
from collections.abc import Callable, Mapping

from kilonova.cells.opened import OpenCells
from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.log import get_logger
from kilonova.db import cells as db
from kilonova.db.engine import Database, Row
from kilonova.operations import cells
from kilonova.operations.cells import CHANGED
from kilonova.operations.services import Services

log = get_logger(__name__)
EVERY_S = 3.0
LET_GO_S = 30.0
"""A cell's database is closed so long after the cell was deleted: what was begun with it ends."""


class CellTable:
    """The cells of this process. Safe from any thread.

    there: those that are open. configured: name -> how to open it, of cells that the configuration names.
    absent: name -> why, of those that cannot be opened now; kept up to date here.
    """

    def __init__(
        self,
        services: Services,
        there: OpenCells,
        absent: dict[str, str],
        configured: Mapping[str, Callable[[], Database]],
        synchronous: str,
    ) -> None:
        self._services = services
        self._there = there
        self._absent = absent
        self._configured = configured
        self._synchronous = synchronous
        self._added: dict[str, str] = {}  # name -> the URL, as sealed, that was opened
        self._mine: dict[str, Database] = {}
        self._leaving: list[tuple[float, Database]] = []
        self._lock = threading.Lock()
        self._wake, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._loop, name="cell-table", daemon=True)
        self._subscription = services.bus.subscribe(CHANGED, self._heard)

    def start(self) -> None:
        """Follow the table until ``close``."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer; safe to repeat."""
        self._subscription.close()
        self._over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def close(self) -> None:
        """Stop, and close what was opened here."""
        self.stop()
        for database in (*self._mine.values(), *(d for _, d in self._leaving)):
            database.close()

    def _heard(self, subject: str, body: bytes) -> None:
        self._wake.set()

    def _loop(self) -> None:
        while not self._over:
            self._wake.wait(EVERY_S)
            self._wake.clear()
            if self._over:
                return
            try:
                self.refresh()
                self._services.scheduling.cells_changed()
            except KilonovaError as exc:
                log.warning("the table of cells cannot be read", extra={"why": exc.message})

    def refresh(self) -> bool:
        """Read the table, open what came, let go of what went; tell whether anything did. Raises Unavailable."""
        with self._lock:
            found = self._services.world.read(db.all_cells)
            rows: dict[str, Row] = {r["name"]: r for r in found if r["url"]}
            came = [self._open_added(row) for row in rows.values()]
            came += [self._open_configured(name) for name in self._configured]
            gone = [name for name in self._added if name not in rows]
            for name in gone:
                self._let_go(name)
            for name in set(self._absent) - rows.keys() - self._configured.keys():
                del self._absent[name]
            self._close_left()
            return any(came) or bool(gone)

    # -- parts

    def _open_added(self, row: Row) -> bool:
        name, url = row["name"], row["url"]
        if self._added.get(name) == url or (name in self._there and name not in self._added):
            return False
        world, vault = self._services.world, self._services.vault
        if not self._open(name, lambda: cells.open_cell(world, vault, row, self._synchronous)):
            return False
        self._added[name] = url
        return True

    def _open_configured(self, name: str) -> bool:
        return name not in self._there and self._open(name, self._configured[name])

    def _open(self, name: str, make: Callable[[], Database]) -> bool:
        """Open a cell's database and use it; False when it cannot be: said once.

        What is wrong with one that the configuration names, and is no silence, is raised.
        """
        try:
            database = make()
        except (Unavailable, cells.CannotUse) as exc:
            why = str(exc)
            if self._absent.get(name) != why:
                log.error("a cell cannot be used", extra={"cell": name, "why": why})
            self._absent[name] = why
            return False
        if name in self._there:
            self._leaving.append((self._services.clock.monotonic() + LET_GO_S, self._there[name]))
        self._there[name] = self._mine[name] = database
        self._absent.pop(name, None)
        self._services.cell_came(name, database)
        log.info("a cell is used", extra={"cell": name})
        return True

    def _let_go(self, name: str) -> None:
        database = self._there.pop(name)
        del self._added[name], self._mine[name]
        self._services.cell_went(name)
        self._leaving.append((self._services.clock.monotonic() + LET_GO_S, database))
        log.info("a cell is used no more", extra={"cell": name})

    def _close_left(self) -> None:
        now = self._services.clock.monotonic()
        for at, database in list(self._leaving):
            if at <= now:
                self._leaving.remove((at, database))
                database.close()
