"""/ports"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.http.schema import Json
from kilonova.network.embedded.faults import Clash, Refused, invalid, missing
from kilonova.network.embedded.routes.resource import (
    DNS,
    FLAG,
    MAYBE_TEXT,
    TAG,
    TEXT,
    UUID,
    Act,
    Attr,
    Clause,
    Resource,
    common,
    flag,
    standard,
    tags_of,
)
from kilonova.network.embedded.schema import address, network, port, port_group
from kilonova.network.embedded.store import addresses, bound, groups, networks, ports, subnets
from kilonova.network.embedded.store.common import ADD_TAG, by, listed
from kilonova.network.embedded.store.fixed import FixedRequest

_MAC: Json = {"type": "string", "pattern": "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"}
_FIXED: Json = {
    "type": ["array", "null"],
    "maxItems": 20,
    "items": {
        "type": "object",
        "properties": {"subnet_id": UUID, "ip_address": TEXT},
        "minProperties": 1,
        "additionalProperties": False,
    },
}
_GROUPS: Json = {"type": ["array", "null"], "items": UUID, "maxItems": 100}
_PAIRS: Json = {
    "type": ["array", "null"],
    "maxItems": 50,
    "items": {
        "type": "object",
        "properties": {"ip_address": TEXT, "mac_address": _MAC},
        "required": ["ip_address"],
        "additionalProperties": False,
    },
}
_OPTIONS: Json = {
    "type": ["array", "null"],
    "maxItems": 50,
    "items": {
        "type": "object",
        "properties": {
            "opt_name": {
                "type": "string",
                "minLength": 1,
                "maxLength": 64,
                "pattern": "^[A-Za-z0-9:_-]+$",
            },
            "opt_value": {
                "type": ["string", "null"],
                "maxLength": 255,
                "pattern": "^[^\\r\\n\\x00]*$",
            },
            "ip_version": {"enum": [4, 6, "4", "6"]},
        },
        "required": ["opt_name", "opt_value"],
        "additionalProperties": False,
    },
}
_TAGS: Json = {"type": "array", "maxItems": 50, "items": TAG}
PROFILE: Json = {"type": ["object", "null"], "maxProperties": 50}
VNIC: Json = {"enum": ["normal"]}

ATTRS = (
    *standard(port),
    Attr("network_id", port.c.network_id, post=UUID),
    Attr("mac_address", port.c.mac, post=_MAC, put=_MAC),
    Attr("admin_state_up", port.c.admin_up, "bool", FLAG, FLAG),
    Attr("status", port.c.status),
    Attr("device_id", port.c.device_id, post=TEXT, put=TEXT),
    Attr("device_owner", port.c.device_owner, post=TEXT, put=TEXT),
    Attr("fixed_ips", post=_FIXED, put=_FIXED),
    Attr("security_groups", post=_GROUPS, put=_GROUPS),
    Attr("allowed_address_pairs", post=_PAIRS, put=_PAIRS),
    Attr("extra_dhcp_opts", post=_OPTIONS, put=_OPTIONS),
    Attr("port_security_enabled", port.c.port_security, "bool", FLAG, FLAG),
    Attr("dns_name", port.c.dns_name, post=DNS, put=DNS),
    Attr("tags", post=_TAGS),
    Attr("binding:host_id", port.c.host, post=MAYBE_TEXT, put=MAYBE_TEXT),
    Attr("binding:profile", post=PROFILE, put=PROFILE),
    Attr("binding:vnic_type", port.c.vnic_type, post=VNIC, put=VNIC),
)
_ADDRESSES = Q(
    sa.select(address.c.port_id, address.c.subnet_id, address.c.ip)
    .where(among(address.c.port_id, "ids"))
    .order_by(address.c.port_id, address.c.place)
)
_MEMBER = Q(sa.select(port_group).where(among(port_group.c.port_id, "ids")))
_DOMAINS = Q(sa.select(network.c.id, network.c.dns_domain).where(among(network.c.id, "ids")))
DOMAIN = "openstacklocal."
ROUTER_OWNERS = ("network:router_interface", "network:router_gateway")


def seen(ctx: Context) -> Clause:
    """A caller sees its own ports and those on its networks."""
    mine = ctx.project_id or ""
    nets = sa.select(network.c.id).where(network.c.project_id == mine)
    return sa.and_(
        sa.literal(mine) != "", sa.or_(port.c.project_id == mine, port.c.network_id.in_(nets))
    )


def target(tx: Tx, row: Row) -> dict[str, object]:
    """Return what policy is asked about."""
    net = networks.get(tx, row["network_id"])
    return {"project_id": row["project_id"], "network:project_id": net["project_id"]}


def render(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies."""
    tags = tags_of(tx, rows)
    asked = listed(r["id"] for r in rows)
    held = by(tx.all(_ADDRESSES, ids=asked), "port_id")
    member = by(tx.all(_MEMBER, ids=asked), "port_id")
    domains = {
        d["id"]: d["dns_domain"]
        for d in tx.all(_DOMAINS, ids=listed({r["network_id"] for r in rows}))
    }
    binding = may("binding:host_id")
    out = []
    for r in rows:
        mine = held.get(r["id"], [])
        body = {
            **common(r, tags),
            "network_id": r["network_id"],
            "mac_address": r["mac"],
            "admin_state_up": bool(r["admin_up"]),
            "status": r["status"],
            "device_id": r["device_id"],
            "device_owner": r["device_owner"],
            "fixed_ips": [{"subnet_id": a["subnet_id"], "ip_address": a["ip"]} for a in mine],
            "security_groups": [m["group_id"] for m in member.get(r["id"], [])],
            "allowed_address_pairs": json.loads(r["pairs"]),
            "extra_dhcp_opts": json.loads(r["dhcp_options"]),
            "port_security_enabled": bool(r["port_security"]),
            "dns_name": r["dns_name"],
            "dns_assignment": _assignment(r, mine, domains.get(r["network_id"], "")),
            "dns_domain": "",
            "binding:vnic_type": r["vnic_type"],
        }
        if binding:
            body["binding:host_id"] = r["host"]
            body["binding:profile"] = json.loads(r["profile"])
            body["binding:vif_type"] = bound.vif_type(r)
            body["binding:vif_details"] = bound.vif_details(r)
        out.append(body)
    return out


