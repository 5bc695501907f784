"""Ports as compute sees them: a handful of questions for any number of ports.

A server's ports are those that were made or adopted for it by key: a tenant may write any device_id on a port of its
own, and must not appear on somebody else's server by it.
"""

import json
from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.network.embedded.schema import (
    address,
    floating,
    network,
    port,
    port_group,
    security_group,
    subnet,
)
from kilonova.network.embedded.store.common import by, listed
from kilonova.network.embedded.store.ports import Made
from kilonova.objects.port import BoundPort, FixedIp, SubnetInfo

OF_DEVICES = Q(
    sa.select(port)
    .where(among(port.c.device_id, "ids"), port.c.operation > "")
    .order_by(port.c.created_at, port.c.id)
)
_ADDRESSES = Q(
    sa.select(address.c.port_id, address.c.ip, address.c.subnet_id)
    .where(among(address.c.port_id, "ids"))
    .order_by(address.c.port_id, address.c.place)
)
_SUBNETS = Q(sa.select(subnet).where(among(subnet.c.id, "ids")))
_DHCP = Q(
    sa.select(address.c.subnet_id, address.c.ip)
    .join(port, port.c.id == address.c.port_id)
    .where(among(port.c.network_id, "ids"), port.c.device_owner == "network:dhcp")
)
_NETWORKS = Q(
    sa.select(network.c.id, network.c.name, network.c.mtu).where(among(network.c.id, "ids"))
)
_GROUPS = Q(
    sa.select(port_group.c.port_id, security_group.c.id, security_group.c.name)
    .join(security_group, security_group.c.id == port_group.c.group_id)
    .where(among(port_group.c.port_id, "ids"))
    .order_by(security_group.c.created_at)
)
_FLOATING = Q(
    sa.select(floating.c.port_id, floating.c.fixed_ip, floating.c.ip)
    .where(among(floating.c.port_id, "ids"))
    .order_by(floating.c.ip)
)


def of_devices(tx: Tx, device_ids: Sequence[str]) -> dict[str, list[BoundPort]]:
    """Return the servers' ports, oldest first; servers without are absent."""
    rows = tx.all(OF_DEVICES, ids=listed(device_ids))
    out: dict[str, list[BoundPort]] = {}
    for p in of_rows(tx, rows):
        out.setdefault(p.device_id, []).append(p)
    return out


def of_rows(tx: Tx, rows: Sequence[Row]) -> list[BoundPort]:
    """Return ports with all that compute needs, in the order of ``rows``."""
    if not rows:
        return []
    asked = listed(r["id"] for r in rows)
    nets = listed({r["network_id"] for r in rows})
    held = by(tx.all(_ADDRESSES, ids=asked), "port_id")
    subnets = tx.all(_SUBNETS, ids=listed({a["subnet_id"] for hs in held.values() for a in hs}))
    dhcp = {r["subnet_id"]: r["ip"] for r in tx.all(_DHCP, ids=nets)}
    info = {s["id"]: subnet_info(s, dhcp.get(s["id"])) for s in subnets}
    networks = {n["id"]: n for n in tx.all(_NETWORKS, ids=nets)}
    groups = by(tx.all(_GROUPS, ids=asked), "port_id")
    lead: dict[tuple[str, str], list[str]] = {}
    for f in tx.all(_FLOATING, ids=asked):
        lead.setdefault((f["port_id"], f["fixed_ip"]), []).append(f["ip"])
    return [
        _port(
            r, held.get(r["id"], []), info, networks[r["network_id"]], groups.get(r["id"], []), lead
        )
        for r in rows
    ]


def of_made(made: Made, net: Row) -> BoundPort:
    """Return a port that was made just now in ``net``: all of it is known, nothing is asked."""
    held = [{"ip": ip, "subnet_id": s["id"]} for s, ip in made.addresses]
    info = {s["id"]: subnet_info(s, s["dhcp_ip"]) for s, _ in made.addresses}
    groups = [{"id": i, "name": name} for i, name in made.groups]
    return _port(made.row, held, info, net, groups, {})


def subnet_info(s: Row, dhcp: str | None) -> SubnetInfo:
    """Return a subnet as a guest's configuration needs it."""
    return SubnetInfo(
        id=s["id"],
        cidr=s["cidr"],
        ip_version=s["ip_version"],
        gateway=s["gateway_ip"],
        dns=tuple(json.loads(s["dns_nameservers"])),
        routes=tuple((r["destination"], r["nexthop"]) for r in json.loads(s["host_routes"])),
        enable_dhcp=bool(s["enable_dhcp"]),
        dhcp_server=dhcp,
        ipv6_mode=s["ipv6_address_mode"],
    )


def _port(
    r: Row,
    held: Sequence[Row],
    info: dict[str, SubnetInfo],
    net: Row,
    groups: Sequence[Row],
    lead: dict[tuple[str, str], list[str]],
) -> BoundPort:
    bound = bool(r["host"])
    return BoundPort(
        port_id=r["id"],
        network_id=r["network_id"],
        network_name=net["name"],
        project_id=r["project_id"],
        device_id=r["device_id"],
        device_owner=r["device_owner"],
        mac=r["mac"],
        mtu=net["mtu"],
        status=r["status"],
        admin_up=bool(r["admin_up"]),
        host=r["host"],
        vif_type=vif_type(r),
        vif_details=vif_details(r) if bound else {},
        vnic_type=r["vnic_type"],
        fixed_ips=tuple(
            FixedIp(
                ip_address=a["ip"],
                subnet_id=a["subnet_id"],
                ip_version=6 if ":" in a["ip"] else 4,
                floating=tuple(lead.get((r["id"], a["ip"]), ())),
            )
            for a in held
        ),
        subnets=tuple(info[s] for s in dict.fromkeys(a["subnet_id"] for a in held)),
        security_groups=tuple((g["id"], g["name"]) for g in groups),
        port_security=bool(r["port_security"]),
        preserve_on_delete=bool(r["preserve"]),
        dns_name=r["dns_name"],
        tag=r["tag"],
    )


def vif_type(r: Row) -> str:
    """Return binding:vif_type: tap where a host is bound."""
    return "tap" if r["host"] else "unbound"


def vif_details(r: Row) -> dict[str, bool | str]:
    """Return binding:vif_details of a bound port."""
    return {"port_filter": True, "connectivity": "l2"} if r["host"] else {}
