"""Subnets: ranges, gateways, pools, and the DHCP port of their network."""

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.faults import Clash, Refused, invalid, missing
from kilonova.network.embedded.schema import address, free_range, network, port, router, subnet
from kilonova.network.embedded.store import addresses, moves, ports
from kilonova.network.embedded.store.addresses import OF_NETWORK, Pool, pools_of
from kilonova.network.embedded.store.common import (
    IpNetwork,
    changed,
    find,
    forget_tags,
    parse_cidr,
    parse_ip,
)
from kilonova.network.embedded.store.work import Work

FIND = find(subnet)
_INSERT = insert(subnet)
_DELETE = Q(sa.delete(subnet).where(subnet.c.id == P("id")))
_FORGET_RANGES = Q(sa.delete(free_range).where(free_range.c.subnet_id == P("id")))
_BUSY = Q(
    sa.select(address.c.port_id)
    .join(port, port.c.id == address.c.port_id)
    .where(
        address.c.subnet_id == P("id"),
        port.c.device_owner != "network:dhcp",
        sa.or_(subnet.c.ipv6_address_mode.is_(None), port.c.device_owner.like("network:router%")),
    )
    .join(subnet, subnet.c.id == address.c.subnet_id)
    .limit(1)
)
_HOLDERS = Q(sa.select(address.c.port_id, address.c.ip).where(address.c.subnet_id == P("id")))
_TOUCH_NETWORK = Q(
    sa.update(network).where(network.c.id == P("id")).values(generation=network.c.generation + 1)
)
_DHCP_PORT = Q(
    sa.select(port).where(port.c.network_id == P("id"), port.c.device_owner == "network:dhcp")
)
_ROUTERS = Q(
    sa.select(port.c.device_id)
    .distinct()
    .join(address, address.c.port_id == port.c.id)
    .join(router, router.c.id == port.c.device_id)
    .where(address.c.subnet_id == P("id"))
)


@dataclass(kw_only=True)
class NewSubnet:
    """A subnet to make. gateway_ip: None for none, "" for the first address. pools: None for all that is left."""

    network_id: str
    project_id: str
    cidr: str
    ip_version: int = 4
    name: str = ""
    description: str = ""
    gateway_ip: str | None = ""
    enable_dhcp: bool = True
    dns_nameservers: list[str] = field(default_factory=list)
    host_routes: list[dict[str, str]] = field(default_factory=list)
    allocation_pools: list[dict[str, str]] | None = None
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None
    dns_publish_fixed_ip: bool = False


def get(tx: Tx, subnet_id: str) -> Row:
    """Return a subnet's row; SubnetNotFound."""
    row = tx.one(FIND, id=subnet_id)
    if row is None:
        raise missing("subnet", subnet_id)
    return row


def _usable(net: IpNetwork) -> Pool:
    first, last = int(net.network_address), int(net.broadcast_address)
    if net.prefixlen >= net.max_prefixlen - 1:
        return first, last
    return (first + 1, last - 1) if net.version == 4 else (first + 1, last)


def _default_pools(net: IpNetwork, gateway: str | None) -> list[dict[str, str]]:
    first, last = _usable(net)
    ranges = [(first, last)]
    if gateway is not None:
        number = int(ipaddress.ip_address(gateway))
        if first <= number <= last:
            ranges = [(first, number - 1), (number + 1, last)]
    return [
        {
            "start": addresses.text_of(a, net.version),
            "end": addresses.text_of(b, net.version),
        }
        for a, b in ranges
        if a <= b
    ]


def _checked_pools(
    net: IpNetwork, pools: list[dict[str, str]], gateway: str | None
) -> list[dict[str, str]]:
    first, last = _usable(net)
    seen: list[tuple[int, int, str]] = []
    out = []
    for p in pools:
        start, end = (
            parse_ip(p["start"], "allocation_pools"),
            parse_ip(p["end"], "allocation_pools"),
        )
        words = f"{start}-{end}"
        if start.version != net.version or end.version != net.version or int(end) < int(start):
            raise Refused("InvalidAllocationPool", f"The allocation pool {words} is not valid.")
        if int(start) < first or int(end) > last:
            raise Refused(
                "OutOfBoundsAllocationPool",
                f"The allocation pool {words} spans beyond the subnet cidr {net}.",
            )
        for a, b, other in seen:
            if int(start) <= b and a <= int(end):
                raise Clash(
                    "OverlappingAllocationPools",
                    f"Found overlapping allocation pools: {other}, {words} for subnet {net}.",
                )
        if gateway is not None and int(start) <= int(ipaddress.ip_address(gateway)) <= int(end):
            raise Clash(
                "GatewayConflictWithAllocationPools",
                f"Gateway ip {gateway} conflicts with allocation pool {words}.",
            )
        seen.append((int(start), int(end), words))
        out.append({"start": str(start), "end": str(end)})
    return out


