"""Who uses how much of which provider. Totals are counted from rows, never kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.common.errors import Conflict
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q, insert
from kilonova.placement.schema import allocation as a
from kilonova.placement.schema import consumer as c
from kilonova.placement.schema import resource_provider as rp

Amounts = Mapping[str, Mapping[str, int]]
"""provider uuid -> resource class -> units"""

_OF = Q(
    sa.select(rp.c.uuid, rp.c.id, rp.c.generation, a.c.resource_class, a.c.used)
    .join(rp, rp.c.id == a.c.provider)
    .where(a.c.consumer == P("consumer"))
)
_root = rp.alias("root")
_BELOW = Q(
    sa.select(rp.c.uuid, rp.c.name, a.c.resource_class, a.c.used)
    .join(rp, rp.c.id == a.c.provider)
    .join(_root, _root.c.id == rp.c.root)
    .where(a.c.consumer == P("consumer"), _root.c.uuid == P("root"), rp.c.id != _root.c.id)
    .order_by(rp.c.name, a.c.resource_class)
)
_STANDING = Q(
    sa.select(
        c, rp.c.uuid.label("provider"), rp.c.id, rp.c.generation, a.c.resource_class, a.c.used
    )
    .outerjoin(a, a.c.consumer == c.c.uuid)
    .outerjoin(rp, rp.c.id == a.c.provider)
    .where(c.c.uuid == P("uuid"))
)
_BY_PROVIDER = Q(
    sa.select(a.c.consumer, a.c.resource_class, a.c.used, c.c.generation)
    .join(c, c.c.uuid == a.c.consumer)
    .where(a.c.provider == P("provider"))
    .order_by(a.c.consumer)
)
_CONSUMER = Q(sa.select(c).where(c.c.uuid == P("uuid")))
_ADD_CONSUMER = insert(c)
_BUMP_CONSUMER = Q(
    sa.update(c)
    .where(c.c.uuid == P("uuid_"), c.c.generation == P("generation_"))
    .values(
        generation=P("generation_") + 1,
        project_id=P("project_id"),
        user_id=P("user_id"),
        type=P("type"),
        updated_at=P("updated_at"),
    )
)
_DROP_CONSUMER = Q(sa.delete(c).where(c.c.uuid == P("uuid")))
_ADD = insert(a)
_DROP = Q(sa.delete(a).where(a.c.consumer == P("consumer")))
_USAGE = Q(
    sa.select(c.c.type, a.c.resource_class, sa.func.sum(a.c.used))
    .join(a, a.c.consumer == c.c.uuid)
    .where(c.c.project_id == P("project"))
    .group_by(c.c.type, a.c.resource_class)
)
_USAGE_OF_USER = Q(
    sa.select(c.c.type, a.c.resource_class, sa.func.sum(a.c.used))
    .join(a, a.c.consumer == c.c.uuid)
    .where(c.c.project_id == P("project"), c.c.user_id == P("user"))
    .group_by(c.c.type, a.c.resource_class)
)
_COUNT = Q(
    sa.select(c.c.type, sa.func.count()).where(c.c.project_id == P("project")).group_by(c.c.type)
)
_COUNT_OF_USER = Q(
    sa.select(c.c.type, sa.func.count())
    .where(c.c.project_id == P("project"), c.c.user_id == P("user"))
    .group_by(c.c.type)
)


class ConsumerChanged(Conflict):
    """The consumer's generation is another than the caller read."""

    code, retryable = "consumer_changed", True
    placement_code = "placement.concurrent_update"


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who holds allocations: a server (INSTANCE), a migration, or whatever an API client says."""

    uuid: str
    generation: int
    project_id: str
    user_id: str
    type: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a consumer holds of one provider. provider_id: for joins inside the database only."""

    provider: str
    provider_id: int
    generation: int
    amounts: dict[str, int]


@dataclass(frozen=True, slots=True)
class BelowHost:
    """What a consumer holds of one provider below a host's own. key: its name."""

    provider: str
    key: str
    amounts: dict[str, int]


def below_host(tx: Tx, consumer: str, root: str) -> list[BelowHost]:
    """Return what a consumer holds of the providers below ``root``, sorted by name."""
    out: dict[str, BelowHost] = {}
    for uuid, name, resource_class, used in tx.all(_BELOW, consumer=consumer, root=root):
        out.setdefault(uuid, BelowHost(uuid, name, {})).amounts[resource_class] = used
    return list(out.values())


