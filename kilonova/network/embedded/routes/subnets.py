"""/subnets"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.http.schema import Json
from kilonova.network.embedded.faults import Refused, invalid, missing
from kilonova.network.embedded.routes.resource import (
    FLAG,
    MAYBE_TEXT,
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
from kilonova.network.embedded.schema import network, subnet
from kilonova.network.embedded.store import networks, subnets

_MODE: Json = {"enum": ["slaac", "dhcpv6-stateful", "dhcpv6-stateless", None]}
_VERSION: Json = {"enum": [4, 6, "4", "6"]}
_POOLS: Json = {
    "type": "array",
    "maxItems": 100,
    "items": {
        "type": "object",
        "properties": {"start": TEXT, "end": TEXT},
        "required": ["start", "end"],
        "additionalProperties": False,
    },
}
_SERVERS: Json = {
    "type": ["array", "null"],
    "items": TEXT,
    "maxItems": 5,
    "uniqueItems": True,
}
_ROUTES: Json = {
    "type": ["array", "null"],
    "maxItems": 20,
    "uniqueItems": True,
    "items": {
        "type": "object",
        "properties": {"destination": TEXT, "nexthop": TEXT},
        "required": ["destination", "nexthop"],
        "additionalProperties": False,
    },
}
_NOTHING: Json = {"type": "null"}

ATTRS = (
    *standard(subnet),
    Attr("network_id", subnet.c.network_id, post=UUID),
    Attr("ip_version", subnet.c.ip_version, "int", _VERSION),
    Attr("cidr", subnet.c.cidr, post=MAYBE_TEXT),
    Attr("gateway_ip", subnet.c.gateway_ip, post=MAYBE_TEXT, put=MAYBE_TEXT),
    Attr("enable_dhcp", subnet.c.enable_dhcp, "bool", FLAG, FLAG),
    Attr("dns_nameservers", post=_SERVERS, put=_SERVERS),
    Attr("host_routes", post=_ROUTES, put=_ROUTES),
    Attr("allocation_pools", post=_POOLS, put=_POOLS),
    Attr("ipv6_address_mode", subnet.c.ipv6_address_mode, post=_MODE),
    Attr("ipv6_ra_mode", subnet.c.ipv6_ra_mode, post=_MODE),
    Attr("dns_publish_fixed_ip", subnet.c.dns_publish_fixed_ip, "bool", FLAG, FLAG),
    Attr("subnetpool_id", post=_NOTHING),
    Attr("segment_id", post=_NOTHING),
    Attr("prefixlen", post=_NOTHING),
    Attr("use_default_subnetpool", post={"enum": [False]}),
    Attr(
        "service_types", post={"type": "array", "maxItems": 0}, put={"type": "array", "maxItems": 0}
    ),
)


def seen(ctx: Context) -> Clause:
    """A caller sees its own subnets, and those of its own and shared networks; not those of external ones."""
    open_nets = sa.select(network.c.id).where(
        sa.or_(
            network.c.shared == 1,
            network.c.project_id == (ctx.project_id or ""),
        )
    )
    return sa.or_(subnet.c.project_id == (ctx.project_id or ""), subnet.c.network_id.in_(open_nets))


def target(tx: Tx, row: Row) -> dict[str, object]:
    """Return what policy is asked about."""
    net = networks.get(tx, row["network_id"])
    return {
        "project_id": row["project_id"],
        "network:project_id": net["project_id"],
        "shared": bool(net["shared"]),
        "router:external": bool(net["external"]),
    }


def render(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies."""
    tags = tags_of(tx, rows)
    return [
        {
            **common(r, tags),
            "network_id": r["network_id"],
            "ip_version": r["ip_version"],
            "cidr": r["cidr"],
            "gateway_ip": r["gateway_ip"],
            "enable_dhcp": bool(r["enable_dhcp"]),
            "dns_nameservers": json.loads(r["dns_nameservers"]),
            "host_routes": json.loads(r["host_routes"]),
            "allocation_pools": json.loads(r["allocation_pools"]),
            "ipv6_address_mode": r["ipv6_address_mode"],
            "ipv6_ra_mode": r["ipv6_ra_mode"],
            "dns_publish_fixed_ip": bool(r["dns_publish_fixed_ip"]),
            "subnetpool_id": None,
            "segment_id": None,
            "service_types": [],
        }
        for r in rows
    ]


def create(act: Act, item: dict[str, Any], project: str) -> str:
    """Make a subnet in a network that the caller owns."""
    net = act.tx.one(networks.FIND, id=item["network_id"])
    admin = act.req.may("admin_only", {})
    if net is None or not (networks.usable(net, act.req.ctx.project_id or "") or admin):
        raise missing("network", item["network_id"])
    act.req.authorize(
        "create_subnet", {"project_id": project, "network:project_id": net["project_id"]}
    )
    if not item.get("cidr"):
        raise Refused(
            "BadRequest", "Bad subnets request: a subnet needs a cidr; there are no subnet pools."
        )
    if "ip_version" not in item:
        raise invalid("ip_version: it is required")
    return subnets.make(
        act.work,
        subnets.NewSubnet(
            network_id=net["id"],
            project_id=project,
            cidr=item["cidr"],
            ip_version=int(item["ip_version"]),
            name=item.get("name", ""),
            description=item.get("description", ""),
            gateway_ip=item.get("gateway_ip", ""),
            enable_dhcp=flag(item.get("enable_dhcp", True)),
            dns_nameservers=item.get("dns_nameservers") or [],
            host_routes=item.get("host_routes") or [],
            allocation_pools=item.get("allocation_pools"),
            ipv6_address_mode=item.get("ipv6_address_mode"),
            ipv6_ra_mode=item.get("ipv6_ra_mode"),
            dns_publish_fixed_ip=flag(item.get("dns_publish_fixed_ip", False)),
        ),
    )


def update(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change a subnet."""
    values = {k: v for k, v in item.items() if k != "service_types"}
    for name in ("dns_nameservers", "host_routes"):
        if name in values:
            values[name] = values[name] or []
    for name in ("enable_dhcp", "dns_publish_fixed_ip"):
        if name in values:
            values[name] = flag(values[name])
    subnets.change(act.work, row, values)


def delete(act: Act, row: Row) -> None:
    """Delete a subnet."""
    subnets.delete(act.work, row)


SUBNETS = Resource(
    name="subnet",
    plural="subnets",
    path="subnets",
    table=subnet,
    attrs=ATTRS,
    seen=seen,
    target=target,
    render=render,
    create=create,
    update=update,
    delete=delete,
    filters={
        "shared": lambda values: subnet.c.network_id.in_(
            sa.select(network.c.id).where(
                network.c.shared == int(values[-1].lower() in ("true", "1"))
            )
        ),
        "subnetpool_id": lambda values: sa.true() if "" in values else sa.false(),
        "router:external": lambda values: subnet.c.network_id.in_(
            sa.select(network.c.id).where(
                network.c.external == int(values[-1].lower() in ("true", "1"))
            )
        ),
    },
)
