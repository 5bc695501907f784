"""What becomes of each kind of record when a server moves to another cell, and the copy that follows from it.

``TABLE`` names every table of a cell's schema; a test fails when one is missing, or when a column of ``server`` is
(CC-0.2). A copy is one transaction in the target cell with one statement per kind, and everything is read before
(CC-4.1, 4.6, 4.8): either all of the hidden copy is there, or nothing. Every function is repeatable; the caller fences.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.schema import cell as c
from kilonova.db.sql import P, Q, insert
from kilonova.saga.schema import TABLES

Records = Mapping[str, Sequence[dict[str, Any]]]  # table -> rows


class Fate(enum.Enum):
    """What a move does with one kind of record.

    MOVED: copied, and the copy that is not seen any more is removed. MERGED: likewise, and a revert takes what came
    since back with it. REGENERATED: made anew where it is needed. STAYS: it is no record of a server's.
    """

    MOVED = "moved"
    MERGED = "merged"
    REGENERATED = "regenerated"
    DROPPED = "dropped"
    STAYS = "stays"


@dataclass(frozen=True)
class Kind:
    """One table. server: the column that names the server, or (``through``) the action that does.

    anew: columns that the copy does not take over, with the value that they have there (None: the database gives it).
    """

    table: sa.Table
    fate: Fate
    why: str
    server: str = "server"
    through: bool = False
    anew: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.table.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a copy writes."""
        return tuple(x.name for x in self.table.columns if self.anew.get(x.name, "") is not None)


TABLE: tuple[Kind, ...] = (  # in this order rows are inserted; they are removed in the reverse one
    Kind(c.server, Fate.MERGED, "the server itself, hidden", "uuid", anew={"hidden": 1}),
    Kind(c.server_tag, Fate.MERGED, "tags"),
    Kind(c.secret, Fate.MERGED, "user data, sealed as it is", "owner"),
    Kind(c.fault, Fate.MERGED, "faults: who audits wants them (CC-4.7)"),
    Kind(c.instance_action, Fate.MERGED, "all history goes with the server"),
    Kind(c.action_event, Fate.MERGED, "what happened in each action", "operation", through=True),
    Kind(c.migration, Fate.MERGED, "every move; one uuid, another number", anew={"id": None}),
    Kind(c.console_token, Fate.REGENERATED, "a token is good for one host only"),
    Kind(c.cleanup, Fate.STAYS, "what a host of this cell still has to do"),
    Kind(c.notification, Fate.STAYS, "what subscribers were told here", ""),
    Kind(c.host, Fate.STAYS, "a host", ""),
    Kind(TABLES.operation, Fate.STAYS, "an operation never leaves its home", ""),
    Kind(TABLES.step, Fate.STAYS, "as its operation", ""),
    Kind(TABLES.fence, Fate.STAYS, "as its operation; it keeps zombies out", ""),
    Kind(TABLES.incarnation, Fate.STAYS, "a conductor", ""),
)
COPIED = tuple(k for k in TABLE if k.fate in (Fate.MOVED, Fate.MERGED))
OURS = tuple(k for k in TABLE if k.fate not in (Fate.STAYS,))

SOURCE, TARGET, MIXED = "source", "target", "mixed"
ON_REVERT: Mapping[str, str] = {
    # where the server was, and what it was there
    **dict.fromkeys(("uuid", "host", "node", "availability_zone", "flavor", "hardware"), SOURCE),
    **dict.fromkeys(("devices", "created_at", "root_device", "hidden", "deleted"), SOURCE),
    **dict.fromkeys(("vm_state", "task_state", "power_state", "progress", "epoch"), SOURCE),
    "disks": MIXED,  # local ones as they were, volumes as they are now
    # what its owner may have changed since
    **dict.fromkeys(("project_id", "user_id", "name", "description", "hostname"), TARGET),
    **dict.fromkeys(("requested_zone", "image_id", "key_name", "config_drive", "keys"), TARGET),
    **dict.fromkeys(("access_ip_v4", "access_ip_v6", "metadata", "tags", "addresses"), TARGET),
    **dict.fromkeys(("security_groups", "nics", "trusted_certs", "system_metadata"), TARGET),
    **dict.fromkeys(("locked_by", "locked_reason", "reservation_id", "launch_index"), TARGET),
    **dict.fromkeys(("user_data", "server_group", "metadata_generation", "updated_at"), TARGET),
    **dict.fromkeys(("launched_at", "terminated_at"), TARGET),
}
"""Column of ``server`` -> whose value the source's row has after a revert (CC-11.2)."""
_BACK = tuple(name for name, whose in ON_REVERT.items() if whose == TARGET)
_MIGRATION = tuple(x.name for x in c.migration.columns if x.name not in ("id", "uuid"))


