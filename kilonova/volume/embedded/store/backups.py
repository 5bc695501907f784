"""Rows of backups. Every function works in the caller's transaction."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import P, Q, insert
from kilonova.volume.embedded.faults import invalid_input, missing
from kilonova.volume.embedded.schema import backup

b = backup
_FIND = Q(sa.select(b).where(b.c.id == P("id")))
_OF_VOLUME = Q(sa.select(b).where(b.c.volume_id == P("volume")))
_PARENTS = Q(sa.select(b.c.parent_id).distinct().where(among(b.c.parent_id, "ids")))
_ADD = insert(b)
_DROP = Q(sa.delete(b).where(b.c.id == P("id")))


def find(tx: Tx, backup_id: str) -> Row | None:
    """Return a row, or None."""
    return tx.one(_FIND, id=backup_id)


def get(tx: Tx, backup_id: str) -> Row:
    """Return a row, whoever it belongs to; NotFound."""
    row = tx.one(_FIND, id=backup_id)
    if row is None:
        raise missing("backup", backup_id)
    return row


def of_volume(tx: Tx, volume_id: str) -> list[Row]:
    """Return every backup of a volume."""
    return tx.all(_OF_VOLUME, volume=volume_id)


def parents(tx: Tx, backup_ids: Iterable[str]) -> set[str]:
    """Return those that others add to."""
    return {str(r[0]) for r in tx.all(_PARENTS, ids=json.dumps(list(backup_ids)))}


def check_usable(row: Row) -> None:
    """Raise BadRequest unless a volume can be made of a backup now."""
    if row["status"] != "available":
        raise invalid_input(
            f"Invalid backup: Backup status must be available, not {row['status']}."
        )


def add(tx: Tx, **values: Any) -> None:
    """Insert a row."""
    blank: dict[str, Any] = {c.name: None for c in b.columns}
    blank |= {
        "operation": "",
        "item": "",
        "metadata": "{}",
        "zone": "nova",
        "name": "",
        "volume": "{}",
        "host": "",
        "size_bytes": 0,
    }
    tx.run(_ADD, **{**blank, **values})


def change(
    tx: Tx, backup_id: str, now: float, *, only: Sequence[str] | None = None, **values: Any
) -> bool:
    """Change columns; ``only``: if the status is one of these. Tell whether there was such a row."""
    statement = sa.update(b).where(b.c.id == backup_id)
    if only is not None:
        statement = statement.where(b.c.status.in_(list(only)))
    return tx.change(statement.values(**values, updated_at=now)) == 1


def drop(tx: Tx, backup_id: str) -> None:
    """Remove a row; fine when there is none."""
    tx.run(_DROP, id=backup_id)
