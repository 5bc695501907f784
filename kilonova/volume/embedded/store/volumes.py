"""Rows of volumes. Every function works in the caller's transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.objects.volume import Volume, VolumeAttachment
from kilonova.volume.embedded.faults import missing
from kilonova.volume.embedded.schema import attachment, cleanup, snapshot, volume, volume_type

FIND = Q(sa.select(volume).where(volume.c.id == P("id")))
_BY_KEY = Q(
    sa.select(volume).where(volume.c.operation == P("operation"), volume.c.item == P("item"))
)
_ADD = insert(volume)
_DROP = Q(sa.delete(volume).where(volume.c.id == P("id")))
_CLAIMS = Q(
    sa.select(volume.c.operation, volume.c.item, volume.c.id, volume.c.created_at).where(
        volume.c.operation != "", volume.c.created_at <= P("before")
    )
)
_LOOSE = Q(
    sa.select(volume).where(
        volume.c.status.in_(("in-use", "detaching")),
        sa.not_(sa.exists().where(attachment.c.volume_id == volume.c.id)),
    )
)
_SIZE = sa.func.coalesce(volume.c.new_size_gib, volume.c.size_gib)
_KEPT = Q(
    sa.select(volume.c.host, sa.func.sum(_SIZE), sa.func.count())
    .where(volume.c.host != "")
    .group_by(volume.c.host)
)
_KEPT_MIGRATIONS = Q(
    sa.select(volume.c.migration_host, sa.func.sum(_SIZE))
    .where(volume.c.migration_host != "")
    .group_by(volume.c.migration_host)
)
_KEPT_SNAPSHOTS = Q(
    sa.select(snapshot.c.host, sa.func.sum(snapshot.c.size_gib)).group_by(snapshot.c.host)
)
_KEPT_CLEANUPS = Q(
    sa.select(cleanup.c.host, sa.func.sum(cleanup.c.size_gib)).group_by(cleanup.c.host)
)
_TYPE_NAME = Q(sa.select(volume_type.c.name).where(volume_type.c.id == P("id")))
_json = msgspec.json.decode


def find(tx: Tx, volume_id: str) -> Row | None:
    """Return a row, or None."""
    return tx.one(FIND, id=volume_id)


def get(tx: Tx, volume_id: str) -> Row:
    """Return a row, whoever it belongs to; NotFound."""
    row = tx.one(FIND, id=volume_id)
    if row is None:
        raise missing("volume", volume_id)
    return row


def of_key(tx: Tx, key: tuple[str, str], *, living: bool = False) -> list[Row]:
    """Return the volumes that were made for a key; living: not those that are being deleted."""
    rows = tx.all(_BY_KEY, operation=key[0], item=key[1])
    return [r for r in rows if r["status"] != "deleting"] if living else rows


def add(tx: Tx, **values: Any) -> None:
    """Insert a row; what is not given has the schema's default."""
    full = {c.name: values.get(c.name, _default(c)) for c in volume.columns}
    tx.run(_ADD, **full)


def _default(column: "sa.Column[Any]") -> Any:
    default: Any = column.server_default
    if default is None:
        return None
    text = default.arg
    return int(text) if isinstance(column.type, sa.Integer) else text


def change(
    tx: Tx, volume_id: str, now: float, *, only: Sequence[str] | None = None, **values: Any
) -> bool:
    """Change columns; ``only``: if the status is one of these. Tell whether there was such a row."""
    statement = sa.update(volume).where(volume.c.id == volume_id)
    if only is not None:
        statement = statement.where(volume.c.status.in_(list(only)))
    return tx.change(statement.values(**values, updated_at=now)) == 1


def drop(tx: Tx, volume_id: str) -> None:
    """Remove a row; fine when there is none."""
    tx.run(_DROP, id=volume_id)


def claims(tx: Tx, before: float) -> list[Row]:
    """Return what was made for keys before a moment."""
    return tx.all(_CLAIMS, before=before)


def kept(tx: Tx) -> dict[str, int]:
    """Return host -> GiB that it keeps, gets, or still has to remove: volumes, snapshots, cleanup records."""
    out: dict[str, int] = {}
    for question in (_KEPT, _KEPT_MIGRATIONS, _KEPT_SNAPSHOTS, _KEPT_CLEANUPS):
        for row in tx.all(question):
            out[row[0]] = out.get(row[0], 0) + int(row[1] or 0)
    return out


def counts(tx: Tx) -> dict[str, int]:
    """Return host -> number of volumes."""
    return {row[0]: row[2] for row in tx.all(_KEPT)}


def loose(tx: Tx) -> list[Row]:
    """Return volumes that say that they are in use, and have no attachment."""
    return tx.all(_LOOSE)


def type_name(tx: Tx, type_id: str | None) -> str:
    """Return a type's name, "" for none."""
    return str(tx.value(_TYPE_NAME, id=type_id) or "") if type_id else ""


def to_object(tx: Tx, row: Row, attachments: Sequence[VolumeAttachment]) -> Volume:
    """Return a row as compute sees it."""
    image: Mapping[str, str] = _json(row["image"])
    return Volume(
        id=row["id"],
        project_id=row["project_id"],
        user_id=row["user_id"],
        name=row["name"],
        size_gib=row["size_gib"],
        status=row["status"],
        volume_type=type_name(tx, row["type_id"]),
        availability_zone=row["zone"],
        host=row["host"],
        bootable=bool(row["bootable"]),
        multiattach=bool(row["multiattach"]),
        readonly=bool(row["readonly"]),
        image=dict(image),
        metadata=_json(row["metadata"]),
        snapshot_id=row["snapshot_id"],
        source_volid=row["source_volid"],
        attachments=tuple(attachments),
        created_at=row["created_at"],
        migration_status=row["migration_status"] or "",
    )