def _assignment(r: Row, held: list[Row], domain: str) -> list[dict[str, str]]:
    out = []
    for a in held:
        name = r["dns_name"] or "host-" + re.sub(r"[.:]+", "-", a["ip"])
        out.append({"ip_address": a["ip"], "hostname": name, "fqdn": f"{name}.{domain or DOMAIN}"})
    return out


def _fixed(item: dict[str, Any]) -> list[FixedRequest] | None:
    given = item.get("fixed_ips")
    if given is None:
        return None
    return [FixedRequest(f.get("subnet_id"), f.get("ip_address")) for f in given]


def _options(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "opt_name": o["opt_name"],
            "opt_value": o["opt_value"],
            "ip_version": int(o.get("ip_version", 4)),
        }
        for o in item.get("extra_dhcp_opts") or []
    ]


def _guard(
    act: Act, verb: str, item: dict[str, Any], what: dict[str, object], old: str = ""
) -> None:
    """Ask about what depends on the network's owner."""
    req = act.req
    for name, default in (
        ("mac_address", None),
        ("port_security_enabled", True),
        ("allowed_address_pairs", []),
    ):
        if name in item and not (verb == "create" and item[name] in (default, None)):
            req.authorize(f"{verb}_port:{name}", what)
    if any(f.get("ip_address") for f in item.get("fixed_ips") or []):
        req.authorize(f"{verb}_port:fixed_ips:ip_address", what)
    owner = item.get("device_owner", old)
    if "device_owner" in item and owner != old and owner.startswith("network:"):
        req.authorize(f"{verb}_port:device_owner", what)


