"""Hosts of one cell. The caller holds the transaction."""

import json
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.schema.cell import host as h
from kilonova.db.schema.world import host_mapping as hm
from kilonova.db.sql import P, Q, insert_or_replace

_GET = Q(sa.select(h).where(h.c.host == P("host")))
_ALL = Q(sa.select(h).order_by(h.c.id))
_CHANGED = Q(sa.select(h).where(h.c.updated_at >= P("since")).order_by(h.c.id))
_SEEN_SINCE = Q(sa.select(h.c.host, h.c.seen_at).where(h.c.seen_at >= P("since")))
_VERSIONS = Q(
    sa.select(
        sa.func.min(h.c.host).label("host"),
        h.c.release,
        h.c.versions,
        sa.func.max(h.c.seen_at).label("seen_at"),
        sa.func.count().label("hosts"),
    )
    .group_by(h.c.release, h.c.versions)
    .order_by(sa.func.min(h.c.host))
)
_NEXT = Q(sa.select(sa.func.coalesce(sa.func.max(h.c.id), 0) + 1))
_ADD = Q(sa.insert(h).values({c.name: P(c.name) for c in h.columns}))
_SEEN = Q(sa.update(h).where(among(h.c.host, "hosts")).values(seen_at=P("seen_at")))
_SAID = ("boot_id", "journal_id", "driver", "release", "versions", "inventory", "digest")
_REGISTER = Q(
    sa.update(h)
    .where(h.c.host == P("host_"))
    .values({c: P(c) for c in (*_SAID, "seen_at", "updated_at")})
)
_MAP = insert_or_replace(hm, "host", "cell", "host_id")
_MAPPING = Q(sa.select(hm).where(hm.c.host == P("host")))
_MAPPINGS = Q(sa.select(hm))
_UNMAP = Q(sa.delete(hm).where(hm.c.host == P("host")))
_REMOVE = Q(sa.delete(h).where(h.c.host == P("host")))


def find(tx: Tx, host: str) -> Row | None:
    """Return a host, or None."""
    return tx.one(_GET, host=host)


def all_hosts(tx: Tx) -> list[Row]:
    """Return every host of the cell, oldest first."""
    return tx.all(_ALL)


def changed(tx: Tx, since: float) -> list[Row]:
    """Return the hosts of the cell whose record changed, heartbeats left out."""
    return tx.all(_CHANGED, since=since)


def seen_since(tx: Tx, since: float) -> list[tuple[str, float]]:
    """Return (host, when it was heard of last) of those that were heard of lately."""
    return [(r[0], r[1]) for r in tx.all(_SEEN_SINCE, since=since)]


def versions(tx: Tx) -> list[Row]:
    """Return each combination of release and versions among the cell's hosts: one host, how many, when last seen."""
    return tx.all(_VERSIONS)


def add(tx: Tx, **values: Any) -> None:
    """Insert a host; its integer id is the next one of the cell."""
    tx.run(_ADD, id=tx.value(_NEXT), **values)


def update(tx: Tx, host: str, **values: Any) -> bool:
    """Set columns of a host (off the hot path)."""
    return tx.change(sa.update(h).where(h.c.host == host).values(**values)) == 1


def register(tx: Tx, host: str, **values: Any) -> None:
    """Write what a host that is known says of itself, and that it was heard."""
    tx.run(_REGISTER, host_=host, **values)


def seen(tx: Tx, when: dict[str, float]) -> None:
    """Write when hosts were last heard of, at most a second too early: one statement per second, not per host."""
    seconds: dict[int, list[str]] = {}
    for host in sorted(when, key=when.__getitem__):
        seconds.setdefault(int(when[host]), []).append(host)
    for hosts in seconds.values():
        tx.run(_SEEN, hosts=json.dumps(hosts), seen_at=when[hosts[0]])


def map_host(tx: Tx, *, host: str, cell: str, host_id: str) -> None:
    """Say in the global database which cell a host is in; repeatable."""
    tx.run(_MAP, host=host, cell=cell, host_id=host_id)


def mapping_of(tx: Tx, host: str) -> Row | None:
    """Return a host's mapping."""
    return tx.one(_MAPPING, host=host)


def mappings(tx: Tx) -> list[Row]:
    """Return every host mapping."""
    return tx.all(_MAPPINGS)


def unmap(tx: Tx, host: str) -> bool:
    """Forget which cell a host is in; global database."""
    return tx.run(_UNMAP, host=host) == 1


def remove(tx: Tx, host: str) -> bool:
    """Delete a host's record."""
    return tx.run(_REMOVE, host=host) == 1
