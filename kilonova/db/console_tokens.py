"""Console tokens of one cell: each opens one console of one run of a guest, once. The caller holds the transaction."""

import hashlib

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import console_token as t
from kilonova.db.sql import P, Q, insert

_ADD = insert(t)
_GET = Q(sa.select(t).where(t.c.digest == P("digest"), t.c.expires_at > P("now")))
_DROP = Q(sa.delete(t).where(t.c.digest == P("digest")))
_EXPIRED = Q(sa.delete(t).where(t.c.expires_at <= P("now")))


def digest_of(token: str) -> str:
    """Return what is stored in the place of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def add(
    tx: Tx,
    token: str,
    *,
    server: str,
    host: str,
    kind: str,
    boot: str,
    expires_at: float,
    now: float,
) -> None:
    """Keep a token; those that expired go on the way."""
    tx.run(_EXPIRED, now=now)
    tx.run(
        _ADD,
        digest=digest_of(token),
        server=server,
        host=host,
        kind=kind,
        boot=boot,
        expires_at=expires_at,
    )


def find(tx: Tx, token: str, now: float) -> Row | None:
    """Return the row of a token that may be taken; writes nothing, so that guessing costs no write."""
    return tx.one(_GET, digest=digest_of(token), now=now)


def take(tx: Tx, token: str, now: float) -> Row | None:
    """Return a token's row and forget it; None when there is none, or it expired."""
    row = tx.one(_GET, digest=digest_of(token), now=now)
    if row is not None:
        tx.run(_DROP, digest=row["digest"])
    return row


def purge(tx: Tx, now: float) -> int:
    """Forget expired tokens; return how many."""
    return tx.run(_EXPIRED, now=now)
