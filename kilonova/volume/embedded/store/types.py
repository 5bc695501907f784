"""Rows of volume types. Every function works in the caller's transaction."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.volume.embedded.faults import missing
from kilonova.volume.embedded.schema import default_type, type_access, volume, volume_type

DEFAULT_NAME = "__DEFAULT__"
t = volume_type
_FIND = Q(sa.select(t).where(t.c.id == P("id")))
_BY_NAME = Q(sa.select(t).where(t.c.name == P("name")))
_ACCESS = Q(sa.select(type_access.c.project_id).where(type_access.c.type_id == P("id")))
_DEFAULT_OF = Q(sa.select(default_type.c.type_id).where(default_type.c.project_id == P("project")))
_ADD = insert(t)
_DROP = Q(sa.delete(t).where(t.c.id == P("id")))
_DROP_ACCESS = Q(sa.delete(type_access).where(type_access.c.type_id == P("id")))
_IN_USE = Q(sa.select(sa.func.count()).where(volume.c.type_id == P("id")))


def find(tx: Tx, given: str) -> Row | None:
    """Return a type by id or name, or None."""
    return tx.one(_FIND, id=given) or tx.one(_BY_NAME, name=given)


def get(tx: Tx, given: str) -> Row:
    """Return a type by id or name; NotFound."""
    row = find(tx, given)
    if row is None:
        raise missing("type", given)
    return row


def projects_of(tx: Tx, type_id: str) -> list[str]:
    """Return the projects that a type that is not public is for."""
    return [r[0] for r in tx.all(_ACCESS, id=type_id)]


def usable(tx: Tx, row: Row, project_id: str) -> bool:
    """Tell whether a project may make volumes of a type."""
    return bool(row["is_public"]) or project_id in projects_of(tx, row["id"])


def default_for(tx: Tx, project_id: str) -> Row:
    """Return the type of a volume for which none was asked."""
    own = tx.value(_DEFAULT_OF, project=project_id)
    row = tx.one(_FIND, id=own) if own else None
    return row or get(tx, DEFAULT_NAME)


def specs_of(row: Row) -> dict[str, str]:
    """Return a type's extra specs."""
    return dict(msgspec.json.decode(row["extra_specs"], type=dict[str, str]))


def is_true(specs: dict[str, str], name: str) -> bool:
    """Tell whether an extra spec says ``<is> True``."""
    return specs.get(name, "").lower().replace(" ", "") == "<is>true"


def add(tx: Tx, **values: Any) -> None:
    """Insert a row."""
    tx.run(_ADD, **{"description": None, "is_public": 1, "extra_specs": "{}", **values})


def change(tx: Tx, type_id: str, now: float, **values: Any) -> None:
    """Change columns."""
    tx.change(sa.update(t).where(t.c.id == type_id).values(**values, updated_at=now))


def in_use(tx: Tx, type_id: str) -> bool:
    """Tell whether there are volumes of a type."""
    return bool(tx.value(_IN_USE, id=type_id))


def drop(tx: Tx, type_id: str) -> None:
    """Remove a type and who may use it."""
    tx.run(_DROP_ACCESS, id=type_id)
    tx.run(_DROP, id=type_id)
