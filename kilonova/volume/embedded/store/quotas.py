"""Quotas per project and class, with Cinder's names and defaults; what is used is counted from rows."""

from collections.abc import Mapping

import sqlalchemy as sa

from kilonova.common.errors import QuotaExceeded
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q
from kilonova.volume.embedded.schema import (
    OF_ITS_OWN,
    backup,
    quota,
    snapshot,
    volume,
    volume_type,
)

DEFAULTS: Mapping[str, int] = {
    "volumes": 10,
    "per_volume_gigabytes": -1,
    "snapshots": 10,
    "gigabytes": 1000,
    "backups": 10,
    "backup_gigabytes": 1000,
    "groups": 10,
}
_SIZE = sa.func.coalesce(volume.c.new_size_gib, volume.c.size_gib)
_VOLUMES = Q(
    sa.select(volume.c.type_id, sa.func.count(), sa.func.coalesce(sa.func.sum(_SIZE), 0))
    .where(volume.c.project_id == P("project"), OF_ITS_OWN)
    .group_by(volume.c.type_id)
)
_SNAPSHOTS = Q(
    sa.select(
        volume.c.type_id, sa.func.count(), sa.func.coalesce(sa.func.sum(snapshot.c.size_gib), 0)
    )
    .select_from(snapshot.outerjoin(volume, volume.c.id == snapshot.c.volume_id))
    .where(snapshot.c.project_id == P("project"))
    .group_by(volume.c.type_id)
)
_BACKUPS = Q(
    sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(backup.c.size_gib), 0)).where(
        backup.c.project_id == P("project")
    )
)
_TYPES = Q(sa.select(volume_type.c.id, volume_type.c.name))
_SET = Q(
    sa.select(quota.c.resource, quota.c.amount).where(
        quota.c.kind == P("kind"), quota.c.owner == P("owner")
    )
)
_DROP = Q(sa.delete(quota).where(quota.c.kind == P("kind"), quota.c.owner == P("owner")))
_DROP_ONE = Q(
    sa.delete(quota).where(
        quota.c.kind == P("kind"), quota.c.owner == P("owner"), quota.c.resource == P("resource")
    )
)
_ADD = Q(
    sa.insert(quota).values(
        kind=P("kind"), owner=P("owner"), resource=P("resource"), amount=P("amount")
    )
)


def names(tx: Tx) -> list[str]:
    """Return every resource that has a limit: the fixed ones, and three per type."""
    per_type = [
        f"{what}_{t['name']}"
        for t in tx.all(_TYPES)
        for what in ("volumes", "gigabytes", "snapshots")
    ]
    return [*DEFAULTS, *per_type]


def class_limits(tx: Tx, name: str = "default") -> dict[str, int]:
    """Return the limits of a quota class; "default" holds for projects without their own."""
    found = {r["resource"]: r["amount"] for r in tx.all(_SET, kind="class", owner=name)}
    return {n: found.get(n, DEFAULTS.get(n, -1)) for n in names(tx)}


def limits(tx: Tx, project_id: str) -> dict[str, int]:
    """Return the limits of a project; -1 is none."""
    found = {r["resource"]: r["amount"] for r in tx.all(_SET, kind="project", owner=project_id)}
    return {n: found.get(n, amount) for n, amount in class_limits(tx).items()}


def used(tx: Tx, project_id: str) -> dict[str, int]:
    """Count what a project has."""
    out = dict.fromkeys(names(tx), 0)
    of_type = {t["id"]: t["name"] for t in tx.all(_TYPES)}
    for rows, noun in (
        (tx.all(_VOLUMES, project=project_id), "volumes"),
        (tx.all(_SNAPSHOTS, project=project_id), "snapshots"),
    ):
        for type_id, number, gib in rows:
            out[noun] += number
            out["gigabytes"] += gib
            if type_id in of_type:
                out[f"{noun}_{of_type[type_id]}"] += number
                out[f"gigabytes_{of_type[type_id]}"] += gib
    number, gib = tx.all(_BACKUPS, project=project_id)[0]
    out["backups"], out["backup_gigabytes"] = number, gib
    return out


def check(tx: Tx, project_id: str, more: Mapping[str, int]) -> None:
    """Raise QuotaExceeded, in Cinder's words, unless a project may have ``more``; in the transaction that inserts.

    ``per_volume_gigabytes`` is the size of the largest volume asked for.
    """
    limit, have = limits(tx, project_id), used(tx, project_id)
    for name, amount in more.items():
        top = limit.get(name, -1)
        if top < 0 or (amount <= 0 and name != "per_volume_gigabytes"):
            continue
        if name == "per_volume_gigabytes":
            if amount > top:
                raise QuotaExceeded(
                    f"Requested volume size {amount}G is larger than maximum allowed limit {top}G."
                )
        elif have.get(name, 0) + amount > top:
            raise QuotaExceeded(_words(name, amount, have.get(name, 0), top))


def _words(name: str, amount: int, have: int, top: int) -> str:
    if name.startswith("gigabytes"):
        return (
            f"Requested volume or snapshot exceeds allowed {name} quota. Requested {amount}G, quota is {top}G "
            f"and {have}G has been consumed."
        )
    if name.startswith("backup_gigabytes"):
        return (
            f"Requested backup exceeds allowed Backup gigabytes quota. Requested {amount}G, quota is {top}G and "
            f"{have}G has been consumed."
        )
    noun = name.partition("_")[0]
    return f"Maximum number of {noun} allowed ({top}) exceeded for quota '{name}'."


def put(tx: Tx, kind: str, owner: str, values: Mapping[str, int]) -> None:
    """Set limits of a project ("project") or a class ("class")."""
    for name, amount in values.items():
        tx.run(_DROP_ONE, kind=kind, owner=owner, resource=name)
        tx.run(_ADD, kind=kind, owner=owner, resource=name, amount=amount)


def reset(tx: Tx, kind: str, owner: str) -> int:
    """Go back to the defaults; return how many limits were set."""
    return tx.run(_DROP, kind=kind, owner=owner)