def create(act: Act, item: dict[str, Any], project: str) -> str:
    """Make a port."""
    net = act.tx.one(networks.FIND, id=item["network_id"])
    admin = act.req.may("admin_or_service", {})
    if net is None or not (networks.usable(net, act.req.ctx.project_id or "") or admin):
        raise missing("network", item["network_id"])
    _guard(act, "create", item, {"project_id": project, "network:project_id": net["project_id"]})
    mac = item.get("mac_address")
    made = ports.make(
        act.work,
        ports.NewPort(
            project_id=project,
            network_id=net["id"],
            name=item.get("name", ""),
            description=item.get("description", ""),
            mac=None if mac is None else _mac(mac),
            admin_up=flag(item.get("admin_state_up", True)),
            device_id=item.get("device_id", ""),
            device_owner=item.get("device_owner", ""),
            host=item.get("binding:host_id") or "",
            profile=item.get("binding:profile") or {},
            port_security=flag(item["port_security_enabled"])
            if "port_security_enabled" in item
            else None,
            pairs=item.get("allowed_address_pairs") or [],
            dhcp_options=_options(item),
            dns_name=item.get("dns_name", ""),
            fixed=_fixed(item),
            groups=item.get("security_groups"),
        ),
    )
    for one in item.get("tags", ()):
        act.tx.run(ADD_TAG, resource_id=made, tag=one)
    return made


def _mac(text: str) -> str:
    mac = text.lower()
    if mac == "00:00:00:00:00:00" or int(mac[:2], 16) & 1:
        raise invalid(f"mac_address: '{mac}' is not a valid MAC address of one device")
    return mac


