"""Servers that ran in a period, for usage reports. Cell database."""

from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import server as s

_SHOWN = (
    s.c.uuid,
    s.c.name,
    s.c.project_id,
    s.c.flavor,
    s.c.vm_state,
    s.c.created_at,
    s.c.launched_at,
    s.c.terminated_at,
)


def in_period(
    tx: Tx,
    start: float,
    stop: float,
    *,
    project_id: str | None,
    after: tuple[float, str] | None,
    limit: int,
) -> list[Row]:
    """Return servers launched before ``stop`` that did not end before ``start``, by (launched_at, uuid).

    after: (launched_at, uuid) of the last one of the page before.
    """
    where: list[Any] = [
        s.c.launched_at.isnot(None),
        s.c.launched_at < stop,
        sa.or_(s.c.terminated_at.is_(None), s.c.terminated_at > start),
        s.c.hidden == 0,
    ]
    if project_id is not None:
        where.append(s.c.project_id == project_id)
    if after is not None:
        moment, uuid = after
        where.append(
            sa.or_(s.c.launched_at > moment, sa.and_(s.c.launched_at == moment, s.c.uuid > uuid))
        )
    stmt = sa.select(*_SHOWN).where(*where).order_by(s.c.launched_at, s.c.uuid).limit(limit)
    return tx.select(stmt)
