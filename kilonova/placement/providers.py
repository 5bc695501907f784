"""Resource providers: make, find, change, remove. The caller holds the transaction; nothing here commits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, GenerationMismatch, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.placement import inventories, names, traits
from kilonova.placement.inventories import Inventory
from kilonova.placement.schema import (
    allocation,
    consumer,
    inventory,
    provider_aggregate,
    provider_gone,
    provider_trait,
)
from kilonova.placement.schema import (
    resource_provider as rp,
)

_parent, _root = rp.alias("parent"), rp.alias("root")
_SHOWN = (
    sa.select(rp, _parent.c.uuid.label("parent_uuid"), _root.c.uuid.label("root_uuid"))
    .join(_root, _root.c.id == rp.c.root)
    .outerjoin(_parent, _parent.c.id == rp.c.parent)
)
_FIND = Q(_SHOWN.where(rp.c.uuid == P("uuid")))
_FIND_NAME = Q(sa.select(rp.c.uuid).where(rp.c.name == P("name")))
_ID = Q(sa.select(rp.c.id, rp.c.generation).where(rp.c.uuid == P("uuid")))
_INSERT = insert(rp, "uuid", "name", "generation", "root", "parent", "created_at", "changed_at")
_OWN_ROOT = Q(sa.update(rp).where(rp.c.uuid == P("uuid_")).values(root=rp.c.id))
_BUMP = Q(
    sa.update(rp)
    .where(rp.c.id == P("id_"), rp.c.generation == P("generation_"))
    .values(generation=P("generation_") + 1, changed_at=P("changed_at"))
)
_TOUCH = Q(
    sa.update(rp)
    .where(rp.c.id == P("id_"))
    .values(generation=rp.c.generation + 1, changed_at=P("changed_at"))
)
_RENAME = Q(sa.update(rp).where(rp.c.id == P("id_")).values(name=P("name")))
_REPARENT = Q(sa.update(rp).where(rp.c.id == P("id_")).values(parent=P("parent"), root=P("root")))
_MOVE_ROOT = Q(sa.update(rp).where(rp.c.id == P("id_")).values(root=P("root")))
_BELOW = Q(_SHOWN.where(rp.c.parent == P("parent")))
_CHILDREN = Q(sa.select(rp.c.id).where(rp.c.parent == P("id")))
_DELETE = Q(sa.delete(rp).where(rp.c.id == P("id")))
_USED_BY = Q(sa.select(sa.func.count()).where(allocation.c.provider == P("id")))
_GONE = Q(sa.delete(provider_gone).where(provider_gone.c.uuid == P("uuid")))
_SET_GONE = insert(provider_gone)
_FORGET_GONE = Q(sa.delete(provider_gone).where(provider_gone.c.changed_at < P("before")))


class InUse(Conflict):
    """The provider cannot go: something is allocated from it, or it has children."""

    code = "provider_in_use"
    placement_code = "placement.resource_provider.inuse"


class Duplicate(Conflict):
    """A provider with this name or uuid exists."""

    code = "duplicate_provider"
    placement_code = "placement.duplicate_name"


@dataclass(frozen=True, slots=True)
class Provider:
    """One resource provider as stored. ``id`` is for joins inside the database only."""

    id: int
    uuid: str
    name: str
    generation: int
    root: str
    parent: str | None
    changed_at: float


def from_row(row: Row) -> Provider:
    """Return the provider of a row of the SHOWN selection."""
    return Provider(
        row["id"],
        row["uuid"],
        row["name"],
        row["generation"],
        row["root_uuid"],
        row["parent_uuid"],
        row["changed_at"],
    )


def shown() -> sa.Select[tuple[object, ...]]:
    """Return the selection that ``from_row`` reads, to be narrowed by the caller; its table is ``rp``."""
    return _SHOWN


def find(tx: Tx, uuid: str) -> Provider | None:
    """Return a provider, or None."""
    row = tx.one(_FIND, uuid=uuid)
    return None if row is None else from_row(row)


def get(tx: Tx, uuid: str) -> Provider:
    """Return a provider. Raises NotFound."""
    found = find(tx, uuid)
    if found is None:
        raise NotFound(f"No resource provider with uuid {uuid} found")
    return found


def create(tx: Tx, *, uuid: str, name: str, parent: str | None = None, now: float) -> Provider:
    """Make a provider, generation 0. Raises Duplicate, or BadRequest for a parent that does not exist."""
    if tx.one(_ID, uuid=uuid) is not None:
        raise Duplicate(f"Conflicting resource provider uuid: {uuid} already exists.")
    if tx.one(_FIND_NAME, name=name) is not None:
        raise Duplicate(f"Conflicting resource provider name: {name} already exists.")
    above = None
    if parent is not None:
        if parent == uuid:
            raise BadRequest("parent provider UUID cannot be same as UUID.")
        above = find(tx, parent)
        if above is None:
            raise BadRequest("parent provider UUID does not exist.")
    root = 0 if above is None else tx.value(_ID, uuid=above.root)
    tx.run(
        _INSERT,
        uuid=uuid,
        name=name,
        generation=0,
        root=root,
        parent=None if above is None else above.id,
        created_at=now,
        changed_at=now,
    )
    if above is None:
        tx.run(_OWN_ROOT, uuid_=uuid)
    tx.run(_GONE, uuid=uuid)
    return get(tx, uuid)


def bump(tx: Tx, provider: Provider, now: float, generation: int | None = None) -> int:
    """Move the provider's generation on and return it.

    generation: what the caller read (None: whatever it is). Raises GenerationMismatch when it is another by now.
    """
    expected = provider.generation if generation is None else generation
    bumped = expected == provider.generation and tx.run(
        _BUMP, id_=provider.id, generation_=expected, changed_at=now
    )
    if bumped != 1:
        raise GenerationMismatch(
            f"resource provider generation conflict: {expected} is not its generation any more"
        )
    return expected + 1


def touch(tx: Tx, provider_id: int, now: float) -> None:
    """Move a provider's generation on, whatever it was."""
    tx.run(_TOUCH, id_=provider_id, changed_at=now)