def update(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change a port; its host applies it anew."""
    _guard(act, "update", item, target(act.tx, row), row["device_owner"])
    _stays_in_use(act, row, item)
    values: dict[str, Any] = {
        k: item[k]
        for k in ("name", "description", "device_id", "device_owner", "dns_name")
        if k in item
    }
    if "admin_state_up" in item:
        values["admin_up"] = int(flag(item["admin_state_up"]))
        if not values["admin_up"]:
            values["status"] = "DOWN"
    mac = row["mac"]
    if "mac_address" in item and _mac(item["mac_address"]) != mac:
        mac = _new_mac(act, row, _mac(item["mac_address"]))
        values["mac"] = mac
    if "extra_dhcp_opts" in item:
        values["dhcp_options"] = json.dumps(_options(item))
    if "binding:profile" in item:
        values["profile"] = json.dumps(item["binding:profile"] or {})
    if item.get("fixed_ips") is not None:
        ports.set_fixed(act.work, row, _fixed(item) or [])
    _security(act, row, item, values, mac)
    host = item.get("binding:host_id")
    if host and host != row["host"]:
        ports.bind(act.work, row, host, values)
    else:
        if "binding:host_id" in item and not host and row["host"]:
            values |= {"host": "", "status": "DOWN", "applied": 0}
            act.work.gone.append((row["host"], "port", row["id"], row["generation"] + 1))
        ports.change(act.work, row, values)
        if values.get("host") == "":
            ports.leave_host(act.work, row, row["host"])
    if {"fixed_ips", "mac_address"} & set(item):
        ports.tell(act.work, row)
        if row["device_owner"] == "network:dhcp":
            networks.touch(act.work, row["network_id"])
        elif row["device_owner"] in ROUTER_OWNERS:
            ports.touch_router(act.work, row["device_id"])


def _stays_in_use(act: Act, row: Row, item: dict[str, Any]) -> None:
    """A port of a server, a router or DHCP keeps its device: only whoever uses it lets go of it."""
    moved = any(item.get(k, row[k]) != row[k] for k in ("device_id", "device_owner"))
    system = ports.is_system(row["device_owner"])
    if moved and (system or (row["operation"] and not act.req.may("admin_or_service", {}))):
        raise Clash(
            "PortInUse",
            f"Unable to complete operation on port {row['id']} for network {row['network_id']}. "
            f"Port already has an attached device {row['device_id']}.",
        )


def _new_mac(act: Act, row: Row, mac: str) -> str:
    if row["host"] and row["device_owner"].startswith("compute:"):
        raise Clash(
            "PortBound",
            f"Unable to complete operation on port {row['id']}, port is already bound, port type: tap, "
            f"old_mac {row['mac']}, new_mac {mac}.",
        )
    ports.mac_is_free(act.tx, row["network_id"], mac)
    return mac


def _security(act: Act, row: Row, item: dict[str, Any], values: dict[str, Any], mac: str) -> None:
    secure = flag(item.get("port_security_enabled", bool(row["port_security"])))
    values["port_security"] = int(secure)
    pairs = (
        item["allowed_address_pairs"] or []
        if "allowed_address_pairs" in item
        else json.loads(row["pairs"])
    )
    values["pairs"] = json.dumps(ports.checked_pairs(pairs, secure, mac))
    have = groups.of_port(act.tx, row["id"])
    wanted = item["security_groups"] or [] if "security_groups" in item else have
    if not secure and have and "security_groups" not in item:
        raise Clash(
            "PortSecurityPortHasSecurityGroup",
            "Port has security group associated. Cannot disable port security or IP address until security group is "
            "removed.",
        )
    if (
        wanted
        and "security_groups" in item
        and not (secure and addresses.of_port(act.tx, row["id"]))
    ):
        raise Refused(
            "PortSecurityAndIPRequiredForSecurityGroups",
            "Port security must be enabled and port must have an IP address in order to use security groups.",
        )
    if wanted != have:
        ports.set_groups(act.work, row, wanted)


def delete(act: Act, row: Row) -> None:
    """Delete a port; those that routers and floating addresses need are refused. DHCP moves to another one."""
    owner = row["device_owner"]
    if owner in (*ROUTER_OWNERS, "network:floatingip"):
        raise Clash(
            "ServicePortInUse",
            f"Port {row['id']} cannot be deleted directly via the port API: has device owner {owner}.",
        )
    ports.delete(act.work, row)
    if owner == "network:dhcp":
        subnets.serve_again(act.work, row["network_id"])


def _by_fixed(values: list[str]) -> Clause:
    """source: Neutron, "fixed_ips=ip_address=10.0.0.1", "fixed_ips=subnet_id=…", ip_address_substr."""
    wanted: dict[str, list[str]] = {}
    for v in values:
        for part in v.split(","):
            name, sep, text = part.partition("=")
            if not sep or name not in ("ip_address", "subnet_id", "ip_address_substr"):
                raise invalid(
                    f"fixed_ips: '{part[:60]}' is not ip_address=, subnet_id= or ip_address_substr="
                )
            wanted.setdefault(name, []).append(text)
    parts: list[Clause] = [address.c.port_id == port.c.id]
    if "ip_address" in wanted:
        parts.append(sa.or_(*[address.c.ip == t for t in wanted["ip_address"]]))
    if "subnet_id" in wanted:
        parts.append(sa.or_(*[address.c.subnet_id == t for t in wanted["subnet_id"]]))
    if "ip_address_substr" in wanted:
        parts.append(
            sa.or_(
                *[address.c.ip.icontains(t, autoescape=True) for t in wanted["ip_address_substr"]]
            )
        )
    return sa.exists().where(*parts)


PORTS = Resource(
    name="port",
    plural="ports",
    path="ports",
    table=port,
    attrs=ATTRS,
    seen=seen,
    target=target,
    render=render,
    create=create,
    update=update,
    delete=delete,
    filters={
        "fixed_ips": _by_fixed,
        "ip_address": lambda values: _by_fixed([f"ip_address={v}" for v in values]),
        "security_groups": lambda values: sa.exists().where(
            port_group.c.port_id == port.c.id,
            sa.or_(*[port_group.c.group_id == v for v in values]),
        ),
        "mac_address": lambda values: sa.or_(*[port.c.mac == v.lower() for v in values]),
    },
    guarded=("binding:host_id", "binding:profile"),
    defaults=(("binding:host_id", None), ("binding:profile", None)),
)
