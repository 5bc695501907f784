"""Leases: several conductors on one set of databases, each the owner of the operations that it has claimed.

An incarnation is a row, renewed every 3 s; after 10 s without it is dead, by the database's clock. Whoever notices ends
the row and frees its operations in one transaction, with their fence raised: from that commit on the dead one, should
it only have slept, can write nowhere (journal: fence; other databases: op_fence; hosts: the fence in the order).
A conductor that could not renew for 8 s stops acting by itself. An operation's fence grows with every change of owner.
"""

import hashlib
import random
import threading
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from kilonova.common.clock import Clock
from kilonova.common.errors import Conflict
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Tx
from kilonova.db.sql import P, Q, insert_or_ignore
from kilonova.saga.lease import Place
from kilonova.saga.ownership import Tended
from kilonova.saga.schema import TABLES
from kilonova.saga.state import Live

log = get_logger(__name__)
O, I = TABLES.operation, TABLES.incarnation  # noqa: E741
RENEW_S = 3.0
LEASE_S = 10.0
STOP_AFTER_S = 8.0
"""A conductor stops acting so long after its last renewal: 2 s before others may take what it owns."""
SWEEP_OTHERS_S = 5.0
KEEP_S = 30 * 86400.0
FREE_LIMIT = 1000
GRACE_S = 30.0
JOIN_TRIES = 20


class _DatabaseClock(FunctionElement[float]):
    """Seconds since the epoch by the database server's clock."""

    type = sa.Float()
    inherit_cache = True


@compiles(_DatabaseClock)
def _portable(element: Any, compiler: Any, **kw: Any) -> str:
    return "(julianday('now') - 2440587.5) * 86400.0"


@compiles(_DatabaseClock, "postgresql")
def _postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(_DatabaseClock, "mysql")
@compiles(_DatabaseClock, "mariadb")
def _mariadb(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS DOUBLE)"


_CLOCK = Q(sa.select(_DatabaseClock()))
_HIGHEST = Q(sa.select(sa.func.coalesce(sa.func.max(I.c.fence), 0)))
_JOIN = insert_or_ignore(I)
_FORGET = Q(sa.delete(I).where(I.c.ended_at < P("before")))
_RENEW = Q(
    sa.update(I).where(I.c.name == P("the_name"), I.c.ended_at.is_(None)).values(renewed_at=P("at"))
)
_END = Q(
    sa.update(I).where(I.c.name == P("the_name"), I.c.ended_at.is_(None)).values(ended_at=P("at"))
)
_BURY = Q(
    sa.update(I)
    .where(I.c.ended_at.is_(None), I.c.renewed_at < P("before"))
    .values(ended_at=P("at"))
)
_LIVE = Q(sa.select(I.c.name, I.c.renewed_at).where(I.c.ended_at.is_(None)).order_by(I.c.fence))
_LIVING = sa.select(I.c.name).where(I.c.ended_at.is_(None)).scalar_subquery()
_ORPHAN = sa.and_(O.c.wake_at.isnot(None), O.c.owner.isnot(None), O.c.owner.notin_(_LIVING))
_ORPHANS = Q(sa.select(O.c.id).where(_ORPHAN).limit(P("the_limit")))
_FREED = {
    "fence": O.c.fence + 1,
    "owner": sa.null(),
    "wake_at": P("now"),
    # silence towards a conductor that is gone is not the host's: a parked undo needs three sends of one owner
    "sends": sa.case((O.c.sends > 1, 1), else_=O.c.sends),
    "deadline": sa.case((O.c.deadline < P("grace"), P("grace")), else_=O.c.deadline),
}
_FREE = Q(sa.update(O).where(O.c.id == P("the_id"), _ORPHAN).values(_FREED))
_OWNED = Q(sa.select(O.c.id).where(O.c.wake_at.isnot(None), O.c.owner == P("the_name")))
_HAND_OVER = Q(
    sa.update(O).where(O.c.wake_at.isnot(None), O.c.owner == P("the_name")).values(_FREED)
)
_CLAIM = Q(
    sa.update(O)
    .where(
        O.c.id == P("the_id"),
        O.c.fence == P("seen"),
        O.c.owner.is_(None),
        O.c.wake_at.isnot(None),
        sa.exists().where(I.c.name == P("the_name"), I.c.ended_at.is_(None)),
    )
    .values(fence=O.c.fence + 1, owner=P("the_name"))
)
_DUE = Q(
    sa.select(O.c.id)
    .where(O.c.wake_at <= P("now"), sa.or_(O.c.owner.is_(None), O.c.owner == P("the_name")))
    .order_by(O.c.wake_at)
    .limit(P("the_limit"))
)
_SHIFT = Q(
    sa.update(O)
    .where(O.c.wake_at.isnot(None), O.c.owner == P("the_name"))
    .values(
        wake_at=O.c.wake_at + P("by"),
        deadline=O.c.deadline + P("by"),
        ends_by=O.c.ends_by + P("by"),
    )
)


