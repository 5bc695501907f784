"""Which hosts get no new volumes. Every function works in the caller's transaction."""

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.volume.embedded.schema import service, snapshot, volume

_ALL = Q(sa.select(service))
_DROP = Q(sa.delete(service).where(service.c.host == P("host")))
_ADD = insert(service)


def all_rows(tx: Tx) -> dict[str, Row]:
    """Return host -> its row; hosts that nobody ever disabled are absent."""
    return {r["host"]: r for r in tx.all(_ALL)}


def disabled(tx: Tx) -> frozenset[str]:
    """Return the hosts that get no new volumes."""
    return frozenset(r["host"] for r in tx.all(_ALL) if r["disabled"])


def kept_by_project(tx: Tx, host: str) -> dict[str, list[int]]:
    """Return project -> [volumes, their GiB, snapshots, their GiB] that a host keeps."""
    out: dict[str, list[int]] = {}
    for at, table in ((0, volume), (2, snapshot)):
        statement = (
            sa.select(table.c.project_id, sa.func.count(), sa.func.sum(table.c.size_gib))
            .where(table.c.host == host)
            .group_by(table.c.project_id)
        )
        for project, number, gib in tx.select(statement):
            line = out.setdefault(project, [0, 0, 0, 0])
            line[at], line[at + 1] = number, gib
    return out


def put(tx: Tx, host: str, *, disabled: bool, reason: str | None, now: float) -> None:
    """Write what an operator said of a host."""
    tx.run(_DROP, host=host)
    tx.run(_ADD, host=host, disabled=int(disabled), reason=reason, updated_at=now)
