"""Traits of providers, and the CUSTOM_ traits that somebody made."""

from collections.abc import Iterable

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q, insert
from kilonova.placement import names
from kilonova.placement.schema import provider_trait as pt
from kilonova.placement.schema import trait as t

_OF = Q(sa.select(pt.c.trait).where(pt.c.provider == P("provider")).order_by(pt.c.trait))
_ADD = insert(pt)
_DROP = Q(sa.delete(pt).where(pt.c.provider == P("provider"), pt.c.trait == P("trait")))
_HOLDERS = Q(sa.select(sa.func.count()).where(pt.c.trait == P("trait")))
_CUSTOM = Q(sa.select(t.c.name).order_by(t.c.name))
_FIND = Q(sa.select(t.c.name).where(t.c.name == P("name")))
_MAKE = insert(t)
_FORGET = Q(sa.delete(t).where(t.c.name == P("name")))
_USED = Q(sa.select(pt.c.trait).distinct())
_KEPT = (names.DISABLED, names.SHARES)


class TraitInUse(Conflict):
    """A trait that a provider has cannot be deleted."""

    code = "trait_in_use"


def of(tx: Tx, provider_id: int) -> frozenset[str]:
    """Return a provider's traits."""
    return frozenset(r[0] for r in tx.all(_OF, provider=provider_id))


def exists(tx: Tx, name: str) -> bool:
    """Tell whether a trait is a standard one or was made."""
    return name in names.standard_traits() or tx.one(_FIND, name=name) is not None


def every(tx: Tx) -> list[str]:
    """Return all traits, sorted."""
    return sorted(names.standard_traits() | {r[0] for r in tx.all(_CUSTOM)})


def in_use(tx: Tx) -> set[str]:
    """Return the traits that some provider has."""
    return {r[0] for r in tx.all(_USED)}


def make(tx: Tx, name: str, now: float) -> bool:
    """Make a CUSTOM_ trait; False when it was there. Raises BadRequest for a name that is not allowed."""
    if exists(tx, name):
        return False
    if names.CUSTOM.fullmatch(name) is None:
        raise BadRequest(
            f"The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix "
            f'"CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"; not {name[:60]}.'
        )
    tx.run(_MAKE, name=name, created_at=now)
    return True


def forget(tx: Tx, name: str) -> None:
    """Delete a CUSTOM_ trait. Raises BadRequest for a standard one, NotFound, TraitInUse."""
    if name in names.standard_traits():
        raise BadRequest(f"Cannot delete standard trait {name}.")
    if tx.one(_FIND, name=name) is None:
        raise NotFound(f"No such trait {name}.")
    if tx.value(_HOLDERS, trait=name):
        raise TraitInUse(f"The trait {name} is in use by a resource provider.")
    tx.run(_FORGET, name=name)


def check(tx: Tx, wanted: Iterable[str]) -> None:
    """Raise BadRequest that names the traits that do not exist."""
    unknown = sorted(w for w in wanted if not exists(tx, w))
    if unknown:
        raise BadRequest(f"No such trait(s): {', '.join(unknown)}.")


def replace(tx: Tx, provider_id: int, wanted: frozenset[str]) -> bool:
    """Make the provider's traits exactly these; tell whether anything changed."""
    have = of(tx, provider_id)
    for gone in have - wanted:
        tx.run(_DROP, provider=provider_id, trait=gone)
    for new in sorted(wanted - have):
        tx.run(_ADD, provider=provider_id, trait=new)
    return have != wanted


def report(tx: Tx, provider_id: int, reported: frozenset[str], now: float) -> bool:
    """Take over what a host reports; traits that operators or we set stay. Unknown CUSTOM_ ones are made."""
    known = set()
    for name in reported:
        if names.CUSTOM.fullmatch(name) is not None:
            make(tx, name, now)
            known.add(name)
        elif name in names.standard_traits():
            known.add(name)
    return replace(tx, provider_id, frozenset(known | _kept(of(tx, provider_id))))


def is_reported(tx: Tx, provider_id: int, reported: frozenset[str]) -> bool:
    """Tell whether ``report`` would change nothing."""
    have = of(tx, provider_id)
    known = {n for n in reported if n in names.standard_traits() or names.CUSTOM.fullmatch(n)}
    return known | _kept(have) == have


def _kept(have: frozenset[str]) -> set[str]:
    return {n for n in have if n in _KEPT or n.startswith("CUSTOM_")}


def mark(tx: Tx, provider_id: int, name: str, wanted: bool) -> bool:
    """Set or clear one trait; tell whether anything changed."""
    if (name in of(tx, provider_id)) == wanted:
        return False
    tx.run(_ADD if wanted else _DROP, provider=provider_id, trait=name)
    return True
