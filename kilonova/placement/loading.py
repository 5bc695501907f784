"""Read many providers at once with all that decisions need, and arrange them in trees."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.placement import inventories, names
from kilonova.placement.candidates import Node, Slot
from kilonova.placement.inventories import Inventory
from kilonova.placement.schema import (
    allocation,
    inventory,
    provider_aggregate,
    provider_trait,
    resource_provider,
)

AT_ONCE = 400
rp, a = resource_provider, allocation


@dataclass(frozen=True)
class ProviderRow:
    """A provider as read from the database. root, parent: uuids. servers: how many consumers it has, about."""

    uuid: str
    name: str
    generation: int
    root: str
    parent: str | None
    inventory: Mapping[str, Inventory]
    used: Mapping[str, int]
    traits: frozenset[str]
    aggregates: frozenset[str]
    servers: int = 0
    created_at: float = 0.0

    def node(self, sharing: bool = False) -> Node:
        """Return it as the candidates engine takes it."""
        slots = {
            rc: Slot(
                r.capacity - self.used.get(rc, 0),
                r.min_unit,
                r.max_unit,
                r.step_size,
                r.capacity,
                self.used.get(rc, 0),
            )
            for rc, r in self.inventory.items()
        }
        return Node(self.uuid, self.root, self.parent, slots, self.traits, self.aggregates, sharing)


def providers(tx: Tx, ids: Sequence[int] | None) -> list[ProviderRow]:
    """Read providers with everything that a decision needs. ids: which (None: all)."""
    if ids is not None and not ids:
        return []
    if ids is not None and len(ids) > AT_ONCE:
        out = []
        for i in range(0, len(ids), AT_ONCE):
            out += providers(tx, ids[i : i + AT_ONCE])
        return out
    stock: dict[int, dict[str, Inventory]] = {}
    for r in _rows(tx, sa.select(inventory), inventory.c.provider, ids):
        stock.setdefault(r["provider"], {})[r["resource_class"]] = inventories.of_row(r)
    used: dict[int, dict[str, int]] = {}
    servers: dict[int, int] = {}
    counted = sa.select(
        a.c.provider, a.c.resource_class, sa.func.sum(a.c.used), sa.func.count()
    ).group_by(a.c.provider, a.c.resource_class)
    for r in _rows(tx, counted, a.c.provider, ids):
        used.setdefault(r[0], {})[r[1]] = int(r[2])
        servers[r[0]] = max(servers.get(r[0], 0), int(r[3]))
    traits = _sets(tx, provider_trait.c.provider, provider_trait.c.trait, ids)
    groups = _sets(tx, provider_aggregate.c.provider, provider_aggregate.c.aggregate, ids)
    root, parent = rp.alias("root"), rp.alias("parent")
    heads = (
        sa.select(rp, root.c.uuid.label("root_uuid"), parent.c.uuid.label("parent_uuid"))
        .join(root, root.c.id == rp.c.root)
        .outerjoin(parent, parent.c.id == rp.c.parent)
    )
    shared: dict[frozenset[str], frozenset[str]] = {}
    empty: set[str] = set()
    return [
        ProviderRow(
            r["uuid"],
            r["name"],
            r["generation"],
            r["root_uuid"],
            r["parent_uuid"],
            stock.get(r["id"], {}),
            used.get(r["id"], {}),
            shared.setdefault(t := frozenset(traits.get(r["id"], empty)), t),
            shared.setdefault(g := frozenset(groups.get(r["id"], empty)), g),
            servers.get(r["id"], 0),
            r["created_at"],
        )
        for r in _rows(tx, heads, rp.c.id, ids)
    ]


def _rows(tx: Tx, stmt: Any, column: Any, ids: Sequence[int] | None) -> list[Any]:
    return tx.select(stmt if ids is None else stmt.where(column.in_(ids)))


def _sets(tx: Tx, key: Any, value: Any, ids: Sequence[int] | None) -> dict[int, set[str]]:
    out: dict[int, set[str]] = {}
    for r in _rows(tx, sa.select(key, value), key, ids):
        out.setdefault(r[0], set()).add(r[1])
    return out


def trees(rows: Sequence[ProviderRow], *, nested: bool = True) -> Iterator[list[Node]]:
    """Yield each tree: the root, what is below it (if ``nested``), and what shares with one of them."""
    members: dict[str, list[ProviderRow]] = {}
    for r in rows:
        if nested or r.root == r.uuid:
            members.setdefault(r.root, []).append(r)
    sharing = [r for r in rows if names.SHARES in r.traits]
    for root in sorted(members):
        mine = sorted(members[root], key=lambda r: (r.uuid != root, r.name))
        if mine[0].uuid != root:
            continue
        reach = frozenset().union(*(r.aggregates for r in mine))
        shared = [s.node(sharing=True) for s in sharing if s.root != root and s.aggregates & reach]
        yield [r.node() for r in mine] + shared
