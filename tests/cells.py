"""A cell's database that fails on demand: it hangs, or it says that it cannot be reached (R11).

It stands between the cloud and the real database, as a driver of a database server would: ``is_local`` is False. Put it
into a cloud's cells: ``cells["cell1"] = Moody(cells["cell1"])``. ``reached`` counts how often a mood was met.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from kilonova.common.errors import Unavailable
from kilonova.db.engine import Database, Tx

T = TypeVar("T")
GIVES_UP_S = 30.0


class Moody:
    """A Database in a mood: "" (well), "hang" (until it is well again), "error"."""

    is_local = False

    def __init__(self, real: Database) -> None:
        self.real = real
        self.name = real.name
        self.reached = 0
        self._mood = ""
        self._well = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def mood(self) -> str:
        return self._mood

    @mood.setter
    def mood(self, mood: str) -> None:
        self._mood = mood
        if not mood:
            self._well.set()
        else:
            self._well.clear()

    def _pass(self) -> None:
        mood = self._mood
        if not mood:
            return
        self.reached += 1
        if mood == "hang" and self._well.wait(GIVES_UP_S):
            return
        raise Unavailable("The database does not answer.", database=self.name)

    def read(self, fn: Callable[[Tx], T]) -> T:
        self._pass()
        return self.real.read(fn)

    def ask(self, fn: Callable[[Tx], T]) -> T:
        self._pass()
        return self.real.ask(fn)

    def write(self, fn: Callable[[Tx], T], *, guarded: bool = False) -> T:
        self._pass()
        return self.real.write(fn, guarded=guarded)