def _checked_gateway(net: IpNetwork, given: str | None) -> str | None:
    if given is None:
        return None
    if given == "":
        first, last = _usable(net)
        return addresses.text_of(first, net.version) if first <= last else None
    ip = parse_ip(given, "gateway_ip")
    if ip.version != net.version:
        raise invalid(f"gateway_ip '{ip}' does not match the ip_version '{net.version}'")
    inside = ip in net
    first, last = _usable(net)
    if inside and not first <= int(ip) <= last:
        raise invalid("gateway_ip: Gateway is not valid on subnet")
    return str(ip)


def _checked_lists(values: dict[str, Any], version: int) -> None:
    """Put name servers and routes into canonical form; they end up in a DHCP server's files."""
    if "dns_nameservers" in values:
        values["dns_nameservers"] = [
            str(parse_ip(x, "dns_nameservers")) for x in values["dns_nameservers"]
        ]
    routes = []
    for r in values.get("host_routes", []):
        destination = parse_cidr(r["destination"], "host_routes destination")
        hop = parse_ip(r["nexthop"], "host_routes nexthop")
        if destination.version != version or hop.version != version:
            raise invalid(f"host_routes: {destination} does not match the ip_version '{version}'")
        routes.append({"destination": str(destination), "nexthop": str(hop)})
    if "host_routes" in values:
        values["host_routes"] = routes


def make(work: Work, new: NewSubnet) -> str:
    """Make a subnet, its pools and (with DHCP) the address that DHCP answers from; return its id."""
    tx = work.tx
    net = parse_cidr(new.cidr, "cidr")
    if net.version != new.ip_version:
        raise invalid(f"cidr '{new.cidr}' does not match the ip_version '{new.ip_version}'")
    if net.prefixlen == 0 or (net.is_multicast or net.is_loopback or net.is_link_local):
        raise invalid(f"cidr: '{net}' cannot be used for a subnet")
    for other in tx.all(OF_NETWORK, network_id=new.network_id):
        if ipaddress.ip_network(other["cidr"]).overlaps(net):
            raise invalid(
                f"cidr: Requested subnet with cidr: {net} for network: {new.network_id} overlaps with another subnet"
            )
    _checked_modes(new, net)
    gateway = _checked_gateway(net, new.gateway_ip)
    values: dict[str, Any] = {
        "dns_nameservers": new.dns_nameservers,
        "host_routes": new.host_routes,
    }
    _checked_lists(values, net.version)
    pools = (
        _default_pools(net, gateway)
        if new.allocation_pools is None
        else _checked_pools(net, new.allocation_pools, gateway)
    )
    subnet_id = new_uuid()
    tx.put(
        _INSERT,
        id=subnet_id,
        project_id=new.project_id,
        name=new.name,
        description=new.description,
        created_at=work.now,
        updated_at=work.now,
        revision=0,
        network_id=new.network_id,
        ip_version=net.version,
        cidr=str(net),
        gateway_ip=gateway,
        enable_dhcp=int(new.enable_dhcp),
        dns_nameservers=json.dumps(values["dns_nameservers"]),
        host_routes=json.dumps(values["host_routes"]),
        allocation_pools=json.dumps(pools),
        ipv6_address_mode=new.ipv6_address_mode,
        ipv6_ra_mode=new.ipv6_ra_mode,
        dns_publish_fixed_ip=int(new.dns_publish_fixed_ip),
    )
    row = get(tx, subnet_id)
    addresses.lay_out(tx, subnet_id, pools_of(row))
    if new.enable_dhcp:
        _serve_dhcp(work, row)
    _changed(work, row)
    return subnet_id


def _checked_modes(new: NewSubnet, net: IpNetwork) -> None:
    modes = (new.ipv6_ra_mode, new.ipv6_address_mode)
    if new.ip_version == 4 and any(modes):
        raise invalid("ipv6_ra_mode or ipv6_address_mode cannot be set when ip_version is 4")
    if any(modes) and not new.enable_dhcp:
        raise invalid(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False"
        )
    if "slaac" in modes and net.prefixlen != 64:
        raise invalid("cidr: a subnet with SLAAC addresses is a /64")
    if all(modes) and modes[0] != modes[1]:
        raise invalid(
            f"ipv6_ra_mode set to '{modes[0]}' with ipv6_address_mode set to '{modes[1]}' is not valid"
        )


def _changed(work: Work, row: Row) -> None:
    work.tx.put(_TOUCH_NETWORK, id=row["network_id"])
    work.networks.add(row["network_id"])


