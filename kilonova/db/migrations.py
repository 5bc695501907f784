"""Migrations of one cell: every move of a server and what became of it. The caller holds the transaction."""

from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import migration as m
from kilonova.db.sql import P, Q, insert_or_ignore

ENDED = frozenset(("confirmed", "reverted", "error", "completed", "failed", "cancelled", "done"))
"""Statuses of a migration that keeps nothing any more."""
LIVE = ("accepted", "queued", "preparing", "running", "post-migrating")
"""Statuses of a live migration under way, in their order."""
HOLDING = (
    "accepted",
    "pre-migrating",
    "migrating",
    *LIVE[1:],
    "finished",
    "confirming",
    "reverting",
)
"""Statuses of one that may keep a claim, or a guest that is off, at its source."""
_COLUMNS = tuple(c.name for c in m.columns if c.name != "id")
_ADD = insert_or_ignore(m, *_COLUMNS)
_GET = Q(sa.select(m).where(m.c.uuid == P("uuid")))
_WAITING = Q(
    sa.select(m)
    .where(m.c.server == P("server"), m.c.status == "finished")
    .order_by(m.c.id.desc())
    .limit(1)
)
_OF_SERVER = Q(sa.select(m).where(m.c.server == P("server")).order_by(m.c.id))
_STATUS = Q(
    sa.update(m).where(m.c.uuid == P("uuid_")).values(status=P("status"), updated_at=P("now"))
)
_ADVANCE = Q(
    sa.update(m)
    .where(m.c.uuid == P("uuid_"), m.c.status == P("before"))
    .values(status=P("status"), updated_at=P("now"))
)
_DEST = Q(
    sa.update(m)
    .where(m.c.uuid == P("uuid_"))
    .values(dest_host=P("host"), dest_node=P("node"), updated_at=P("now"))
)
_CROSS = Q(sa.update(m).where(m.c.uuid == P("uuid_")).values(cross_cell=1))
_OLD = Q(
    sa.select(m).where(m.c.status == "finished", m.c.updated_at <= P("before")).limit(P("most"))
)
_HOLDING = Q(
    sa.select(
        m.c.uuid, m.c.server, m.c.status, m.c.source_host, m.c.dest_host, m.c.old_vm_state
    ).where(m.c.status.in_(HOLDING))
)


def add(tx: Tx, **values: Any) -> None:
    """Insert a migration; once per uuid."""
    tx.run(_ADD, **{"cross_cell": 0, "hidden": 0, "dest_host": None, "dest_node": None, **values})


def find(tx: Tx, uuid: str) -> Row | None:
    """Return a migration, or None."""
    return tx.one(_GET, uuid=uuid)


def waiting(tx: Tx, server: str) -> Row | None:
    """Return the migration that waits for a server's confirm or revert, or None."""
    return tx.one(_WAITING, server=server)


def of_server(tx: Tx, server: str) -> list[Row]:
    """Return every migration of a server, oldest first."""
    return tx.all(_OF_SERVER, server=server)


def set_status(tx: Tx, uuid: str, status: str, now: float) -> None:
    """Say how a migration stands; fine when it is gone."""
    tx.run(_STATUS, uuid_=uuid, status=status, now=now)


def advance(tx: Tx, uuid: str, before: str, status: str, now: float) -> None:
    """Say how a migration stands, if it stood as ``before``."""
    tx.run(_ADVANCE, uuid_=uuid, before=before, status=status, now=now)


def set_dest(tx: Tx, uuid: str, host: str, node: str, now: float) -> None:
    """Say where a migration goes."""
    tx.run(_DEST, uuid_=uuid, host=host, node=node, now=now)


def mark_cross_cell(tx: Tx, uuid: str) -> None:
    """Say that a migration goes to another cell, whatever becomes of it (CC-3.1)."""
    tx.run(_CROSS, uuid_=uuid)


def finished_before(tx: Tx, before: float, most: int = 100) -> list[Row]:
    """Return at most ``most`` migrations that have waited for a confirm since ``before`` or longer."""
    return tx.all(_OLD, before=before, most=most)


def holding(tx: Tx) -> list[Row]:
    """Return the migrations that may keep an old claim."""
    return tx.all(_HOLDING)


def listed(
    tx: Tx, filters: dict[str, Any], limit: int, after: tuple[float, str] | None
) -> list[Row]:
    """Return migrations, newest first. filters: column -> value; also ``host`` (either end), since, before (times)."""
    stmt = sa.select(m)
    for name, value in filters.items():
        if name == "host":
            stmt = stmt.where(sa.or_(m.c.source_host == value, m.c.dest_host == value))
        elif name == "since":
            stmt = stmt.where(m.c.updated_at >= value)
        elif name == "before":
            stmt = stmt.where(m.c.updated_at <= value)
        elif name == "status":
            stmt = stmt.where(m.c.status.in_(value))
        else:
            stmt = stmt.where(m.c[name] == value)
    if after is not None:
        stmt = stmt.where(sa.tuple_(m.c.created_at, m.c.uuid) < sa.tuple_(*after))
    return tx.select(stmt.order_by(m.c.created_at.desc(), m.c.uuid.desc()).limit(limit))
