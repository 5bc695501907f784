"""What servers use of each host, from placement's allocations and the mappings. Global database."""

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.schema.cell import server as s
from kilonova.db.schema.world import server_mapping as m
from kilonova.db.sql import Q
from kilonova.placement.schema import allocation, resource_provider

_root = resource_provider.alias("root")
_USED = Q(
    sa.select(_root.c.name, allocation.c.resource_class, sa.func.sum(allocation.c.used))
    .select_from(allocation)
    .join(resource_provider, resource_provider.c.id == allocation.c.provider)
    .join(_root, _root.c.id == resource_provider.c.root)
    .group_by(_root.c.name, allocation.c.resource_class)
)
_SERVERS = Q(sa.select(m.c.host, sa.func.count()).where(m.c.host.isnot(None)).group_by(m.c.host))


def used(tx: Tx) -> dict[str, dict[str, int]]:
    """Return host -> resource class -> units in use (MEMORY_MB: MiB, DISK_GB: GiB)."""
    found: dict[str, dict[str, int]] = {}
    for host, resource_class, amount in tx.all(_USED):
        found.setdefault(host, {})[resource_class] = int(amount)
    return found


def servers(tx: Tx) -> dict[str, int]:
    """Return host -> number of servers."""
    return {r[0]: int(r[1]) for r in tx.all(_SERVERS)}


_BUSY = Q(
    sa.select(s.c.host, sa.func.count())
    .where(s.c.deleted == 0, s.c.host.isnot(None), s.c.task_state.isnot(None))
    .group_by(s.c.host)
)


def busy(tx: Tx) -> dict[str, int]:
    """Return host -> servers that an operation works on. Cell database."""
    return {r[0]: int(r[1]) for r in tx.all(_BUSY)}
