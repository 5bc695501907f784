"""Processes of the control plane, what they read and write, and the deployment's pin. In the caller's transaction."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import service_process as s
from kilonova.db.schema.world import setting
from kilonova.db.sql import P, Q

Versions = dict[str, tuple[int, int]]
PIN = "pin"

_SEEN = Q(sa.update(s).where(s.c.name == P("the_name")).values(seen_at=P("at")))
_ADD = Q(sa.insert(s).values({c.name: P(c.name) for c in s.columns}))
_ALL = Q(sa.select(s).order_by(s.c.started_at, s.c.name))
_FORGET = Q(sa.delete(s).where(s.c.name == P("the_name")))
_SILENT = Q(sa.delete(s).where(s.c.seen_at < P("before")))
_PIN = Q(sa.select(setting.c.value).where(setting.c.name == PIN))
_RAISE = Q(sa.update(setting).where(setting.c.name == PIN).values(value=P("pin")))
_FIRST = Q(sa.insert(setting).values(name=PIN, value=P("pin")))
_decode = msgspec.json.Decoder(Versions).decode


def seen(tx: Tx, *, name: str, versions: Versions, now: float, **facts: Any) -> None:
    """Say that a process runs; ``facts`` (role, host, release) are kept the first time."""
    if tx.run(_SEEN, the_name=name, at=now) == 0:
        text = msgspec.json.encode(versions).decode()
        tx.run(_ADD, name=name, versions=text, started_at=now, seen_at=now, **facts)


def forget(tx: Tx, name: str) -> None:
    """A process ends in order."""
    tx.run(_FORGET, the_name=name)


def forget_silent(tx: Tx, before: float) -> int:
    """Forget processes that were not heard of since ``before``."""
    return tx.run(_SILENT, before=before)


def list_(tx: Tx) -> list[Row]:
    """Return every process that runs, as far as is known, the oldest first."""
    return tx.all(_ALL)


def pin(tx: Tx) -> Versions | None:
    """Return what everybody writes; None before the first process."""
    text = tx.value(_PIN)
    return None if text is None else _decode(text)


def store_pin(tx: Tx, versions: Versions) -> None:
    """Set what everybody writes."""
    text = msgspec.json.encode(dict(sorted(versions.items()))).decode()
    if tx.run(_RAISE, pin=text) == 0:
        tx.run(_FIRST, pin=text)


def read(text: str) -> Versions:
    """Return a manifest as a record holds it."""
    return _decode(text)
