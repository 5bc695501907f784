"""Rows of attachments. Every function works in the caller's transaction."""

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import P, Q, insert
from kilonova.objects.volume import VolumeAttachment
from kilonova.volume.embedded.faults import missing
from kilonova.volume.embedded.schema import attachment

a = attachment
_FIND = Q(sa.select(a).where(a.c.id == P("id")))
_BY_KEY = Q(sa.select(a).where(a.c.operation == P("operation"), a.c.item == P("item")))
COPYING = "copying"
"""The status of what is no server's: a host copies the volume by it, and nobody sees it."""

_OF_VOLUME = Q(
    sa.select(a)
    .where(a.c.volume_id == P("volume"), a.c.status != COPYING)
    .order_by(a.c.created_at, a.c.id)
)
_COPIES = Q(sa.select(a).where(a.c.volume_id == P("volume"), a.c.status == COPYING))
_ADD = insert(a)
_DROP = Q(sa.delete(a).where(a.c.id == P("id")))
_ALL = Q(sa.select(a).where(a.c.server_id != "").order_by(a.c.created_at, a.c.id))
_CLAIMS = Q(sa.select(a).where(a.c.operation != "", a.c.created_at <= P("before")))


_OF_SERVERS = Q(sa.select(a).where(among(a.c.server_id, "ids")).order_by(a.c.created_at, a.c.id))
_OF_VOLUMES = Q(
    sa.select(a)
    .where(among(a.c.volume_id, "ids"), a.c.status != COPYING)
    .order_by(a.c.created_at, a.c.id)
)


def find(tx: Tx, attachment_id: str) -> Row | None:
    """Return a row, or None."""
    return tx.one(_FIND, id=attachment_id)


def get(tx: Tx, attachment_id: str) -> Row:
    """Return a row, whoever it belongs to; NotFound."""
    row = tx.one(_FIND, id=attachment_id)
    if row is None:
        raise missing("attachment", attachment_id)
    return row


def of_key(tx: Tx, key: tuple[str, str]) -> list[Row]:
    """Return the attachments that were made for a key."""
    return tx.all(_BY_KEY, operation=key[0], item=key[1])


def of_volume(tx: Tx, volume_id: str) -> list[Row]:
    """Return a volume's attachments, oldest first."""
    return tx.all(_OF_VOLUME, volume=volume_id)


def copies_of(tx: Tx, volume_id: str) -> list[Row]:
    """Return what hosts copy a volume by."""
    return tx.all(_COPIES, volume=volume_id)


def of_volumes(tx: Tx, volume_ids: Iterable[str]) -> dict[str, list[Row]]:
    """Return volume id -> its attachments; volumes without any are absent."""
    out: dict[str, list[Row]] = {}
    for row in tx.all(_OF_VOLUMES, ids=json.dumps(list(volume_ids))):
        out.setdefault(row["volume_id"], []).append(row)
    return out


def of_servers(tx: Tx, server_ids: Iterable[str]) -> list[Row]:
    """Return the attachments of servers, oldest first."""
    return tx.all(_OF_SERVERS, ids=json.dumps([s for s in server_ids if s]))


def to_servers(tx: Tx) -> list[Row]:
    """Return every attachment to a server."""
    return tx.all(_ALL)


def claims(tx: Tx, before: float) -> list[Row]:
    """Return what was made for keys before a moment."""
    return tx.all(_CLAIMS, before=before)


def add(tx: Tx, **values: Any) -> None:
    """Insert a row."""
    blank: dict[str, Any] = dict.fromkeys(
        ("server_id", "host", "export_name", "operation", "item"), ""
    )
    blank |= {"mode": "rw", "mountpoint": None, "connector": "null", "attached_at": None}
    tx.run(_ADD, **{**blank, **values})


def change(tx: Tx, attachment_id: str, now: float, **values: Any) -> None:
    """Change columns."""
    tx.change(sa.update(a).where(a.c.id == attachment_id).values(**values, updated_at=now))


def drop(tx: Tx, attachment_id: str) -> None:
    """Remove a row; fine when there is none."""
    tx.run(_DROP, id=attachment_id)


def to_object(row: Row) -> VolumeAttachment:
    """Return a row as compute sees it."""
    return VolumeAttachment(
        id=row["id"],
        volume_id=row["volume_id"],
        server_id=row["server_id"],
        status=row["status"],
        mode=row["mode"],
        host=row["host"],
        attached_at=row["attached_at"],
    )
