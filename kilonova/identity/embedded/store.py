"""Questions that join tables: what somebody may do where, who belongs to a group, what goes with a deletion."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.identity.embedded import schema as s
from kilonova.identity.embedded.records import domains, groups, projects, roles, users

_BUMP = Q(sa.update(s.changes).where(s.changes.c.id == 1).values(number=s.changes.c.number + 1))
NUMBER = Q(sa.select(s.changes.c.number).where(s.changes.c.id == 1))
_a = s.assignment
_m = s.membership


def _of_user(column: sa.Column[str], *where: sa.ColumnElement[bool]) -> Q:
    """Ask for a column of a user's assignments, its own and its groups'; each half walks the primary key."""
    return Q(
        sa.union(
            sa.select(column).where(
                _a.c.actor_kind == "user", _a.c.actor_id == P("user_id"), *where
            ),
            sa.select(column).where(
                _a.c.actor_kind == "group",
                _a.c.actor_id.in_(sa.select(_m.c.group_id).where(_m.c.user_id == P("user_id"))),
                *where,
            ),
        )
    )


_KIND = _a.c.target_kind == P("kind")
_ROLES_ON = _of_user(_a.c.role_id, _KIND, _a.c.target_id == P("target_id"))
_TARGETS = _of_user(_a.c.target_id, _KIND)
_IMPLIED = Q(sa.select(s.implied))
# A role of a domain is never effective itself: only what it implies is. source: Keystone, domain-specific roles
_ROLE_NAME = Q(sa.select(s.role.c.name).where(s.role.c.id == P("id"), s.role.c.domain_id == ""))
_IS_REVOKED = Q(sa.select(s.revoked.c.audit_id).where(s.revoked.c.audit_id == P("audit_id")))
_FORGET_REVOKED = Q(sa.delete(s.revoked).where(s.revoked.c.expires_at < P("now")))
_ASSIGN_KEY = sa.and_(
    _a.c.actor_kind == P("actor_kind"),
    _a.c.actor_id == P("actor_id"),
    _a.c.target_kind == P("target_kind"),
    _a.c.target_id == P("target_id"),
    _a.c.role_id == P("role_id"),
)
_FIND_ASSIGNMENT = Q(sa.select(_a).where(_ASSIGN_KEY))
_ASSIGN = insert(_a)
_UNASSIGN = Q(sa.delete(_a).where(_ASSIGN_KEY))
_DIRECT = Q(
    sa.select(s.role)
    .join(_a, _a.c.role_id == s.role.c.id)
    .where(
        _a.c.actor_kind == P("actor_kind"),
        _a.c.actor_id == P("actor_id"),
        _a.c.target_kind == P("target_kind"),
        _a.c.target_id == P("target_id"),
    )
    .order_by(s.role.c.name)
)
_IN_GROUP = Q(
    sa.select(s.membership).where(
        s.membership.c.group_id == P("group_id"), s.membership.c.user_id == P("user_id")
    )
)
_JOIN = insert(s.membership)
_LEAVE = Q(
    sa.delete(s.membership).where(
        s.membership.c.group_id == P("group_id"), s.membership.c.user_id == P("user_id")
    )
)
_MEMBERS = Q(
    sa.select(s.user)
    .join(s.membership, s.membership.c.user_id == s.user.c.id)
    .where(s.membership.c.group_id == P("group_id"))
    .order_by(s.user.c.name)
)
_GROUPS_OF = Q(
    sa.select(s.group)
    .join(s.membership, s.membership.c.group_id == s.group.c.id)
    .where(s.membership.c.user_id == P("user_id"))
    .order_by(s.group.c.name)
)


def number(tx: Tx) -> int:
    """Return how many writes there were."""
    return int(tx.value(NUMBER))


def bump(tx: Tx) -> None:
    """Count a write: everything worked out before is looked at again."""
    tx.run(_BUMP)


# -- roles ---------------------------------------------------------------------------------------------------------


def roles_on(tx: Tx, user_id: str, kind: str, target_id: str) -> dict[str, str]:
    """Return role id -> name of what a user holds on a target, by groups and by implication too."""
    direct = [r[0] for r in tx.all(_ROLES_ON, user_id=user_id, kind=kind, target_id=target_id)]
    return with_implied(tx, direct) if direct else {}


def with_implied(tx: Tx, role_ids: Iterable[str]) -> dict[str, str]:
    """Return role id -> name of these roles and all that they imply."""
    rules = implications(tx)
    held: set[str] = set()
    todo = list(role_ids)
    while todo:
        role_id = todo.pop()
        if role_id not in held:
            held.add(role_id)
            todo += rules.get(role_id, ())
    names = {i: tx.value(_ROLE_NAME, id=i) for i in held}
    return dict(sorted(((i, n) for i, n in names.items() if n is not None), key=lambda x: x[1]))


def implications(tx: Tx) -> dict[str, list[str]]:
    """Return role id -> ids of the roles that it implies directly."""
    out: dict[str, list[str]] = {}
    for r in tx.all(_IMPLIED):
        out.setdefault(r["prior_id"], []).append(r["implied_id"])
    return out


def targets_of(tx: Tx, user_id: str, kind: str) -> list[str]:
    """Return the ids of all projects (or domains) on which a user holds any role."""
    return [r[0] for r in tx.all(_TARGETS, user_id=user_id, kind=kind)]


def direct_roles(tx: Tx, key: dict[str, str]) -> list[Row]:
    """Return the roles that one actor holds directly on one target (key: actor_kind … target_id)."""
    return tx.all(_DIRECT, **key)


def has_assignment(tx: Tx, key: dict[str, str]) -> bool:
    """Tell whether this very assignment exists."""
    return tx.one(_FIND_ASSIGNMENT, **key) is not None


def assign(tx: Tx, key: dict[str, str]) -> None:
    """Give a role; fine when it is given already."""
    if not has_assignment(tx, key):
        tx.run(_ASSIGN, **key)


def unassign(tx: Tx, key: dict[str, str]) -> bool:
    """Take a role away; tell whether it was there."""
    return tx.run(_UNASSIGN, **key) > 0


def assignments(tx: Tx, where: dict[str, Any]) -> list[Row]:
    """Return assignments that equal ``where``."""
    found = sa.select(_a)
    for column, value in where.items():
        c = _a.c[column]
        found = found.where(c.in_(value) if isinstance(value, list) else c == value)
    return tx.select(
        found.order_by(
            _a.c.actor_kind, _a.c.actor_id, _a.c.target_kind, _a.c.target_id, _a.c.role_id
        )
    )


# -- groups --------------------------------------------------------------------------------------------------------


def in_group(tx: Tx, group_id: str, user_id: str) -> bool:
    """Tell whether a user is in a group."""
    return tx.one(_IN_GROUP, group_id=group_id, user_id=user_id) is not None


def join(tx: Tx, group_id: str, user_id: str) -> None:
    """Put a user into a group; fine when it is there."""
    if not in_group(tx, group_id, user_id):
        tx.run(_JOIN, group_id=group_id, user_id=user_id)


def leave(tx: Tx, group_id: str, user_id: str) -> bool:
    """Take a user out of a group; tell whether it was there."""
    return tx.run(_LEAVE, group_id=group_id, user_id=user_id) > 0


def members(tx: Tx, group_id: str) -> list[Row]:
    """Return the users of a group."""
    return tx.all(_MEMBERS, group_id=group_id)


def groups_of(tx: Tx, user_id: str) -> list[Row]:
    """Return the groups of a user."""
    return tx.all(_GROUPS_OF, user_id=user_id)


# -- revocation ----------------------------------------------------------------------------------------------------


def is_revoked(tx: Tx, audit_id: str) -> bool:
    """Tell whether the token of this audit id was revoked."""
    return tx.one(_IS_REVOKED, audit_id=audit_id) is not None


def revoke(tx: Tx, audit_id: str, expires_at: float, now: float) -> None:
    """Remember that a token is dead until it would have expired; forget those that have."""
    tx.run(_FORGET_REVOKED, now=now)
    if not is_revoked(tx, audit_id):
        tx.run(_REVOKE, audit_id=audit_id, expires_at=expires_at)


_REVOKE = insert(s.revoked)


# -- deletion ------------------------------------------------------------------------------------------------------


def remove_user(tx: Tx, user_id: str) -> None:
    """Delete a user with its roles, memberships and application credentials. Raises NotFound."""
    users.remove(tx, user_id)
    _drop_actor(tx, "user", user_id)
    tx.change(sa.delete(s.membership).where(s.membership.c.user_id == user_id))
    tx.change(sa.delete(s.credential).where(s.credential.c.user_id == user_id))


def remove_group(tx: Tx, group_id: str) -> None:
    """Delete a group with its roles and memberships. Raises NotFound."""
    groups.remove(tx, group_id)
    _drop_actor(tx, "group", group_id)
    tx.change(sa.delete(s.membership).where(s.membership.c.group_id == group_id))


def remove_project(tx: Tx, project_id: str) -> None:
    """Delete a project with the roles and application credentials on it. Raises NotFound."""
    projects.remove(tx, project_id)
    _drop_target(tx, "project", project_id)
    tx.change(sa.delete(s.credential).where(s.credential.c.project_id == project_id))
    tx.change(
        sa.update(s.user)
        .where(s.user.c.default_project_id == project_id)
        .values(default_project_id=None)
    )


def remove_role(tx: Tx, role_id: str) -> None:
    """Delete a role and every assignment and implication of it. Raises NotFound."""
    roles.remove(tx, role_id)
    tx.change(sa.delete(_a).where(_a.c.role_id == role_id))
    i = s.implied.c
    tx.change(sa.delete(s.implied).where(sa.or_(i.prior_id == role_id, i.implied_id == role_id)))


def remove_domain(tx: Tx, domain_id: str) -> None:
    """Delete a domain and all that is in it. Raises NotFound."""
    for u in users.list(tx, {"domain_id": domain_id}):
        remove_user(tx, u["id"])
    for g in groups.list(tx, {"domain_id": domain_id}):
        remove_group(tx, g["id"])
    for p in projects.list(tx, {"domain_id": domain_id}):
        remove_project(tx, p["id"])
    for r in roles.list(tx, {"domain_id": domain_id}):
        remove_role(tx, r["id"])
    domains.remove(tx, domain_id)
    _drop_target(tx, "domain", domain_id)


def _drop_actor(tx: Tx, kind: str, id_: str) -> None:
    tx.change(sa.delete(_a).where(_a.c.actor_kind == kind, _a.c.actor_id == id_))


def _drop_target(tx: Tx, kind: str, id_: str) -> None:
    tx.change(sa.delete(_a).where(_a.c.target_kind == kind, _a.c.target_id == id_))