def update(
    tx: Tx, provider: Provider, *, name: str, parent: str | None, may_reparent: bool, now: float
) -> Provider:
    """Rename a provider, give it its parent, or (``may_reparent``) move it. Raises Duplicate, BadRequest."""
    if name != provider.name:
        holder = tx.value(_FIND_NAME, name=name)
        if holder is not None and holder != provider.uuid:
            raise Duplicate(f"Conflicting resource provider name: {name} already exists.")
        tx.run(_RENAME, id_=provider.id, name=name)
    if parent != provider.parent:
        _reparent(tx, provider, parent, may_reparent, now)
    touch(tx, provider.id, now)
    return get(tx, provider.uuid)


def _reparent(
    tx: Tx, provider: Provider, parent: str | None, may_reparent: bool, now: float
) -> None:
    if provider.parent is not None and not may_reparent:
        if parent is None:
            raise BadRequest("un-parenting a provider is not currently allowed.")
        raise BadRequest("re-parenting a provider is not currently allowed.")
    if parent is None:
        new_root, above_id = provider.id, None
    else:
        above = find(tx, parent)
        if above is None:
            raise BadRequest("parent provider UUID does not exist.")
        if above.id in subtree(tx, provider.id):
            raise BadRequest("creating loop in the provider tree is not allowed.")
        new_root, above_id = int(tx.value(_ID, uuid=above.root)), above.id
    for member in subtree(tx, provider.id):
        tx.run(_MOVE_ROOT, id_=member, root=new_root)
        if member != provider.id:
            tx.run(_TOUCH, id_=member, changed_at=now)
    tx.run(_REPARENT, id_=provider.id, parent=above_id, root=new_root)


def children(tx: Tx, provider_id: int) -> list[Provider]:
    """Return the providers right below one."""
    return [from_row(row) for row in tx.all(_BELOW, parent=provider_id)]


def subtree(tx: Tx, provider_id: int) -> list[int]:
    """Return the ids of a provider and everything below it."""
    found, at = [provider_id], 0
    while at < len(found):
        found += [r[0] for r in tx.all(_CHILDREN, id=found[at])]
        at += 1
    return found


def delete(tx: Tx, provider: Provider, now: float) -> None:
    """Remove a provider with its inventory. Raises InUse while it has allocations or children."""
    if tx.value(_USED_BY, id=provider.id):
        raise InUse(
            f"Unable to delete resource provider {provider.uuid}: Resource provider has allocations."
        )
    if tx.all(_CHILDREN, id=provider.id):
        error = InUse(
            f"Unable to delete parent resource provider {provider.uuid}: It has child resource providers."
        )
        error.placement_code = "placement.resource_provider.cannot_delete_parent"
        raise error
    tx.run(_DELETE, id=provider.id)
    tx.run(_FORGET_GONE, before=now - 3600)
    tx.run(_GONE, uuid=provider.uuid)
    tx.run(_SET_GONE, uuid=provider.uuid, changed_at=now)


def ensure_host(
    tx: Tx,
    *,
    uuid: str,
    name: str,
    inventory: Mapping[str, Inventory],
    traits_: Iterable[str] = (),
    now: float,
) -> bool:
    """Make a host's root provider what the host reports; tell whether anything changed. Safe to repeat.

    inventory: see ``inventories.of_host``. An allocation ratio that an operator changed is kept, and so are traits that
    are ours to set (COMPUTE_STATUS_DISABLED, CUSTOM_). A class that is used and not reported any more stays.
    """
    provider = find(tx, uuid)
    made = provider is None
    if provider is None:
        provider = create(tx, uuid=uuid, name=name, now=now)
    changed = made
    if provider.name != name:
        provider = update(
            tx, provider, name=name, parent=provider.parent, may_reparent=True, now=now
        )
        changed = True
    changed |= inventories.report(tx, provider.id, inventory)
    changed |= traits.report(tx, provider.id, frozenset(traits_), now)
    if changed:
        touch(tx, provider.id, now)
    return changed


def disable(tx: Tx, uuid: str, disabled: bool = True, *, now: float) -> None:
    """Set or clear COMPUTE_STATUS_DISABLED; no new server goes to such a host. Fine when the provider is not there."""
    provider = find(tx, uuid)
    if provider is None:
        return
    if traits.mark(tx, provider.id, names.DISABLED, disabled):
        touch(tx, provider.id, now)


__all__ = [
    "Duplicate",
    "InUse",
    "Provider",
    "bump",
    "children",
    "consumer",
    "create",
    "delete",
    "disable",
    "ensure_host",
    "find",
    "from_row",
    "get",
    "inventory",
    "provider_aggregate",
    "provider_trait",
    "shown",
    "subtree",
    "touch",
    "update",
]
