"""Which placement aggregates (bare UUIDs) a provider is in. Nova's host aggregates are mirrored here by their uuid."""

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q, insert
from kilonova.placement.schema import provider_aggregate as pa
from kilonova.placement.schema import resource_provider as rp

_OF = Q(sa.select(pa.c.aggregate).where(pa.c.provider == P("provider")).order_by(pa.c.aggregate))
_ADD = insert(pa)
_DROP = Q(sa.delete(pa).where(pa.c.provider == P("provider"), pa.c.aggregate == P("aggregate")))
_BY_NAME = Q(sa.select(rp.c.id).where(rp.c.name == P("name")))
_TOUCH = Q(
    sa.update(rp)
    .where(rp.c.id == P("id_"))
    .values(generation=rp.c.generation + 1, changed_at=P("changed_at"))
)


def of(tx: Tx, provider_id: int) -> frozenset[str]:
    """Return the aggregates that a provider is in."""
    return frozenset(r[0] for r in tx.all(_OF, provider=provider_id))


def replace(tx: Tx, provider_id: int, wanted: frozenset[str]) -> bool:
    """Make it be in exactly these; tell whether anything changed. The caller bumps the generation."""
    have = of(tx, provider_id)
    for gone in have - wanted:
        tx.run(_DROP, provider=provider_id, aggregate=gone)
    for new in sorted(wanted - have):
        tx.run(_ADD, provider=provider_id, aggregate=new)
    return have != wanted


def mirror_host(tx: Tx, host: str, aggregate: str, member: bool, now: float) -> None:
    """Follow Nova's aggregate: a host (by its root provider's name) joins or leaves. Safe to repeat."""
    provider = tx.value(_BY_NAME, name=host)
    if provider is None:
        return
    have = of(tx, provider)
    if replace(tx, provider, have | {aggregate} if member else have - {aggregate}):
        tx.run(_TOUCH, id_=provider, changed_at=now)
