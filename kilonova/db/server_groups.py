"""Server groups. Members are the servers whose mapping names the group. Global database."""

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import server_group as g
from kilonova.db.schema.world import server_mapping as m
from kilonova.db.sql import P, Q

_GET = Q(sa.select(g).where(g.c.uuid == P("uuid")))
_ADD = Q(sa.insert(g).values({c.name: P(c.name) for c in g.columns}))
_DROP = Q(sa.delete(g).where(g.c.uuid == P("uuid")))
_LEAVE = Q(sa.update(m).where(m.c.server_group == P("group")).values(server_group=None))
_MEMBERS = Q(sa.select(m.c.server).where(m.c.server_group == P("group")).order_by(m.c.created_at))


def find(tx: Tx, uuid: str) -> Row | None:
    """Return a group, or None."""
    return tx.one(_GET, uuid=uuid)


def add(
    tx: Tx,
    *,
    uuid: str,
    project_id: str,
    user_id: str,
    name: str,
    policy: str,
    rules: dict[str, int],
    now: float,
) -> None:
    """Insert a group."""
    tx.run(
        _ADD,
        uuid=uuid,
        project_id=project_id,
        user_id=user_id,
        name=name,
        policy=policy,
        rules=msgspec.json.encode(rules).decode(),
        created_at=now,
    )


def remove(tx: Tx, uuid: str) -> bool:
    """Delete a group; its servers go on without one."""
    tx.run(_LEAVE, group=uuid)
    return tx.run(_DROP, uuid=uuid) == 1


def members(tx: Tx, uuid: str) -> list[str]:
    """Return the group's servers, oldest first."""
    return [r[0] for r in tx.all(_MEMBERS, group=uuid)]


def list_(tx: Tx, project_id: str | None) -> list[Row]:
    """Return groups of a project (None: all), oldest first."""
    stmt = sa.select(g).order_by(g.c.created_at, g.c.uuid)
    return tx.select(stmt if project_id is None else stmt.where(g.c.project_id == project_id))
