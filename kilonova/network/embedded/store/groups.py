"""Security groups and their rules: default group, membership, duplicates, protocol names."""

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded import protocols
from kilonova.network.embedded.faults import Clash, missing
from kilonova.network.embedded.schema import port, port_group, rule, security_group
from kilonova.network.embedded.store.common import find, forget_tags, listed
from kilonova.network.embedded.store.work import Work

FIND = find(security_group)
_INSERT = insert(security_group)
_INSERT_RULE = insert(rule)
FIND_RULE = find(rule)
_DEFAULT = Q(sa.select(security_group.c.id).where(security_group.c.default_of == P("project_id")))
_JOIN = insert(port_group)
_LEAVE = Q(
    sa.delete(port_group).where(
        port_group.c.port_id == P("port_id"), port_group.c.group_id == P("group_id")
    )
)
_LEAVE_ALL = Q(sa.delete(port_group).where(port_group.c.port_id == P("port_id")))
OF_PORT = Q(sa.select(port_group.c.group_id).where(port_group.c.port_id == P("port_id")))
_BUMP = Q(
    sa.update(security_group)
    .where(among(security_group.c.id, "ids"))
    .values(generation=security_group.c.generation + 1)
)
_MEMBERS = Q(
    sa.select(port_group.c.port_id)
    .join(port, port.c.id == port_group.c.port_id)
    .where(port_group.c.group_id == P("group_id"), port.c.host != "")
)
_BUMP_MEMBERS = Q(
    sa.update(port)
    .where(
        port.c.id.in_(
            sa.select(port_group.c.port_id).where(port_group.c.group_id == P("group_id"))
        ),
        port.c.host != "",
    )
    .values(generation=port.c.generation + 1, updated_at=P("now"))
)
_TOUCHED = Q(
    sa.update(security_group)
    .where(security_group.c.id == P("id"))
    .values(revision=security_group.c.revision + 1, updated_at=P("now"))
)
_IN_USE = Q(sa.select(port_group.c.port_id).where(port_group.c.group_id == P("id")).limit(1))
_RULES_OF = Q(sa.select(rule).where(rule.c.group_id == P("group_id")))
_RULES_OF_MANY = Q(
    sa.select(rule).where(among(rule.c.group_id, "ids")).order_by(rule.c.created_at, rule.c.id)
)
_REFERRERS = Q(sa.select(rule).where(rule.c.remote_group == P("id")))
_DELETE_RULE = Q(sa.delete(rule).where(rule.c.id == P("id")))
_DELETE = Q(sa.delete(security_group).where(security_group.c.id == P("id")))
_EXIST = Q(
    sa.select(security_group.c.id, security_group.c.name)
    .where(among(security_group.c.id, "ids"), security_group.c.project_id == P("project_id"))
    .order_by(security_group.c.created_at)
)
NAMED = Q(
    sa.select(security_group.c.id, security_group.c.name).where(
        security_group.c.project_id == P("project_id"),
        sa.or_(security_group.c.name == P("given"), security_group.c.id == P("given")),
    )
)


def get(tx: Tx, group_id: str) -> Row:
    """Return a group's row; SecurityGroupNotFound."""
    row = tx.one(FIND, id=group_id)
    if row is None:
        raise missing("security_group", group_id)
    return row


def get_rule(tx: Tx, rule_id: str) -> Row:
    """Return a rule's row; SecurityGroupRuleNotFound."""
    row = tx.one(FIND_RULE, id=rule_id)
    if row is None:
        raise missing("security_group_rule", rule_id)
    return row


def has_default(tx: Tx, project_id: str) -> bool:
    """Tell whether a project has its default group already."""
    return tx.value(_DEFAULT, project_id=project_id) is not None


def ensure_default(work: Work, project_id: str) -> str:
    """Return the project's default group, making it with Neutron's default rules on first use."""
    found = work.tx.value(_DEFAULT, project_id=project_id)
    if found is not None:
        return str(found)
    group_id = make(work, project_id, "default", "Default security group", default=True)
    for ethertype in ("IPv4", "IPv6"):
        add_rule(work, group_id, project_id, "ingress", ethertype, remote_group=group_id)
    return group_id


def make(
    work: Work,
    project_id: str,
    name: str,
    description: str = "",
    *,
    stateful: bool = True,
    default: bool = False,
) -> str:
    """Make a group that lets everything out; return its id."""
    group_id = new_uuid()
    work.tx.put(
        _INSERT,
        id=group_id,
        project_id=project_id,
        name=name,
        description=description,
        created_at=work.now,
        updated_at=work.now,
        revision=1,
        stateful=int(stateful),
        default_of=project_id if default else None,
        generation=1,
    )
    for ethertype in ("IPv4", "IPv6"):
        add_rule(work, group_id, project_id, "egress", ethertype)
    return group_id


