"""Key pairs: public keys of a user. Global database."""

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import keypair as k
from kilonova.db.sql import P, Q

_GET = Q(sa.select(k).where(k.c.user_id == P("user_id"), k.c.name == P("name")))
_LIST = Q(sa.select(k).where(k.c.user_id == P("user_id")).order_by(k.c.name))
_COUNT = Q(sa.select(sa.func.count()).where(k.c.user_id == P("user_id")))
_COLUMNS = ("user_id", "name", "type", "fingerprint", "public_key", "created_at")
_ADD = Q(sa.insert(k).values({n: P(n) for n in _COLUMNS}))
_DROP = Q(sa.delete(k).where(k.c.user_id == P("user_id"), k.c.name == P("name")))


def find(tx: Tx, user_id: str, name: str) -> Row | None:
    """Return a user's key pair by name, or None."""
    return tx.one(_GET, user_id=user_id, name=name)


def of_user(tx: Tx, user_id: str) -> list[Row]:
    """Return a user's key pairs by name."""
    return tx.all(_LIST, user_id=user_id)


def count(tx: Tx, user_id: str) -> int:
    """Count a user's key pairs."""
    return int(tx.value(_COUNT, user_id=user_id))


def add(
    tx: Tx, *, user_id: str, name: str, type_: str, fingerprint: str, public_key: str, now: float
) -> None:
    """Insert a key pair; the name must be free."""
    tx.run(
        _ADD,
        user_id=user_id,
        name=name,
        type=type_,
        fingerprint=fingerprint,
        public_key=public_key,
        created_at=now,
    )


def remove(tx: Tx, user_id: str, name: str) -> bool:
    """Delete a key pair; False when there is none."""
    return tx.run(_DROP, user_id=user_id, name=name) == 1
