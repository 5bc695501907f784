"""Who owns the operations of a database: the one process that holds the state directory, or conductors with leases.

An engine asks its Ownership before it acts; nothing else in the saga code knows which of the two forms it runs in.
"""

from dataclasses import dataclass, field
from typing import Protocol

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Database, Tx
from kilonova.saga import journal
from kilonova.saga.journal import Fenced
from kilonova.saga.state import Live

CONDUCTORS = "conductors"


@dataclass(frozen=True)
class Tended:
    """What came of looking after a lease.

    lost: it was declared dead meanwhile, and a new incarnation has begun: nothing of the old one counts any more.
    freed: operations of dead conductors, which anybody may take now. conductors: how many are alive.
    """

    lost: bool = False
    freed: list[str] = field(default_factory=list)
    conductors: int = 1


class Ownership(Protocol):
    """How an engine comes to own operations. Safe from any thread.

    shared: there may be other conductors on the same databases.
    """

    shared: bool

    def open(self, db: Database, now: float) -> None:
        """Begin an incarnation in a database. Raises what the database raises."""
        ...

    def is_open(self, database: str) -> bool:
        """Tell whether ``open`` worked for a database."""
        ...

    def name_in(self, database: str) -> str:
        """Return the name of this incarnation, as its operations carry it; names are never used again."""
        ...

    def address(self, database: str) -> str:
        """Return what follows ``answer.<host>.`` on the subject that answers to this incarnation come on."""
        ...

    def holds(self, database: str) -> bool:
        """Tell whether this process may act: its lease cannot be dead elsewhere yet."""
        ...

    def own(self, db: Database, live: Live) -> bool:
        """Own an operation that is to be worked on; False when it is another's. Raises Fenced."""
        ...

    def tend(self, db: Database, now: float, *, force: bool = False) -> Tended:
        """Renew the lease when it is time (``force``: at once), and free what dead conductors owned."""
        ...

    def sweeps(self, database: str, monotonic: float) -> bool:
        """Tell whether it is this process's turn to sweep a database."""
        ...

    def leads(self, db: Database) -> bool:
        """Tell whether this process is the one that does what only one may do (reconcilers)."""
        ...

    def due(self, tx: Tx, now: float, limit: int) -> list[str]:
        """Return ids of operations that this process should look at."""
        ...

    def shift(self, tx: Tx, by_s: float) -> None:
        """Move the times of this process's operations: its clock jumped."""
        ...

    def retire(self, db: Database, now: float) -> list[str]:
        """End the incarnation in order; return the operations that others may take now."""
        ...

    def close(self, database: str) -> None:
        """Know nothing of a database any more; it may come again. Safe to repeat."""
        ...


class SoleOwner:
    """The form of one process: who holds the state directory's lock owns all; every older incarnation is dead.

    An operation's fence is then the number of the incarnation that owns it, and new operations are born with it.
    """

    shared = False

    def __init__(self) -> None:
        self._name = f"conductor-{new_uuid()}"
        self._fences: dict[str, int] = {}

    def open(self, db: Database, now: float) -> None:
        self._fences[db.name] = db.write(lambda tx: journal.take_over(tx, self._name, now))

    def is_open(self, database: str) -> bool:
        return database in self._fences

    def name_in(self, database: str) -> str:
        return self._name

    def address(self, database: str) -> str:
        return database

    def holds(self, database: str) -> bool:
        return True

    def own(self, db: Database, live: Live) -> bool:
        """Own an operation of an older incarnation by compare-and-swap; False when a newer one has it."""
        mine = self._fences[live.database]
        if live.fence > mine:
            raise Fenced("a newer incarnation owns the operation")
        if live.fence < mine:
            seen = live.fence
            if not db.write(lambda tx: journal.claim(tx, live.id, seen=seen, fence=mine)):
                return False
            live.fence = mine
        live.owner = self._name
        return True

    def tend(self, db: Database, now: float, *, force: bool = False) -> Tended:
        return Tended()

    def sweeps(self, database: str, monotonic: float) -> bool:
        return True

    def leads(self, db: Database) -> bool:
        return True

    def due(self, tx: Tx, now: float, limit: int) -> list[str]:
        return journal.due(tx, now, limit)

    def shift(self, tx: Tx, by_s: float) -> None:
        journal.shift(tx, by_s)

    def retire(self, db: Database, now: float) -> list[str]:
        fence = self._fences[db.name]
        db.write(lambda tx: journal.retire(tx, fence, now))
        return []

    def close(self, database: str) -> None:
        self._fences.pop(database, None)