def consumer(tx: Tx, uuid: str) -> Consumer | None:
    """Return a consumer, or None."""
    r = tx.one(_CONSUMER, uuid=uuid)
    if r is None:
        return None
    return Consumer(r["uuid"], r["generation"], r["project_id"], r["user_id"], r["type"])


def of_consumer(tx: Tx, uuid: str) -> dict[str, dict[str, int]]:
    """Return what a consumer holds: provider uuid -> class -> units; empty when nothing."""
    return {h.provider: h.amounts for h in held_by(tx, uuid).values()}


def held_by(tx: Tx, uuid: str) -> dict[str, Held]:
    """Return what a consumer holds, by provider uuid, with the providers' generations."""
    out: dict[str, Held] = {}
    for r in tx.all(_OF, consumer=uuid):
        held = out.get(r[0])
        if held is None:
            held = out[r[0]] = Held(r[0], r[1], r[2], {})
        held.amounts[r[3]] = r[4]
    return out


def standing(tx: Tx, uuid: str) -> tuple[Consumer | None, dict[str, Held]]:
    """Return a consumer (None when there is none) and what it holds, by provider uuid, in one question."""
    found: Consumer | None = None
    out: dict[str, Held] = {}
    n = len(c.columns)
    for r in tx.all(_STANDING, uuid=uuid):
        if found is None:
            found = Consumer(r["uuid"], r["generation"], r["project_id"], r["user_id"], r["type"])
        provider, provider_id, generation, resource_class, used = r[n:]
        if provider is None:
            continue
        held = out.get(provider)
        if held is None:
            held = out[provider] = Held(provider, provider_id, generation, {})
        held.amounts[resource_class] = used
    return found, out


def used_by_provider(tx: Tx, provider_id: int) -> dict[str, tuple[int, dict[str, int]]]:
    """Return who uses a provider: consumer -> (consumer generation, class -> units)."""
    out: dict[str, tuple[int, dict[str, int]]] = {}
    for r in tx.all(_BY_PROVIDER, provider=provider_id):
        out.setdefault(r[0], (r[3], {}))[1][r[1]] = r[2]
    return out


def usage(tx: Tx, project: str, user: str | None = None) -> list[tuple[str, str, int]]:
    """Count what a project (or one user in it) uses: (consumer type, class, units)."""
    rows = (
        tx.all(_USAGE, project=project)
        if user is None
        else tx.all(_USAGE_OF_USER, project=project, user=user)
    )
    return [(r[0], r[1], int(r[2])) for r in rows]


def consumers(tx: Tx, project: str, user: str | None = None) -> dict[str, int]:
    """Count a project's consumers by type."""
    rows = (
        tx.all(_COUNT, project=project)
        if user is None
        else tx.all(_COUNT_OF_USER, project=project, user=user)
    )
    return {r[0]: int(r[1]) for r in rows}


def put_consumer(
    tx: Tx,
    uuid: str,
    *,
    project: str,
    user: str,
    type_: str | None,
    found: Consumer | None,
    now: float,
) -> None:
    """Make the consumer, or move its generation on. type_ None keeps the type it has."""
    if found is None:
        tx.put(
            _ADD_CONSUMER,
            uuid=uuid,
            generation=1,
            project_id=project,
            user_id=user,
            type=type_ or "unknown",
            created_at=now,
            updated_at=now,
        )
        return
    moved = tx.run(
        _BUMP_CONSUMER,
        uuid_=uuid,
        generation_=found.generation,
        project_id=project,
        user_id=user,
        type=type_ or found.type,
        updated_at=now,
    )
    if moved != 1:
        raise ConsumerChanged("consumer generation conflict: it changed since it was read")


def drop_consumer(tx: Tx, uuid: str) -> None:
    """Forget a consumer that holds nothing."""
    tx.put(_DROP_CONSUMER, uuid=uuid)


def add_rows(tx: Tx, uuid: str, rows: list[tuple[int, str, int]]) -> None:
    """Insert (provider id, class, units)."""
    tx.many(
        _ADD,
        [{"consumer": uuid, "provider": p, "resource_class": rc, "used": n} for p, rc, n in rows],
    )


def drop_rows(tx: Tx, uuid: str) -> None:
    """Delete everything that a consumer holds."""
    tx.put(_DROP, consumer=uuid)
