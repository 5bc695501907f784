"""The order of what is told to hosts, from one counter in the database: several conductors, and no clock in it.

A full state counts, then reads; a change reads, then looks at the counter. So a change that may hold what a full state
misses has the higher number: the host that got it refuses that full state and asks again (Change.seq).

Hosts that ask within the same moment share a number: ten thousand do when a process starts. A host that asks again
gets another one, so that it is not refused for what came between the number and its state.
"""

import time

import sqlalchemy as sa

from kilonova.db.engine import Database, Tx
from kilonova.db.sql import P, Q, insert_or_ignore
from kilonova.network.embedded.schema import told

SHARED_S = 0.5
_ONE = 1
_VALUE = Q(sa.select(told.c.value).where(told.c.id == _ONE))
_SET = Q(sa.update(told).where(told.c.id == _ONE).values(value=P("value")))
_LOCK = Q(sa.update(told).where(told.c.id == _ONE).values(value=told.c.value + 1))
_FIRST = insert_or_ignore(told)


def of_change(tx: Tx) -> int:
    """Return the number of a change whose documents were read before in this transaction."""
    return 2 * int(tx.value(_VALUE) or 0) + 1


class FullStates:
    """Numbers of full states, of one process. Not safe from several threads: what is told is told under one lock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last = 0
        self._until = float("-inf")
        self._hosts: set[str] = set()  # who had the last number

    def of(self, host: str, now: float) -> int:
        """Return the number of a full state that is read for a host after this call."""
        if time.monotonic() >= self._until or host in self._hosts:
            self._last = _counted(self._database, now)
            self._until = time.monotonic() + SHARED_S
            self._hosts = set()
        self._hosts.add(host)
        return self._last


def _counted(database: Database, now: float) -> int:
    """Count, and return the number of a full state that is read after this call.

    It is at least the time in milliseconds, so that hosts take it which heard of a later copy of the database.
    """

    def count(tx: Tx) -> int:
        floor = int(now * 1000)
        if not tx.run(_LOCK):
            tx.put(_FIRST, id=_ONE, value=floor)
            tx.put(_LOCK)
        value = max(int(tx.value(_VALUE)), floor)
        tx.put(_SET, value=value)
        return 2 * value

    return database.write(count)
