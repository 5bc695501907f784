"""Which MACs and hosts of a network changed at which generation: what a difference to an earlier one is made of.

A row per MAC, and per host ("@" and its name) that a port came to or left; "" where anything may have changed. Written
in the transaction that changes it, so that a difference names what came and went in between, too.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.portable import among
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.schema import moved, network
from kilonova.network.embedded.store.common import listed

ANYTHING = ""
KEPT = 2000  # generations
PRUNE_EVERY = 64

_BUMP = Q(
    sa.update(network).where(among(network.c.id, "ids")).values(forwarding=network.c.forwarding + 1)
)
_AT = Q(sa.select(network.c.id, network.c.forwarding).where(among(network.c.id, "ids")))
_INSERT = insert(moved)
_PRUNE = Q(sa.delete(moved).where(moved.c.network_id == P("id"), moved.c.generation < P("before")))
_FORGET = Q(sa.delete(moved).where(moved.c.network_id == P("id")))
_SINCE = Q(
    sa.select(moved.c.generation, moved.c.what)
    .where(moved.c.network_id == P("id"), moved.c.generation > P("base"))
    .limit(P("the_limit"))
)


def count(tx: Tx, touched: Iterable[tuple[str, str]]) -> None:
    """Count a change of where MACs live, of (network, what) each: what is read later is newer."""
    by_network: dict[str, set[str]] = {}
    for network_id, what in touched:
        by_network.setdefault(network_id, set()).add(what)
    if not by_network:
        return
    ids = listed(sorted(by_network))
    tx.put(_BUMP, ids=ids)
    for row in tx.all(_AT, ids=ids):
        network_id, generation = row["id"], row["forwarding"]
        for what in sorted(by_network[network_id]):
            tx.put(_INSERT, network_id=network_id, generation=generation, what=what)
        if generation % PRUNE_EVERY == 0:
            tx.put(_PRUNE, id=network_id, before=generation - KEPT)


def since(tx: Tx, network_id: str, base: int, generation: int, most: int) -> set[str] | None:
    """Return what changed after ``base``, up to ``generation`` (the one of this transaction).

    None where that is not known, or more than ``most``.
    """
    rows = tx.all(_SINCE, id=network_id, base=base, the_limit=most + 1)
    whole = len({r["generation"] for r in rows}) == generation - base and len(rows) <= most
    found = {r["what"] for r in rows}
    return found if whole and ANYTHING not in found else None


def forget(tx: Tx, network_id: str) -> None:
    """Forget a network that is deleted."""
    tx.put(_FORGET, id=network_id)