def _serve_dhcp(work: Work, row: Row) -> None:
    """Give the network's DHCP port an address of this subnet; without a free one, DHCP stays off the subnet."""
    tx = work.tx
    number = addresses.take_lowest(tx, row["id"])
    if number is None:
        return
    found = tx.one(_DHCP_PORT, id=row["network_id"])
    if found is None:
        port_id = ports.make(
            work,
            ports.NewPort(
                project_id=row["project_id"],
                network_id=row["network_id"],
                device_owner="network:dhcp",
                device_id=f"dhcp-{row['network_id']}",
                port_security=False,
                fixed=[],
                groups=[],
                status="ACTIVE",
            ),
        )
    else:
        port_id = found["id"]
    place = addresses.next_place(tx, port_id)
    addresses.record(tx, row["id"], number, row["ip_version"], port_id, place)


def serve_again(work: Work, network_id: str) -> None:
    """Give a network whose DHCP port was deleted another one, with an address of each subnet that wants DHCP."""
    for row in work.tx.all(addresses.OF_NETWORK, network_id=network_id):
        if row["enable_dhcp"]:
            _serve_dhcp(work, row)
            _changed(work, row)


def change(work: Work, row: Row, values: dict[str, Any]) -> None:
    """Change a subnet. ``values``: API attributes, pools and lists as lists."""
    tx = work.tx
    net = ipaddress.ip_network(row["cidr"])
    out = dict(values)
    _checked_lists(out, net.version)
    gateway = row["gateway_ip"]
    if "gateway_ip" in values:
        gateway = _checked_gateway(net, values["gateway_ip"])
        if gateway != row["gateway_ip"] and row["gateway_ip"] is not None:
            _gateway_is_free(tx, row)
        out["gateway_ip"] = gateway
    if "allocation_pools" in values or "gateway_ip" in values:
        pools = values.get("allocation_pools", json.loads(row["allocation_pools"]))
        checked = _checked_pools(net, pools, gateway)
        out["allocation_pools"] = checked
    for name in ("dns_nameservers", "host_routes", "allocation_pools"):
        if name in out:
            out[name] = json.dumps(out[name])
    for name in ("enable_dhcp", "dns_publish_fixed_ip"):
        if name in out:
            out[name] = int(out[name])
    changed(tx, subnet, row["id"], work.now, out)
    fresh = get(tx, row["id"])
    if "allocation_pools" in out:
        addresses.lay_out(tx, row["id"], pools_of(fresh))
    if "enable_dhcp" in out and out["enable_dhcp"] != row["enable_dhcp"]:
        if out["enable_dhcp"]:
            _serve_dhcp(work, fresh)
        else:
            _stop_dhcp(work, fresh)
    _changed(work, fresh)
    for r in tx.all(_ROUTERS, id=row["id"]):
        ports.touch_router(work, r[0])


def _gateway_is_free(tx: Tx, row: Row) -> None:
    number = int(ipaddress.ip_address(row["gateway_ip"]))
    holder = addresses.holder(tx, row["id"], number)
    if holder is not None and ports.get(tx, holder)["device_owner"] == "network:router_interface":
        raise Clash(
            "GatewayIpInUse",
            f"Current gateway ip {row['gateway_ip']} already in use by port {holder}. Unable to update.",
        )


def _stop_dhcp(work: Work, row: Row) -> None:
    found = work.tx.one(_DHCP_PORT, id=row["network_id"])
    if found is None:
        return
    pools = pools_of(row)
    for subnet_id, ip in addresses.of_port(work.tx, found["id"]):
        if subnet_id == row["id"]:
            addresses.release(work.tx, subnet_id, int(ipaddress.ip_address(ip)), pools)
    if not addresses.of_port(work.tx, found["id"]):
        ports.delete(work, found)


def delete(work: Work, row: Row) -> None:
    """Delete a subnet; SubnetInUse while a port other than DHCP's has an address of it."""
    holder = work.tx.one(_BUSY, id=row["id"])
    if holder is not None:
        raise Clash(
            "SubnetInUse",
            f"Unable to complete operation on subnet {row['id']}: One or more ports have an IP allocation from this "
            "subnet.",
        )
    _stop_dhcp(work, row)
    for r in work.tx.all(_HOLDERS, id=row["id"]):  # SLAAC addresses go with their subnet
        addresses.release(work.tx, row["id"], int(ipaddress.ip_address(r["ip"])), [])
        ports.touch(work, r["port_id"])
        work.moves(row["network_id"], moves.ANYTHING)
    _changed(work, row)
    drop(work, row["id"])


def drop(work: Work, subnet_id: str) -> None:
    """Remove a subnet's rows; it has no addresses any more."""
    work.tx.put(_FORGET_RANGES, id=subnet_id)
    forget_tags(work.tx, subnet_id)
    work.tx.put(_DELETE, id=subnet_id)
