"""Take a cell out of the cloud: only one without servers, and (forced) with the hosts that it has.

What counts as a server of the cell: one whose mapping names it, soft-deleted or not; a record in the cell's database
that a move keeps there; an operation that works in it; what a host that is down must still clean up; a claim on a host.
"""

import sqlalchemy as sa

from kilonova.common.errors import Conflict, NotFound
from kilonova.db import aggregates, cells
from kilonova.db import hosts as db
from kilonova.db.engine import Tx
from kilonova.db.schema.cell import cleanup, host, server
from kilonova.db.schema.world import host_mapping, server_mapping
from kilonova.operations.aggregates import take_out
from kilonova.operations.cells import CHANGED
from kilonova.operations.services import Services
from kilonova.placement import providers
from kilonova.placement.schema import allocation, resource_provider
from kilonova.saga.schema import TABLES

NAMED = 10
_MOST = 1000


def delete(services: Services, name: str, *, force: bool = False) -> None:
    """Forget a cell that was added and has no servers; its database stays. Safe to repeat after a crash.

    force: its hosts go too, and a database that does not answer is not looked at: only the mappings are.
    Raises NotFound; Conflict, which lists what is in it.
    """
    row = services.world.read(lambda tx: cells.find(tx, name))
    if row is None and name not in services.real_cells():
        raise NotFound(f"Cell {name[:80]} could not be found.")
    services.world.read(lambda tx: _refuse_servers(tx, name))
    answers = _refuse_what_is_inside(services, name, force=force)
    mapped = services.world.read(lambda tx: _hosts(tx, name))
    if mapped and not force:
        raise Conflict(
            f"Cell {name} has {_listed(mapped, 'hosts')}. Take them out first, or delete it with its hosts "
            "(force)."
        )
    if row is None or not row["url"]:
        raise Conflict(f"Cell {name} is in the configuration: take it out there.")
    services.world.write(lambda tx: _drop(tx, services.now(), name))
    if answers:
        services.cell(name).write(lambda tx: tx.change(sa.delete(host)))
    services.bus.publish(CHANGED, b"")
    services.look_at_cells()
    services.scheduling.cells_changed()
    services.scheduling.aggregates_changed()


def _refuse_servers(tx: Tx, name: str) -> None:
    """Raise Conflict for servers that the mappings or claims place in the cell."""
    m = server_mapping.c
    found = tx.select(
        sa.select(m.server, m.soft_deleted).where(m.cell == name).order_by(m.created_at)
    )
    if found:
        shown = [r[0] + (" (soft-deleted)" if r[1] else "") for r in found]
        raise Conflict(
            f"Cell {name} has {_listed(shown, 'servers')}. Delete them, or move them to another cell, first."
        )
    root = resource_provider.alias("root")
    claims = tx.select(
        sa.select(allocation.c.consumer)
        .distinct()
        .select_from(allocation)
        .join(resource_provider, resource_provider.c.id == allocation.c.provider)
        .join(root, root.c.id == resource_provider.c.root)
        .join(host_mapping, host_mapping.c.host == root.c.name)
        .where(host_mapping.c.cell == name)
        .limit(_MOST)
    )
    if claims:
        raise Conflict(
            f"Hosts of cell {name} are claimed by {_listed([r[0] for r in claims], 'servers or moves')}: "
            "wait until they have ended."
        )


def _refuse_what_is_inside(services: Services, name: str, *, force: bool) -> bool:
    """Raise Conflict for what the cell's own database holds; return whether it answered."""
    answers, _ = services.lists.ask_cells(_inside)
    inside = answers.get(name)
    if inside:
        raise Conflict(f"Cell {name} has {_listed(inside, 'records')}: they must end first.")
    if inside is not None:
        return True
    if not force:
        raise Conflict(
            f"The database of cell {name} does not answer, so nobody can say what is in it. It can be deleted "
            "all the same (force)."
        )
    return False


def _inside(tx: Tx) -> list[str]:
    o = TABLES.operation.c
    kept = sa.select(server.c.uuid).where(server.c.deleted == 0).limit(_MOST)
    live = sa.select(o.id, o.kind).where(o.ended_at.is_(None)).limit(_MOST)
    owed = sa.select(cleanup.c.server, cleanup.c.host).limit(_MOST)
    return [
        *(f"{r[0]} (kept by a move)" for r in tx.select(kept)),
        *(f"{r[0]} (operation {r[1]})" for r in tx.select(live)),
        *(f"{r[0]} (to be cleaned up on {r[1]})" for r in tx.select(owed)),
    ]


def _hosts(tx: Tx, name: str) -> list[str]:
    h = host_mapping.c
    return [r[0] for r in tx.select(sa.select(h.host).where(h.cell == name).order_by(h.host))]


def _drop(tx: Tx, now: float, name: str) -> None:
    """Forget the cell, its hosts, their mappings, providers, places in aggregates; unless a server came meanwhile."""
    _refuse_servers(tx, name)
    for one in _hosts(tx, name):
        for row in aggregates.of_host(tx, one):
            take_out(tx, row, one, now)
        for provider in _providers(tx, one):
            providers.delete(tx, provider, now)
        db.unmap(tx, one)
    cells.drop(tx, name)


def _providers(tx: Tx, one: str) -> list[providers.Provider]:
    """Return a host's provider and those below it, children first."""
    rp = resource_provider.c
    found: list[providers.Provider] = []
    for row in tx.select(sa.select(rp.id).where(rp.name == one, rp.parent.is_(None))):
        ids = providers.subtree(tx, row[0])
        names = {r[0]: r[1] for r in tx.select(sa.select(rp.id, rp.uuid).where(rp.id.in_(ids)))}
        found += [providers.get(tx, names[id_]) for id_ in reversed(ids)]
    return found


def _listed(names: list[str], what: str) -> str:
    """Return how many there are, and the first of them by name."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}"
