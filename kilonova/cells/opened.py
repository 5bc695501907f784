"""The databases of cells that a process has open: cells come and go while it runs."""

import threading
from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView

from kilonova.db.engine import Database


class OpenCells(MutableMapping[str, Database]):
    """Name -> database. Whoever goes through it sees the cells of one moment; a change makes a new table."""

    def __init__(self) -> None:
        self._now: dict[str, Database] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Database:
        return self._now[name]

    def __setitem__(self, name: str, database: Database) -> None:
        with self._lock:
            self._now = {**self._now, name: database}

    def __delitem__(self, name: str) -> None:
        with self._lock:
            self._now = {n: d for n, d in self._now.items() if n != name}

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def keys(self) -> KeysView[str]:
        return self._now.keys()

    def values(self) -> ValuesView[Database]:
        return self._now.values()

    def items(self) -> ItemsView[str, Database]:
        return self._now.items()
