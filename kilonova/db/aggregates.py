"""Host aggregates: groups of hosts with metadata; the key availability_zone makes them a zone. Global database."""

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import aggregate as a
from kilonova.db.schema.world import aggregate_host as ah
from kilonova.db.sql import P, Q, insert_or_ignore

_ALL = Q(sa.select(a).order_by(a.c.id))
_GET = Q(sa.select(a).where(a.c.id == P("id")))
_NAMED = Q(sa.select(a).where(a.c.name == P("name")))
_HOSTS = Q(sa.select(ah.c.host).where(ah.c.aggregate == P("id")).order_by(ah.c.host))
_ALL_HOSTS = Q(sa.select(ah.c.aggregate, ah.c.host).order_by(ah.c.host))
_OF_HOST = Q(sa.select(a).join(ah, ah.c.aggregate == a.c.id).where(ah.c.host == P("host")))
_COLUMNS = ("uuid", "name", "metadata", "created_at", "updated_at")
_ADD = Q(sa.insert(a).values({n: P(n) for n in _COLUMNS}))
_SET = Q(
    sa.update(a)
    .where(a.c.id == P("id_"))
    .values(name=P("name"), metadata=P("metadata"), updated_at=P("updated_at"))
)
_TOUCH = Q(sa.update(a).where(a.c.id == P("id_")).values(updated_at=P("updated_at")))
_DROP = Q(sa.delete(a).where(a.c.id == P("id")))
_JOIN = insert_or_ignore(ah, "aggregate", "host")
_LEAVE = Q(sa.delete(ah).where(ah.c.aggregate == P("id"), ah.c.host == P("host")))


def all_(tx: Tx) -> list[Row]:
    """Return every aggregate, oldest first."""
    return tx.all(_ALL)


def find(tx: Tx, id_: int) -> Row | None:
    """Return an aggregate by its number, or None."""
    return tx.one(_GET, id=id_)


def named(tx: Tx, name: str) -> Row | None:
    """Return an aggregate by its name, or None."""
    return tx.one(_NAMED, name=name)


def hosts(tx: Tx, id_: int) -> list[str]:
    """Return an aggregate's hosts by name."""
    return [r[0] for r in tx.all(_HOSTS, id=id_)]


def hosts_of_all(tx: Tx) -> dict[int, list[str]]:
    """Return aggregate number -> hosts, in one query."""
    found: dict[int, list[str]] = {}
    for row in tx.all(_ALL_HOSTS):
        found.setdefault(row[0], []).append(row[1])
    return found


def of_host(tx: Tx, host: str) -> list[Row]:
    """Return the aggregates that a host is in."""
    return tx.all(_OF_HOST, host=host)


def metadata(row: Row) -> dict[str, str]:
    """Return an aggregate's metadata."""
    found: dict[str, str] = msgspec.json.decode(row["metadata"])
    return found


def add(tx: Tx, *, uuid: str, name: str, metadata: dict[str, str], now: float) -> Row:
    """Insert an aggregate; the name must be free."""
    tx.run(
        _ADD,
        uuid=uuid,
        name=name,
        metadata=msgspec.json.encode(metadata).decode(),
        created_at=now,
        updated_at=None,
    )
    return tx.one(_NAMED, name=name)


def put(tx: Tx, id_: int, *, name: str, metadata: dict[str, str], now: float) -> None:
    """Replace an aggregate's name and metadata."""
    encoded = msgspec.json.encode(metadata).decode()
    tx.run(_SET, id_=id_, name=name, metadata=encoded, updated_at=now)


def join(tx: Tx, id_: int, host: str, now: float) -> bool:
    """Take a host in; False when it was in."""
    done = tx.run(_JOIN, aggregate=id_, host=host) == 1
    tx.run(_TOUCH, id_=id_, updated_at=now)
    return done


def leave(tx: Tx, id_: int, host: str, now: float) -> bool:
    """Take a host out; False when it was not in."""
    done = tx.run(_LEAVE, id=id_, host=host) == 1
    tx.run(_TOUCH, id_=id_, updated_at=now)
    return done


def remove(tx: Tx, id_: int) -> bool:
    """Delete an aggregate; its hosts leave it."""
    return tx.run(_DROP, id=id_) == 1