def database_time(tx: Tx, now: float) -> float:
    """Return the database's clock, seconds since the epoch; of a file on this machine it is the machine's, ``now``."""
    if getattr(tx.database, "is_local", True):
        return now
    return float(tx.value(_CLOCK))


def join(tx: Tx, name: str, now: float) -> list[str]:
    """Begin an incarnation; its number is one above all others. Raises Conflict.

    Two that begin at once may meet on a number: one tries again. Returns who is alive, as ``living`` does.
    """
    at = database_time(tx, now)
    tx.put(_FORGET, before=at - KEEP_S)
    for _ in range(JOIN_TRIES):
        fence = tx.value(_HIGHEST) + 1
        if tx.run(_JOIN, fence=fence, name=name, started_at=at, renewed_at=at, ended_at=None) == 1:
            return [r[0] for r in tx.all(_LIVE)]
    raise Conflict("No number could be had for this conductor.", database=tx.database.name)


def renew(tx: Tx, name: str, now: float) -> bool:
    """Renew a lease; False when it was declared dead: then it stays dead."""
    return tx.run(_RENEW, the_name=name, at=database_time(tx, now)) == 1


def living(tx: Tx, now: float) -> tuple[list[str], bool]:
    """Return the names of the conductors that have not ended, the oldest first, and whether one of them is dead."""
    rows = tx.all(_LIVE)
    before = database_time(tx, now) - LEASE_S
    return [r[0] for r in rows], any(r[1] < before for r in rows)


def orphans(tx: Tx, limit: int = FREE_LIMIT) -> list[str]:
    """Return ids of live operations whose owner has ended."""
    return [r[0] for r in tx.all(_ORPHANS, the_limit=limit)]


def bury(tx: Tx, now: float, limit: int = FREE_LIMIT) -> list[str]:
    """End the incarnations that are dead and free their operations, fences raised; return the ids. Repeatable."""
    at = database_time(tx, now)
    tx.put(_BURY, before=at - LEASE_S, at=at)
    found = orphans(tx, limit)
    return [id for id in found if tx.run(_FREE, the_id=id, now=now, grace=now + GRACE_S) == 1]


def claim(tx: Tx, id: str, *, seen: int, name: str) -> bool:
    """Take an operation that nobody owns, by compare-and-swap; False when somebody was faster, or we are dead.

    Its fence is ``seen`` + 1 then.
    """
    return tx.run(_CLAIM, the_id=id, seen=seen, the_name=name) == 1


def hand_over(tx: Tx, name: str, now: float) -> list[str]:
    """End an incarnation in order and free its operations at once; return their ids (R5)."""
    at = database_time(tx, now)
    tx.put(_END, the_name=name, at=at)
    found = [r[0] for r in tx.all(_OWNED, the_name=name)]
    if found:
        tx.put(_HAND_OVER, the_name=name, now=now, grace=now + GRACE_S)
    return found


@dataclass
class _Lease:
    """This process's place in one database. renewed: monotonic seconds, read before the renewal was sent."""

    name: str
    renewed: float
    living: list[str]
    swept: float = float("-inf")
    pause: float = SWEEP_OTHERS_S