def add_rule(
    work: Work,
    group_id: str,
    project_id: str,
    direction: str,
    ethertype: str,
    *,
    protocol: str | None = None,
    port_min: int | None = None,
    port_max: int | None = None,
    remote_cidr: str | None = None,
    remote_group: str | None = None,
    description: str = "",
) -> str:
    """Add a rule that was checked; SecurityGroupRuleExists for a duplicate. Every port of the group learns of it."""
    values = {
        "direction": direction,
        "ethertype": ethertype,
        "protocol": protocol,
        "port_min": port_min,
        "port_max": port_max,
        "remote_cidr": remote_cidr,
        "remote_group": remote_group,
    }
    for other in work.tx.all(_RULES_OF, group_id=group_id):
        same = {k: other[k] for k in values if k != "protocol"} | {
            "protocol": protocols.canonical(other["protocol"], other["ethertype"])
        }
        if same == values | {"protocol": protocols.canonical(protocol, ethertype)}:
            raise Clash(
                "SecurityGroupRuleExists",
                f"Security group rule already exists. Rule id is {other['id']}.",
            )
    rule_id = new_uuid()
    work.tx.put(
        _INSERT_RULE,
        **values,
        id=rule_id,
        group_id=group_id,
        project_id=project_id,
        name="",
        description=description,
        created_at=work.now,
        updated_at=work.now,
        revision=0,
    )
    rules_changed(work, group_id)
    return rule_id


def delete_rule(work: Work, row: Row) -> None:
    """Remove a rule; every port of the group learns of it."""
    work.tx.put(_DELETE_RULE, id=row["id"])
    forget_tags(work.tx, row["id"])
    rules_changed(work, row["group_id"])


def rules_changed(work: Work, group_id: str) -> None:
    """Publish every bound port of a group anew."""
    work.tx.put(_TOUCHED, id=group_id, now=work.now)
    members = [r[0] for r in work.tx.all(_MEMBERS, group_id=group_id)]
    if members:
        work.tx.put(_BUMP_MEMBERS, group_id=group_id, now=work.now)
        work.ports.update(members)


def delete(work: Work, row: Row) -> None:
    """Delete a group; SecurityGroupInUse while a port has it. Rules that name it as remote group go with it."""
    tx = work.tx
    if tx.one(_IN_USE, id=row["id"]) is not None:
        raise Clash("SecurityGroupInUse", f"Security Group {row['id']} in use.")
    for r in tx.all(_REFERRERS, id=row["id"]):
        if r["group_id"] != row["id"]:
            delete_rule(work, r)
    for r in tx.all(_RULES_OF, group_id=row["id"]):
        tx.put(_DELETE_RULE, id=r["id"])
        forget_tags(tx, r["id"])
    forget_tags(tx, row["id"])
    tx.put(_DELETE, id=row["id"])


def of_port(tx: Tx, port_id: str) -> list[str]:
    """Return the ids of a port's groups."""
    return [r[0] for r in tx.all(OF_PORT, port_id=port_id)]


def join(work: Work, port_id: str, group_ids: list[str]) -> None:
    """Put a port into groups whose existence was checked."""
    work.tx.many(_JOIN, [{"port_id": port_id, "group_id": g} for g in group_ids])
    members_changed(work, group_ids)


def leave(work: Work, port_id: str, group_ids: list[str]) -> None:
    """Take a port out of groups."""
    work.tx.many(_LEAVE, [{"port_id": port_id, "group_id": g} for g in group_ids])
    members_changed(work, group_ids)


def leave_all(work: Work, port_id: str) -> None:
    """Take a port out of all its groups."""
    ids = of_port(work.tx, port_id)
    if ids:
        work.tx.put(_LEAVE_ALL, port_id=port_id)
        members_changed(work, ids)


def members_changed(work: Work, group_ids: list[str]) -> None:
    """Note that a group's addresses changed; published in batches."""
    if group_ids:
        work.tx.put(_BUMP, ids=listed(group_ids))
        work.groups.update(group_ids)


def checked(tx: Tx, project_id: str, group_ids: list[str]) -> list[str]:
    """Return the ids, each once; SecurityGroupNotFound for one that is not the project's."""
    named(tx, project_id, group_ids)
    return list(dict.fromkeys(group_ids))


def named(tx: Tx, project_id: str, group_ids: list[str]) -> list[tuple[str, str]]:
    """Return (id, name) of groups, oldest first; SecurityGroupNotFound for one that is not the project's."""
    if not group_ids:
        return []
    found = [(r[0], r[1]) for r in tx.all(_EXIST, ids=listed(group_ids), project_id=project_id)]
    for g in dict.fromkeys(group_ids).keys() - dict(found).keys():
        raise missing("security_group", g)
    return found


def rules_of(tx: Tx, group_ids: list[str]) -> list[Row]:
    """Return the rules of groups, oldest first."""
    return tx.all(_RULES_OF_MANY, ids=listed(group_ids)) if group_ids else []
