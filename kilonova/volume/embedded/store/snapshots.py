"""Rows of snapshots. Every function works in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.objects.volume import VolumeSnapshot
from kilonova.volume.embedded.faults import missing
from kilonova.volume.embedded.schema import snapshot

s = snapshot
_FIND = Q(sa.select(s).where(s.c.id == P("id")))
_BY_KEY = Q(sa.select(s).where(s.c.operation == P("operation"), s.c.item == P("item")))
_OF_VOLUME = Q(sa.select(s).where(s.c.volume_id == P("volume")).order_by(s.c.created_at, s.c.id))
_ADD = insert(s)
_DROP = Q(sa.delete(s).where(s.c.id == P("id")))
_CLAIMS = Q(sa.select(s).where(s.c.operation != "", s.c.created_at <= P("before")))


def find(tx: Tx, snapshot_id: str) -> Row | None:
    """Return a row, or None."""
    return tx.one(_FIND, id=snapshot_id)


def get(tx: Tx, snapshot_id: str) -> Row:
    """Return a row, whoever it belongs to; NotFound."""
    row = tx.one(_FIND, id=snapshot_id)
    if row is None:
        raise missing("snapshot", snapshot_id)
    return row


def of_key(tx: Tx, key: tuple[str, str], *, living: bool = False) -> list[Row]:
    """Return the snapshots that were made for a key; living: not those that are being deleted."""
    rows = tx.all(_BY_KEY, operation=key[0], item=key[1])
    return [r for r in rows if r["status"] != "deleting"] if living else rows


def of_volume(tx: Tx, volume_id: str) -> list[Row]:
    """Return a volume's snapshots, oldest first."""
    return tx.all(_OF_VOLUME, volume=volume_id)


def claims(tx: Tx, before: float) -> list[Row]:
    """Return what was made for keys before a moment."""
    return tx.all(_CLAIMS, before=before)


def add(tx: Tx, **values: Any) -> None:
    """Insert a row."""
    blank: dict[str, Any] = {"operation": "", "item": "", "description": None, "metadata": "{}"}
    tx.run(_ADD, **{**blank, **values})


def change(
    tx: Tx, snapshot_id: str, now: float, *, only: Sequence[str] | None = None, **values: Any
) -> bool:
    """Change columns; ``only``: if the status is one of these. Tell whether there was such a row."""
    statement = sa.update(s).where(s.c.id == snapshot_id)
    if only is not None:
        statement = statement.where(s.c.status.in_(list(only)))
    return tx.change(statement.values(**values, updated_at=now)) == 1


def drop(tx: Tx, snapshot_id: str) -> None:
    """Remove a row; fine when there is none."""
    tx.run(_DROP, id=snapshot_id)


def to_object(row: Row) -> VolumeSnapshot:
    """Return a row as compute sees it."""
    return VolumeSnapshot(
        id=row["id"],
        volume_id=row["volume_id"],
        project_id=row["project_id"],
        name=row["name"],
        size_gib=row["size_gib"],
        status=row["status"],
        metadata=msgspec.json.decode(row["metadata"]),
        created_at=row["created_at"],
    )