class LeaseOwner:
    """The form of several conductors. ``clock``: its monotonic half measures this process's own lease.

    place: this process's on its machine; with it a process that starts again has at once what the one before it had.
    """

    shared = True

    def __init__(self, clock: Clock, place: Place | None = None) -> None:
        self._clock = clock
        self._place = place
        self._leases: dict[str, _Lease] = {}
        self._locks: dict[str, threading.Lock] = {}

    def open(self, db: Database, now: float) -> None:
        """Begin an incarnation of a new name."""
        name, began = f"conductor-{new_uuid()}", self._clock.monotonic()
        before = [] if self._place is None else self._place.before(db.name)
        if self._place is not None:
            self._place.note(db.name, [name, *before])

        def begin(tx: Tx) -> list[str]:
            for old in before:
                hand_over(tx, old, now)
            return join(tx, name, now)

        alive = db.write(begin)
        if self._place is not None:
            self._place.note(db.name, [name])
        self._locks.setdefault(db.name, threading.Lock())
        self._leases[db.name] = _Lease(name, began, alive)

    def is_open(self, database: str) -> bool:
        return database in self._leases

    def name_in(self, database: str) -> str:
        return self._leases[database].name

    def address(self, database: str) -> str:
        return f"{database}.{self._leases[database].name}"

    def holds(self, database: str) -> bool:
        lease = self._leases.get(database)
        return lease is not None and self._clock.monotonic() - lease.renewed < STOP_AFTER_S

    def own(self, db: Database, live: Live) -> bool:
        """Claim what nobody owns. One commit; the journal's fence guards everything after it.

        What begins with a mere decision is claimed by the transition that journals it (``journal.save``).
        """
        name = self.name_in(db.name)
        if live.owner is not None:
            return live.owner == name
        seen = live.fence
        if live.only_decides:
            live.fence, live.owner, live.unowned = seen + 1, name, True
            return True
        if not db.write(lambda tx: claim(tx, live.id, seen=seen, name=name)):
            return False
        live.fence, live.owner = seen + 1, name
        return True

    def tend(self, db: Database, now: float, *, force: bool = False) -> Tended:
        lease = self._leases.get(db.name)
        if lease is None:
            return Tended()
        if not self._locks[db.name].acquire(blocking=False):
            return Tended(conductors=len(lease.living))  # another thread is at it
        try:
            began, name = self._clock.monotonic(), lease.name
            if not force and began - lease.renewed < RENEW_S:
                return Tended(conductors=len(lease.living))
            lost = not db.write(lambda tx: renew(tx, name, now))
            if lost:
                log.error("this conductor was taken for dead", extra={"database": db.name})
                self.open(db, now)
                lease = self._leases[db.name]
            else:
                lease.renewed = began
            lease.living, dead = db.read(lambda tx: living(tx, now))
            freed: list[str] = []
            if dead or db.ask(lambda tx: orphans(tx, 1)):
                freed = db.write(lambda tx: bury(tx, now))
                log.warning(
                    "operations of dead conductors are free",
                    extra={"database": db.name, "operations": len(freed)},
                )
                lease.living = db.read(lambda tx: living(tx, now))[0]
            return Tended(lost, freed, max(1, len(lease.living)))
        finally:
            self._locks[db.name].release()

    def sweeps(self, database: str, monotonic: float) -> bool:
        """Sweep each time when ours is the highest hash of (conductor, database), else every 5 s or so."""
        lease = self._leases.get(database)
        if lease is None or lease.name == chosen(database, lease.living):
            return True
        if monotonic - lease.swept < lease.pause:
            return False
        lease.swept = monotonic
        lease.pause = SWEEP_OTHERS_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        return True

    def leads(self, db: Database) -> bool:
        """The oldest incarnation that has not ended leads: by the database's word, so there is one at a time."""
        if not self.holds(db.name):
            return False
        names = [r[0] for r in db.ask(lambda tx: tx.all(_LIVE))]
        return names[:1] == [self.name_in(db.name)]

    def due(self, tx: Tx, now: float, limit: int) -> list[str]:
        name = self.name_in(tx.database.name)
        return [r[0] for r in tx.all(_DUE, now=now, the_name=name, the_limit=limit)]

    def shift(self, tx: Tx, by_s: float) -> None:
        tx.put(_SHIFT, the_name=self.name_in(tx.database.name), by=by_s)

    def retire(self, db: Database, now: float) -> list[str]:
        name = self.name_in(db.name)
        return db.write(lambda tx: hand_over(tx, name, now))

    def close(self, database: str) -> None:
        self._leases.pop(database, None)


def chosen(database: str, names: list[str]) -> str | None:
    """Return which of the conductors sweeps a database often: rendezvous hashing, so that few change when one goes."""
    return max(
        names, key=lambda n: hashlib.sha256(f"{n} {database}".encode()).digest(), default=None
    )
