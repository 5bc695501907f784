"""What a tenant is told of an operation that failed. Every function works in the caller's transaction."""

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.volume.embedded.schema import message

KEPT_S = 30 * 86400.0
_FIND = Q(sa.select(message).where(message.c.id == P("id")))
_ADD = insert(message)
_DROP = Q(sa.delete(message).where(message.c.id == P("id")))
_OLD = Q(sa.delete(message).where(message.c.created_at < P("before")))


def find(tx: Tx, message_id: str) -> Row | None:
    """Return a row, or None."""
    return tx.one(_FIND, id=message_id)


def add(
    tx: Tx, project_id: str, request_id: str, about: tuple[str, str], text: str, now: float
) -> None:
    """Tell a project; what is older than 30 days goes. about: (resource type, id)."""
    tx.run(_OLD, before=now - KEPT_S)
    tx.run(
        _ADD,
        id=new_uuid(),
        project_id=project_id,
        event_id=f"{about[0]}_{about[0]}_001_001",
        request_id=request_id,
        resource_type=about[0],
        resource_uuid=about[1],
        text=text,
        created_at=now,
    )


def drop(tx: Tx, message_id: str) -> None:
    """Remove a row."""
    tx.run(_DROP, id=message_id)
