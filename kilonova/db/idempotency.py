"""Idempotency keys: which requests were made under which key, and what was answered. Global database; kept 24 hours."""

from typing import NamedTuple

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import idempotency as t
from kilonova.db.sql import P, Q, insert

KEEP_S = 86400.0


class Key(NamedTuple):
    """A key is the caller's own: the same text of another user, or for another path, is another key."""

    project_id: str
    user_id: str
    method: str
    path: str
    key: str


_MINE = (
    t.c.project_id == P("project_id_"),
    t.c.user_id == P("user_id_"),
    t.c.method == P("method_"),
    t.c.path == P("path_"),
    t.c.key == P("key_"),
)
_GET = Q(sa.select(t).where(*_MINE))
_ADD = insert(t)
_TAKE = Q(
    sa.update(t)
    .where(*_MINE, t.c.status.is_(None), t.c.created_at == P("seen"))
    .values(created_at=P("now"))
)
_FINISH = Q(
    sa.update(t)
    .where(*_MINE, t.c.status.is_(None), t.c.created_at == P("reserved_at"))
    .values(status=P("status"), answer=P("answer"), location=P("location"))
)
_RELEASE = Q(sa.delete(t).where(*_MINE, t.c.status.is_(None), t.c.created_at == P("reserved_at")))
_FORGET = Q(sa.delete(t).where(*_MINE, t.c.created_at < P("before")))


def _named(key: Key) -> dict[str, str]:
    return {name + "_": value for name, value in key._asdict().items()}


def find(tx: Tx, key: Key) -> Row | None:
    """Return what is known of a key, or None."""
    return tx.one(_GET, **_named(key))


def reserve(tx: Tx, key: Key, *, body_hash: str, minted: str, now: float) -> None:
    """Note that a request under this key is under way. The key must be free: ``find`` in the same transaction."""
    tx.put(
        _ADD,
        **key._asdict(),
        body_hash=body_hash,
        minted=minted,
        status=None,
        answer=None,
        location=None,
        created_at=now,
    )


def take(tx: Tx, key: Key, *, seen: float, now: float) -> bool:
    """Take over a reservation whose owner is silent; False when it changed since it was ``seen``."""
    return tx.run(_TAKE, **_named(key), seen=seen, now=now) == 1


def finish(
    tx: Tx, key: Key, *, reserved_at: float, status: int, answer: bytes, location: str | None
) -> bool:
    """Keep the answer, in the transaction that accepts. False when somebody else took the key over: accept nothing."""
    changed = tx.run(
        _FINISH,
        **_named(key),
        reserved_at=reserved_at,
        status=status,
        answer=answer,
        location=location,
    )
    return changed == 1


def release(tx: Tx, key: Key, *, reserved_at: float) -> None:
    """Give a key back whose request was refused; fine when it is not ours any more."""
    tx.put(_RELEASE, **_named(key), reserved_at=reserved_at)


def forget_old(tx: Tx, key: Key, before: float) -> None:
    """Drop a key that was reserved before a moment."""
    tx.put(_FORGET, **_named(key), before=before)
