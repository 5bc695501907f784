"""/security-groups and /security-group-rules"""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.schema import Json
from kilonova.network.embedded import protocols
from kilonova.network.embedded.faults import Clash, Denied, Refused, missing
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.routes.engine import Engine
from kilonova.network.embedded.routes.resource import (
    MAYBE_TEXT,
    UUID,
    Act,
    Attr,
    Resource,
    common,
    own,
    plain_target,
    standard,
    tags_of,
)
from kilonova.network.embedded.schema import rule, security_group
from kilonova.network.embedded.store import groups
from kilonova.network.embedded.store.common import by, changed

_NUMBER: Json = {
    "anyOf": [
        {"type": ["integer", "null"], "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
        {"type": "string", "pattern": "^-?[0-9]{1,9}$"},
    ]
}
_PROTOCOL: Json = {"type": ["string", "integer", "null"], "maxLength": 40}
_STATEFUL: Json = {"enum": [True, "true", "True"]}  # stateless groups are not offered
_WAYS: Json = {"enum": ["ingress", "egress"]}
_KINDS: Json = {"enum": ["IPv4", "IPv6", "ipv4", "ipv6", None]}

GROUP_ATTRS = (
    *standard(security_group),
    Attr("stateful", security_group.c.stateful, "bool", _STATEFUL, _STATEFUL),
)
RULE_ATTRS = (
    *standard(rule, named=False),
    Attr("security_group_id", rule.c.group_id, post=UUID),
    Attr("direction", rule.c.direction, post=_WAYS),
    Attr("ethertype", rule.c.ethertype, post=_KINDS),
    Attr("protocol", rule.c.protocol, post=_PROTOCOL),
    Attr("port_range_min", rule.c.port_min, "int", _NUMBER),
    Attr("port_range_max", rule.c.port_max, "int", _NUMBER),
    Attr("remote_ip_prefix", rule.c.remote_cidr, post=MAYBE_TEXT),
    Attr("remote_group_id", rule.c.remote_group, post=MAYBE_TEXT),
    Attr("remote_address_group_id", post={"type": "null"}),
)


def _rule_body(r: Row, tags: dict[str, list[str]]) -> dict[str, Any]:
    body = common(r, tags)
    del body["name"]
    return body | {
        "security_group_id": r["group_id"],
        "direction": r["direction"],
        "ethertype": r["ethertype"],
        "protocol": r["protocol"],
        "port_range_min": r["port_min"],
        "port_range_max": r["port_max"],
        "remote_ip_prefix": r["remote_cidr"],
        "normalized_cidr": r["remote_cidr"],
        "remote_group_id": r["remote_group"],
        "remote_address_group_id": None,
    }


def render_rules(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies of rules."""
    tags = tags_of(tx, rows)
    return [_rule_body(r, tags) for r in rows]


def render_groups(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies of groups with their rules."""
    tags = tags_of(tx, rows)
    found = groups.rules_of(tx, [r["id"] for r in rows])
    rules = by(found, "group_id")
    rule_tags = tags_of(tx, found)
    return [
        {
            **common(r, tags),
            "stateful": bool(r["stateful"]),
            "shared": False,
            "security_group_rules": [_rule_body(x, rule_tags) for x in rules.get(r["id"], [])],
        }
        for r in rows
    ]


def create_group(act: Act, item: dict[str, Any], project: str) -> str:
    """Make a group; the project's default group is made before it."""
    groups.ensure_default(act.work, project)
    if item["name"].lower() == "default":
        raise Clash("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
    return groups.make(
        act.work,
        project,
        item["name"],
        item.get("description", ""),
    )


def update_group(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change name, description or statefulness; the default group keeps its name."""
    if row["default_of"] and item.get("name", row["name"]) != row["name"]:
        raise Denied(
            "SecurityGroupCannotUpdateDefault", "Updating default security group not allowed."
        )
    if item.get("name", "").lower() == "default" and not row["default_of"]:
        raise Clash("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
    values: dict[str, Any] = {k: item[k] for k in ("name", "description") if k in item}
    changed(act.tx, security_group, row["id"], act.work.now, values)


def delete_group(act: Act, row: Row) -> None:
    """Delete a group; a project's default group only by an admin."""
    if row["default_of"] and not act.req.may("admin_only", {}):
        raise Clash(
            "SecurityGroupCannotRemoveDefault",
            "Insufficient rights for removing default security group.",
        )
    groups.delete(act.work, row)


def _group_of(act: Act, group_id: str) -> Row:
    row = act.tx.one(groups.FIND, id=group_id)
    mine = row is not None and row["project_id"] == act.req.ctx.project_id
    if row is None or not (mine or act.req.may("admin_only", {})):
        raise missing("security_group", group_id)
    return row


def _range(item: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return both ends of a range of ports, or an ICMP type and code; -1 for both is the same as none."""
    low, high = (
        None if v is None else int(v)
        for v in (item.get("port_range_min"), item.get("port_range_max"))
    )
    return (None, None) if {low, high} <= {None, -1} else (low, high)


def create_rule(act: Act, item: dict[str, Any], project: str) -> str:
    """Add a rule that was checked field by field."""
    group = _group_of(act, item["security_group_id"])
    ethertype = {"ipv4": "IPv4", "ipv6": "IPv6"}[(item.get("ethertype") or "IPv4").lower()]
    protocol = protocols.canonical(item.get("protocol"), ethertype)
    if protocol in protocols.ONLY_V6 and ethertype == "IPv4":
        raise Refused(
            "SecurityGroupEthertypeConflictWithProtocol",
            f"Invalid ethertype IPv4 for protocol {protocol}.",
        )
    low, high = _range(item)
    protocols.check_ports(protocol, low, high)
    cidr, remote = item.get("remote_ip_prefix"), item.get("remote_group_id")
    if cidr and remote:
        raise Refused(
            "SecurityGroupMultipleRemoteEntitiesProvided",
            "Only remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
        )
    if remote:
        _group_of(act, remote)
    return groups.add_rule(
        act.work,
        group["id"],
        project if act.req.may("admin_only", {}) else group["project_id"],
        item["direction"],
        ethertype,
        protocol=protocols.as_given(item.get("protocol"), protocol),
        port_min=low,
        port_max=high,
        remote_cidr=_cidr(cidr, ethertype) if cidr else None,
        remote_group=remote or None,
        description=item.get("description", ""),
    )


def _cidr(given: str, ethertype: str) -> str:
    try:
        net = ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise Refused(
            "InvalidCIDR",
            f"Invalid CIDR {given[:80]} given as IP prefix (remote_ip_prefix).",
        ) from None
    if net.version != (4 if ethertype == "IPv4" else 6):
        raise Refused(
            "SecurityGroupRuleParameterConflict",
            f"Conflicting value ethertype {ethertype} for CIDR {given[:80]} (remote_ip_prefix).",
        )
    return str(net)


def delete_rule(act: Act, row: Row) -> None:
    """Remove a rule."""
    groups.delete_rule(act.work, row)


GROUPS = Resource(
    name="security_group",
    plural="security_groups",
    path="security-groups",
    table=security_group,
    attrs=GROUP_ATTRS,
    seen=own(security_group),
    target=plain_target,
    render=render_groups,
    create=create_group,
    update=update_group,
    delete=delete_group,
    filters={
        "shared": lambda values: sa.false() if values[-1].lower() in ("true", "1") else sa.true()
    },
)
RULES = Resource(
    name="security_group_rule",
    plural="security_group_rules",
    path="security-group-rules",
    table=rule,
    attrs=RULE_ATTRS,
    seen=own(rule),
    target=plain_target,
    render=render_rules,
    create=create_rule,
    update=None,
    delete=delete_rule,
    filters={},
)


class GroupEngine(Engine):
    """Lists make the project's default group on first use, as Neutron does."""

    def __init__(self, network: EmbeddedNetwork) -> None:
        super().__init__(network, GROUPS)

    def list(self, req: Request) -> dict[str, Any]:
        """List what the caller may see."""
        project = req.ctx.project_id
        if project is not None and not self.network.database.read(
            lambda tx: groups.has_default(tx, project)
        ):
            self.act(req, lambda act: groups.ensure_default(act.work, project))
        return super().list(req)
