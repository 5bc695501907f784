"""Quotas per project, with Neutron's names and defaults; used is counted from rows."""

from collections.abc import Mapping

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded.faults import over_quota
from kilonova.network.embedded.schema import (
    floating,
    network,
    port,
    quota,
    router,
    rule,
    security_group,
    subnet,
)

DEFAULTS: Mapping[str, int] = {
    "network": 100,
    "subnet": 100,
    "port": 500,
    "router": 10,
    "floatingip": 50,
    "security_group": 10,
    "security_group_rule": 100,
}
_TABLES = {
    "network": network,
    "subnet": subnet,
    "port": port,
    "router": router,
    "floatingip": floating,
    "security_group": security_group,
    "security_group_rule": rule,
}
_USED = {
    name: Q(sa.select(sa.func.count()).where(t.c.project_id == P("project_id")))
    for name, t in _TABLES.items()
}
_SET = Q(sa.select(quota.c.resource, quota.c.amount).where(quota.c.project_id == P("project_id")))
_PROJECTS = Q(sa.select(quota.c.project_id).distinct().order_by(quota.c.project_id))


def _check(table: sa.Table) -> Q:
    """Ask for a project's limit and, when it has one, for what it uses; None instead of the second without."""
    own = sa.select(quota.c.amount).where(
        quota.c.project_id == P("project_id"), quota.c.resource == P("resource")
    )
    limit = sa.select(
        sa.func.coalesce(own.scalar_subquery(), P("default")).label("amount")
    ).subquery()
    count = sa.select(sa.func.count()).where(table.c.project_id == P("project_id"))
    return Q(sa.select(limit.c.amount, sa.case((limit.c.amount >= 0, count.scalar_subquery()))))


_CHECK = {name: _check(t) for name, t in _TABLES.items()}
_DROP = Q(sa.delete(quota).where(quota.c.project_id == P("project_id")))
_DROP_ONE = Q(
    sa.delete(quota).where(quota.c.project_id == P("project_id"), quota.c.resource == P("resource"))
)
_ADD = Q(
    sa.insert(quota).values(project_id=P("project_id"), resource=P("resource"), amount=P("amount"))
)


def limits(tx: Tx, project_id: str, defaults: Mapping[str, int]) -> dict[str, int]:
    """Return the limits of a project; -1 is none."""
    found = {r["resource"]: r["amount"] for r in tx.all(_SET, project_id=project_id)}
    return {name: found.get(name, amount) for name, amount in defaults.items()}


def used(tx: Tx, project_id: str, resource: str) -> int:
    """Count what a project has."""
    return int(tx.value(_USED[resource], project_id=project_id))


def check(tx: Tx, project_id: str, resource: str, more: int, defaults: Mapping[str, int]) -> None:
    """Raise OverQuota unless the project may have ``more``; counted in the transaction that inserts."""
    row = tx.one(
        _CHECK[resource], project_id=project_id, resource=resource, default=defaults[resource]
    )
    if row is not None and row[0] >= 0 and row[1] + more > row[0]:
        raise over_quota([resource])


def put(tx: Tx, project_id: str, values: Mapping[str, int]) -> None:
    """Set limits of a project."""
    for name, amount in values.items():
        tx.put(_DROP_ONE, project_id=project_id, resource=name)
        tx.put(_ADD, project_id=project_id, resource=name, amount=amount)


def reset(tx: Tx, project_id: str) -> int:
    """Go back to the defaults; return how many limits were set."""
    return tx.run(_DROP, project_id=project_id)


def projects(tx: Tx) -> list[str]:
    """Return the projects that have limits of their own."""
    return [r[0] for r in tx.all(_PROJECTS)]
