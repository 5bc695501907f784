"""Resource classes: the standard ones, and CUSTOM_ ones that somebody made."""

from collections.abc import Iterable

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q, insert
from kilonova.placement import names
from kilonova.placement.schema import inventory
from kilonova.placement.schema import resource_class as t

_ALL = Q(sa.select(t.c.name).order_by(t.c.created_at, t.c.name))
_FIND = Q(sa.select(t.c.name).where(t.c.name == P("name")))
_ADD = insert(t)
_DROP = Q(sa.delete(t).where(t.c.name == P("name")))
_HOLDERS = Q(sa.select(sa.func.count()).where(inventory.c.resource_class == P("name")))


class ClassInUse(Conflict):
    """A class that a provider has inventory of cannot be deleted."""

    code = "class_in_use"


def every(tx: Tx) -> list[str]:
    """Return all classes: the standard ones first."""
    return [*names.standard_classes(), *(r[0] for r in tx.all(_ALL))]


def exists(tx: Tx, name: str) -> bool:
    """Tell whether a class is a standard one or was made."""
    return name in names.standard_classes() or tx.one(_FIND, name=name) is not None


def check(tx: Tx, wanted: Iterable[str]) -> None:
    """Raise BadRequest that names the classes that do not exist."""
    unknown = sorted(w for w in set(wanted) if not exists(tx, w))
    if unknown:
        raise BadRequest(f"Unknown resource class(es): {', '.join(unknown)}.")


def make(tx: Tx, name: str, now: float) -> bool:
    """Make a CUSTOM_ class; False when it was there. The name must have been checked."""
    if exists(tx, name):
        return False
    tx.run(_ADD, name=name, created_at=now)
    return True


def forget(tx: Tx, name: str) -> None:
    """Delete a CUSTOM_ class. Raises BadRequest for a standard one, NotFound, ClassInUse."""
    if name in names.standard_classes():
        raise BadRequest(
            f"Error in delete resource class: cannot delete standard resource class {name}."
        )
    if tx.one(_FIND, name=name) is None:
        raise NotFound(f"No resource class named {name}.")
    if tx.value(_HOLDERS, name=name):
        raise ClassInUse(f"Error in delete resource class: {name} is in use in inventory.")
    tx.run(_DROP, name=name)


def rename(tx: Tx, old: str, new: str, now: float) -> None:
    """Rename a CUSTOM_ class that no inventory has. Raises BadRequest, NotFound, Conflict, ClassInUse."""
    if exists(tx, new) and new != old:
        raise Conflict(f"Resource class already exists: {new}")
    forget(tx, old)
    tx.run(_ADD, name=new, created_at=now)
