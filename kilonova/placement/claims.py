"""Claims: take, give back and hand over what a server uses, inside the caller's transaction.

A claim locks the rows of the providers that it takes from, then counts; it may be ``guarded`` (``Database.write``;
docs/decisions/guarded-writes.md). A release or a move is conditional on the generations that it read. Each answer is a
Change: what the view of this process applies after commit (``tx.after_commit(lambda: view.applied(change))``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from kilonova.common.errors import Conflict, GenerationMismatch, NotFound
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q
from kilonova.placement import allocations, names
from kilonova.placement.allocations import Amounts, Held
from kilonova.placement.schema import allocation as a
from kilonova.placement.schema import inventory as inv
from kilonova.placement.schema import resource_provider as rp

_ROOM = Q(
    sa.select(
        rp.c.id,
        rp.c.generation,
        inv.c.resource_class,
        inv.c.total,
        inv.c.reserved,
        inv.c.min_unit,
        inv.c.max_unit,
        inv.c.step_size,
        inv.c.allocation_ratio,
        sa.select(sa.func.coalesce(sa.func.sum(a.c.used), 0))
        .where(a.c.provider == rp.c.id, a.c.resource_class == inv.c.resource_class)
        .scalar_subquery()
        .label("used"),
    )
    .outerjoin(inv, inv.c.provider == rp.c.id)
    .where(rp.c.uuid == P("uuid"))
)
_LOCK = Q(
    sa.update(rp)
    .where(rp.c.uuid == P("uuid_"))
    .values(generation=rp.c.generation + 1, changed_at=P("changed_at"))
)
_BUMP = Q(
    sa.update(rp)
    .where(rp.c.id == P("id_"), rp.c.generation == P("generation_"))
    .values(generation=P("generation_") + 1, changed_at=P("changed_at"))
)


class OverCapacity(Conflict):
    """A provider has too little left, or never gives such an amount; another one may. facts: provider, class."""

    code = "over_capacity"
    placement_code = "placement.undefined_code"


class UnknownProvider(NotFound):
    """A provider of the claim is gone."""

    code = "unknown_provider"


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed at one provider. generation: the one after the change. amounts: class -> more (or less) used."""

    provider: str
    generation: int
    amounts: Mapping[str, int]
    servers: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What a claim, release or move did. repeated: it had been done before, nothing changed."""

    consumer: str
    deltas: tuple[Delta, ...] = field(default=())
    repeated: bool = False


def claim(
    tx: Tx,
    *,
    consumer: str,
    project: str,
    user: str,
    amounts: Amounts,
    generations: Mapping[str, int] | None = None,
    consumer_type: str | None = "INSTANCE",
    now: float,
) -> Change:
    """Record that ``consumer`` uses ``amounts`` (provider uuid -> class -> units) and nothing else.

    Doing it twice leaves one set of rows. The caller holds the transaction. Totals are counted here, in it.

    generations: provider uuid -> the generation the decision was made on (None: whatever it is now).
    Raises GenerationMismatch when a provider changed since (decide again; the same one while it has room),
    OverCapacity when it does not fit (move on), UnknownProvider when a provider is gone.
    """
    wanted = {p: {rc: n for rc, n in a.items() if n > 0} for p, a in amounts.items()}
    wanted = {p: a for p, a in wanted.items() if a}
    found, held = allocations.standing(tx, consumer)
    if held and {p: h.amounts for p, h in held.items()} == wanted:
        return Change(consumer, repeated=True)
    rows: list[tuple[int, str, int]] = []
    deltas: list[Delta] = []
    for provider, need in sorted(wanted.items()):  # in one order: no deadlock
        asked = None if generations is None else generations.get(provider)
        provider_id, generation = _take(tx, provider, need, held.get(provider), asked, now)
        rows += [(provider_id, rc, n) for rc, n in need.items()]
        deltas.append(_delta(provider, generation, need, held.get(provider)))
    for provider, had in held.items():
        if provider not in wanted:
            deltas.append(_give_back(tx, had, now))
    if held:
        allocations.drop_rows(tx, consumer)
    allocations.put_consumer(
        tx, consumer, project=project, user=user, type_=consumer_type, found=found, now=now
    )
    allocations.add_rows(tx, consumer, rows)
    return Change(consumer, tuple(deltas))


claim_host = claim


def _take(
    tx: Tx,
    provider: str,
    need: Mapping[str, int],
    held: Held | None,
    generation: int | None,
    now: float,
) -> tuple[int, int]:
    """Move the provider's generation on, then check room; return (id, new generation).

    The row is ours from its change to the commit, so what is read after it holds on every database.
    """
    tx.put(_LOCK, uuid_=provider, changed_at=now)
    rows = tx.all(_ROOM, uuid=provider)
    if not rows:
        raise UnknownProvider("A resource provider of the claim does not exist.", provider=provider)
    provider_id, current = int(rows[0][0]), int(rows[0][1])
    if generation is not None and generation != current - 1:
        raise GenerationMismatch("resource provider changed", provider=provider)
    by_class = {r[2]: r for r in rows}
    own = held.amounts if held is not None else {}
    for resource_class, n in need.items():
        r = by_class.get(resource_class)
        if r is None:
            raise OverCapacity(
                f"No inventory of {resource_class} where it was asked for.", provider=provider
            )
        free = int((r[3] - r[4]) * r[8]) - int(r[9]) + own.get(resource_class, 0)
        if n > free and n > own.get(resource_class, 0):
            raise OverCapacity(
                f"Too little {names.called(resource_class)} left: {names.amount(resource_class, n)} needed, "
                f"{names.amount(resource_class, max(free, 0))} free.",
                provider=provider,
                resource_class=resource_class,
            )
        if n < r[5] or n > r[6] or n % r[7]:
            raise OverCapacity(
                f"{names.amount(resource_class, n)} of {names.called(resource_class)} is not an amount that can be "
                f"had: {r[5]} to {r[6]} in steps of {r[7]}.",
                provider=provider,
                resource_class=resource_class,
            )
    return provider_id, current


def _delta(provider: str, generation: int, need: Mapping[str, int], held: Held | None) -> Delta:
    had = held.amounts if held is not None else {}
    more = {rc: need.get(rc, 0) - had.get(rc, 0) for rc in need.keys() | had.keys()}
    return Delta(provider, generation, more, 0 if had else 1)


def _give_back(tx: Tx, held: Held, now: float) -> Delta:
    if tx.run(_BUMP, id_=held.provider_id, generation_=held.generation, changed_at=now) != 1:
        raise GenerationMismatch("resource provider changed", provider=held.provider)
    return Delta(held.provider, held.generation + 1, {rc: -n for rc, n in held.amounts.items()}, -1)


def release(tx: Tx, consumer: str, *, now: float) -> Change:
    """Give back everything that ``consumer`` holds; fine when it holds nothing. Safe to repeat.

    Raises GenerationMismatch (retryable) when a provider changes at the same moment, on databases where that can be.
    """
    held = allocations.held_by(tx, consumer)
    deltas = tuple(_give_back(tx, h, now) for h in held.values())
    if held:
        allocations.drop_rows(tx, consumer)
    allocations.drop_consumer(tx, consumer)
    return Change(consumer, deltas, repeated=not held)


def move(tx: Tx, source: str, target: str, *, target_type: str | None = None, now: float) -> Change:
    """Hand everything that ``source`` holds to ``target`` (a migration, say); nothing is free in between.

    Safe to repeat: a source that holds nothing moves nothing. Raises Conflict when ``target`` holds something else.
    """
    held = allocations.held_by(tx, source)
    if not held:
        return Change(target, repeated=True)
    if allocations.held_by(tx, target):
        raise Conflict(
            "The consumer that should take over holds allocations already.", target=target
        )
    owner = allocations.consumer(tx, source)
    if owner is None:  # rows and their consumer are written in one transaction
        raise Conflict("The allocations belong to nobody.", source=source)
    allocations.put_consumer(
        tx,
        target,
        project=owner.project_id,
        user=owner.user_id,
        type_=target_type or owner.type,
        found=allocations.consumer(tx, target),
        now=now,
    )
    rows = [(h.provider_id, rc, n) for h in held.values() for rc, n in h.amounts.items()]
    deltas = []
    for h in held.values():
        change = _give_back(tx, h, now)
        deltas.append(Delta(h.provider, change.generation, {}, 0))
    allocations.drop_rows(tx, source)
    allocations.drop_consumer(tx, source)
    allocations.add_rows(tx, target, rows)
    return Change(target, tuple(deltas))