def _of(kind: Kind) -> Any:
    column = kind.table.c[kind.server]
    if kind.through:
        mine = c.instance_action.c
        return column.in_(sa.select(mine.operation).where(mine.server == P("server_")))
    return column == P("server_")


_READ = {  # in order of the key, so that numbers that are given anew are in the same order
    k.name: Q(sa.select(k.table).where(_of(k)).order_by(*k.table.primary_key)) for k in COPIED
}
_WRITE = {k.name: insert(k.table, *k.columns) for k in COPIED}
_REMOVE = {k.name: Q(sa.delete(k.table).where(_of(k))) for k in OURS}
_HIDE = Q(sa.update(c.server).where(c.server.c.uuid == P("uuid_")).values(hidden=P("hidden")))
_TAKE_BACK = Q(
    sa.update(c.server).where(c.server.c.uuid == P("uuid_")).values({n: P(n) for n in _BACK})
)
_MIGRATION_BACK = Q(
    sa.update(c.migration)
    .where(c.migration.c.uuid == P("uuid_"))
    .values({n: P(n) for n in _MIGRATION})
)


def read(tx: Tx, server: str) -> Records:
    """Return all of a server that moves; empty when it is not in this cell."""
    return {k.name: [dict(r) for r in tx.all(_READ[k.name], server_=server)] for k in COPIED}


def write(tx: Tx, server: str, records: Records, **columns: Any) -> None:
    """Put a complete hidden copy into a cell, in place of whatever is there of that server.

    columns: of the server's row, that differ in this cell.
    """
    remove(tx, server)
    for kind in COPIED:
        anew = {n: v for n, v in kind.anew.items() if v is not None}
        if kind.table is c.server:
            anew |= columns
        rows = [{n: anew.get(n, r[n]) for n in kind.columns} for r in records[kind.name]]
        tx.many(_WRITE[kind.name], rows)


def remove(tx: Tx, server: str) -> None:
    """Take everything of a server out of a cell, as if it had never been there; fine when it was not.

    What a host of the cell still has to clean up stays.
    """
    for kind in reversed(OURS):
        tx.run(_REMOVE[kind.name], server_=server)


def take_back(tx: Tx, server: str, records: Records, **columns: Any) -> None:
    """Bring the hidden copy that was left behind up to date from the other one, before it is seen again (CC-11.2).

    records: all of the other one, as ``read`` returns it. columns: of the server's row, decided by the caller.
    Where the server was and what it was there stay.
    """
    for kind in reversed(COPIED):
        if kind.table not in (c.server, c.migration):
            tx.run(_REMOVE[kind.name], server_=server)
    for kind in COPIED:
        if kind.table not in (c.server, c.migration):
            rows = [{n: r[n] for n in kind.columns} for r in records[kind.name]]
            tx.many(_WRITE[kind.name], rows)
    for row in records[c.migration.name]:
        tx.run(_MIGRATION_BACK, uuid_=row["uuid"], **{n: row[n] for n in _MIGRATION})
    for row in records[c.server.name]:
        tx.run(_TAKE_BACK, uuid_=server, **{n: row[n] for n in _BACK})
    if columns:
        tx.change(sa.update(c.server).where(c.server.c.uuid == server).values(**columns))


def hide(tx: Tx, server: str, hidden: bool) -> None:
    """Say whether a cell's row of a server is one that is seen; the mapping decides, this follows."""
    tx.run(_HIDE, uuid_=server, hidden=int(hidden))
