"""Instance actions in pages and by time, for GET /servers/{id}/os-instance-actions. Cell database."""

from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import instance_action as a


def page(
    tx: Tx,
    server: str,
    *,
    limit: int,
    marker: Row | None = None,
    since: float | None = None,
    before: float | None = None,
) -> list[Row]:
    """Return a server's actions, newest first, after ``marker``; since/before bound updated_at."""
    where: list[Any] = [a.c.server == server]
    if since is not None:
        where.append(a.c.updated_at >= since)
    if before is not None:
        where.append(a.c.updated_at <= before)
    if marker is not None:
        started, operation = marker["started_at"], marker["operation"]
        where.append(
            sa.or_(
                a.c.started_at < started,
                sa.and_(a.c.started_at == started, a.c.operation < operation),
            )
        )
    order = (a.c.started_at.desc(), a.c.operation.desc())
    return tx.select(sa.select(a).where(*where).order_by(*order).limit(limit))
