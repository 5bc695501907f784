"""Tokens by which hosts join, each good once: kept as digests among the settings. The caller holds the transaction."""

import hashlib

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.schema.world import setting
from kilonova.db.sql import P, Q

_PREFIX = "host-join:"
_ADD = Q(sa.insert(setting).values(name=P("name"), value=P("value")))
_GET = Q(sa.select(setting.c.value).where(setting.c.name == P("the_name")))
_ALL = Q(sa.select(setting).where(setting.c.name.like(f"{_PREFIX}%")))
_DROP = Q(sa.delete(setting).where(setting.c.name == P("the_name")))


class Join(msgspec.Struct, frozen=True):
    """What a token lets in. expires_at: Unix seconds."""

    host: str
    cell: str
    expires_at: float


def _name(token: str) -> str:
    return _PREFIX + hashlib.sha256(token.encode()).hexdigest()


def add(tx: Tx, token: str, join: Join) -> None:
    """Keep a new token."""
    tx.run(_ADD, name=_name(token), value=msgspec.json.encode(join).decode())


def take(tx: Tx, token: str) -> Join | None:
    """Use a token up: the first who asks gets what it is for, everybody after None."""
    name = _name(token)
    found = tx.value(_GET, the_name=name)
    if found is None or tx.run(_DROP, the_name=name) != 1:
        return None
    return msgspec.json.decode(found, type=Join)


def forget_expired(tx: Tx, now: float) -> None:
    """Drop tokens that nobody used in time."""
    for row in tx.all(_ALL):
        if msgspec.json.decode(row["value"], type=Join).expires_at < now:
            tx.run(_DROP, the_name=row["name"])


def forget(tx: Tx, host: str) -> None:
    """Drop a host's tokens; fine when there are none."""
    for row in tx.all(_ALL):
        if msgspec.json.decode(row["value"], type=Join).host == host:
            tx.run(_DROP, the_name=row["name"])
