"""/networks"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.network.embedded.faults import Clash, invalid
from kilonova.network.embedded.routes.resource import (
    DNS,
    FLAG,
    MAYBE_TEXT,
    NUMBER,
    Act,
    Attr,
    Clause,
    Resource,
    common,
    flag,
    standard,
    tags_of,
)
from kilonova.network.embedded.schema import network, subnet
from kilonova.network.embedded.store import floating, networks
from kilonova.network.embedded.store.common import by, listed

_SUBNETS = Q(
    sa.select(subnet.c.id, subnet.c.network_id)
    .where(among(subnet.c.network_id, "ids"))
    .order_by(subnet.c.created_at, subnet.c.id)
)
_SEGMENT = Q(sa.select(network.c.id).where(network.c.segment == sa.bindparam("segment")))
_ZONES = {"type": "array", "items": {"enum": ["nova"]}}
_PROVIDER = ("provider:network_type", "provider:physical_network", "provider:segmentation_id")

ATTRS = (
    *standard(network),
    Attr("admin_state_up", network.c.admin_up, "bool", FLAG, FLAG),
    Attr("shared", network.c.shared, "bool", FLAG, FLAG),
    Attr("router:external", network.c.external, "bool", FLAG, FLAG),
    Attr("is_default", network.c.is_default, "bool", FLAG, FLAG),
    Attr("mtu", network.c.mtu, "int", NUMBER, NUMBER),
    Attr("port_security_enabled", network.c.port_security, "bool", FLAG, FLAG),
    Attr("dns_domain", network.c.dns_domain, post=DNS, put=DNS),
    Attr("availability_zone_hints", post=_ZONES),
    Attr("provider:network_type", post=MAYBE_TEXT),
    Attr("provider:physical_network", network.c.physical, post=MAYBE_TEXT),
    Attr(
        "provider:segmentation_id",
        network.c.segment,
        "int",
        {"anyOf": [{"type": "null"}, NUMBER]},
    ),
)
_COLUMNS = {
    "admin_state_up": "admin_up",
    "shared": "shared",
    "router:external": "external",
    "is_default": "is_default",
    "port_security_enabled": "port_security",
}


def seen(ctx: Context) -> Clause:
    """A caller sees its own networks, shared and external ones."""
    return sa.or_(
        network.c.project_id == (ctx.project_id or ""),
        network.c.shared == 1,
        network.c.external == 1,
    )


def target(tx: Tx, row: Row) -> dict[str, object]:
    """Return what policy is asked about."""
    return {
        "project_id": row["project_id"],
        "network:project_id": row["project_id"],
        "shared": bool(row["shared"]),
        "router:external": bool(row["external"]),
    }


def render(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies."""
    tags = tags_of(tx, rows)
    nets = by(tx.all(_SUBNETS, ids=listed(r["id"] for r in rows)), "network_id")
    provider = may("provider:network_type")
    out = []
    for r in rows:
        body = {
            **common(r, tags),
            "admin_state_up": bool(r["admin_up"]),
            "status": "ACTIVE",
            "shared": bool(r["shared"]),
            "router:external": bool(r["external"]),
            "mtu": r["mtu"],
            "port_security_enabled": bool(r["port_security"]),
            "dns_domain": r["dns_domain"],
            "subnets": [s["id"] for s in nets.get(r["id"], [])],
            "availability_zone_hints": [],
            "availability_zones": ["nova"],
            "ipv4_address_scope": None,
            "ipv6_address_scope": None,
        }
        if r["external"]:
            body["is_default"] = bool(r["is_default"])
        if provider:
            flat = bool(r["physical"])
            body["provider:network_type"] = "flat" if flat else "vxlan"
            body["provider:physical_network"] = r["physical"] or None
            body["provider:segmentation_id"] = None if flat else r["segment"]
        out.append(body)
    return out


def _mtu(item: dict[str, Any]) -> int | None:
    if "mtu" not in item:
        return None
    value = int(item["mtu"])
    if value != 0 and not 68 <= value <= 9216:
        raise invalid(f"mtu: '{value}' is not within 68 and 9216")
    return value or None


def create(act: Act, item: dict[str, Any], project: str) -> str:
    """Make a network."""
    kind = item.get("provider:network_type")
    physical = item.get("provider:physical_network") or ""
    if kind not in (None, "vxlan", "flat"):
        raise invalid(
            f"provider:network_type: network_type value '{kind[:40]}' not supported; vxlan and flat are"
        )
    if kind == "flat" and not physical:
        raise invalid(
            "provider:physical_network: physical_network required for flat provider network"
        )
    if kind != "flat" and physical:
        raise invalid("provider:physical_network: only flat networks have one here")
    segment = item.get("provider:segmentation_id")
    network_id = networks.make(
        act.work,
        networks.NewNetwork(
            project_id=project,
            name=item.get("name", ""),
            description=item.get("description", ""),
            admin_up=flag(item.get("admin_state_up", True)),
            shared=flag(item.get("shared", False)),
            external=flag(item.get("router:external", False)),
            is_default=flag(item.get("is_default", False)),
            mtu=_mtu(item),
            port_security=flag(item.get("port_security_enabled", True)),
            dns_domain=item.get("dns_domain", ""),
            physical=physical,
        ),
    )
    if segment is not None:
        _choose_segment(act, network_id, int(segment))
    return network_id


def _choose_segment(act: Act, network_id: str, segment: int) -> None:
    if not 1 <= segment <= networks.MAX_SEGMENT:
        raise invalid(
            f"provider:segmentation_id: '{segment}' is not within 1 and {networks.MAX_SEGMENT}"
        )
    if act.tx.value(_SEGMENT, segment=segment) not in (None, network_id):
        raise Clash(
            "TunnelIdInUse", f"Unable to create the network. The tunnel ID {segment} is in use."
        )
    act.tx.change(sa.update(network).where(network.c.id == network_id).values(segment=segment))


def update(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change a network."""
    values: dict[str, Any] = {
        k: item[k] for k in ("name", "description", "dns_domain") if k in item
    }
    for name, column in _COLUMNS.items():
        if name in item:
            values[column] = int(flag(item[name]))
    if "mtu" in item:
        values["mtu"] = _mtu(item) or networks.TUNNEL_MTU
    networks.change(act.work, row, values)


def delete(act: Act, row: Row) -> None:
    """Delete a network; its floating addresses that lead nowhere go with it, as in Neutron."""
    for found in act.tx.all(floating.IDLE, network_id=row["id"]):
        floating.delete(act.work, found)
    networks.delete(act.work, row)


NETWORKS = Resource(
    name="network",
    plural="networks",
    path="networks",
    table=network,
    attrs=ATTRS,
    seen=seen,
    target=target,
    render=render,
    create=create,
    update=update,
    delete=delete,
    filters={
        "status": lambda values: sa.true() if "ACTIVE" in values else sa.false(),
        "provider:network_type": lambda values: sa.or_(
            *[
                (network.c.physical != "")
                if v == "flat"
                else sa.and_(sa.literal(v) == "vxlan", network.c.physical == "")
                for v in values
            ]
        ),
    },
    guarded=("shared", "router:external", "is_default", "port_security_enabled", *_PROVIDER),
    defaults=(
        ("shared", False),
        ("router:external", False),
        ("is_default", False),
        ("port_security_enabled", True),
        *((p, None) for p in _PROVIDER),
    ),
)
