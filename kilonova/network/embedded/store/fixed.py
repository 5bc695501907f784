"""Which addresses a port gets: those asked for, or one of each family."""

import ipaddress
import json
from dataclasses import dataclass

from kilonova.db.engine import Row, Tx
from kilonova.network.embedded.faults import Clash, Refused, invalid
from kilonova.network.embedded.store import addresses
from kilonova.network.embedded.store.addresses import OF_NETWORK
from kilonova.network.embedded.store.common import IpAddress, parse_ip

SLAAC = ("slaac", "dhcpv6-stateless")


@dataclass(frozen=True)
class FixedRequest:
    """One entry of fixed_ips: an address, a subnet, or both."""

    subnet_id: str | None = None
    ip: str | None = None


def eui64(cidr: str, mac: str) -> int:
    """Return the address that a host with this MAC makes for itself in an IPv6 /64."""
    b = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([b[0] ^ 2, b[1], b[2], 0xFF, 0xFE, b[3], b[4], b[5]])
    return int(ipaddress.ip_network(cidr).network_address) | int.from_bytes(tail, "big")


def choose(
    tx: Tx,
    network_id: str,
    requested: list[FixedRequest] | None,
    mac: str,
    *,
    router: bool = False,
) -> list[tuple[Row, int]]:
    """Take addresses out of the free ranges and return (subnet, number) for each; record() must follow.

    None: one IPv4 address and one of each IPv6 kind; a network without subnets gives none.
    """
    subnets = tx.all(OF_NETWORK, network_id=network_id)
    if requested is None:
        return _unasked(tx, network_id, subnets, mac)
    taken: list[tuple[Row, int]] = []
    for r in requested:
        taken.append(_asked(tx, network_id, subnets, r, mac, taken, router))
    return taken


def _unasked(tx: Tx, network_id: str, subnets: list[Row], mac: str) -> list[tuple[Row, int]]:
    taken: list[tuple[Row, int]] = []
    for version in (4, 6):
        mine = [s for s in subnets if s["ip_version"] == version]
        pooled = [s for s in mine if s["ipv6_address_mode"] not in SLAAC]
        for s in pooled:
            number = addresses.take_lowest(tx, s["id"])
            if number is not None:
                taken.append((s, number))
                break
        else:
            if pooled:
                raise exhausted(network_id)
        taken += [(s, _own(tx, s, mac)) for s in mine if s["ipv6_address_mode"] in SLAAC]
    return taken


def _own(tx: Tx, s: Row, mac: str) -> int:
    number = eui64(s["cidr"], mac)
    if addresses.holder(tx, s["id"], number) is not None:
        raise _taken(addresses.text_of(number, 6), s["id"])
    addresses.take_exact(tx, s["id"], number)
    return number


def _taken(ip: str, subnet_id: str) -> Clash:
    return Clash(
        "IpAddressAlreadyAllocated", f"IP address {ip} already allocated in subnet {subnet_id}"
    )


def exhausted(network_id: str) -> Clash:
    """Return Neutron's refusal when a network has no address left."""
    return Clash(
        "IpAddressGenerationFailure", f"No more IP addresses available on network {network_id}."
    )


def _asked(
    tx: Tx,
    network_id: str,
    subnets: list[Row],
    r: FixedRequest,
    mac: str,
    taken: list[tuple[Row, int]],
    router: bool,
) -> tuple[Row, int]:
    ip = parse_ip(r.ip, "fixed_ips ip_address") if r.ip is not None else None
    s = _subnet_for(network_id, subnets, r.subnet_id, ip)
    if ip is None:
        if s["ipv6_address_mode"] in SLAAC and not router:
            return s, _own(tx, s, mac)
        number = addresses.take_lowest(tx, s["id"])
        if number is None:
            raise exhausted(network_id)
        return s, number
    number = int(ip)
    if addresses.holder(tx, s["id"], number) is not None or (s["id"], number) in [
        (t["id"], n) for t, n in taken
    ]:
        raise _taken(str(ip), s["id"])
    addresses.take_exact(tx, s["id"], number)
    return s, number


def _subnet_for(
    network_id: str, subnets: list[Row], subnet_id: str | None, ip: IpAddress | None
) -> Row:
    if subnet_id is not None:
        found = next((s for s in subnets if s["id"] == subnet_id), None)
        if found is None:
            raise invalid(
                f"fixed_ips: Failed to create port on network {network_id}, because fixed_ips included invalid subnet "
                f"{subnet_id}"
            )
        if ip is not None and not _inside(found, ip):
            raise Refused(
                "InvalidIpForSubnet", f"IP address {ip} is not a valid IP for the specified subnet."
            )
        return found
    if ip is None:
        raise invalid("fixed_ips: IP allocation requires subnet_id or ip_address")
    for s in subnets:
        if _inside(s, ip):
            return s
    raise Refused(
        "InvalidIpForNetwork",
        f"IP address {ip} is not a valid IP for any of the subnets on the specified network.",
    )


def _inside(s: Row, ip: IpAddress) -> bool:
    net = ipaddress.ip_network(s["cidr"])
    if ip.version != net.version or ip not in net:
        return False
    if net.prefixlen >= net.max_prefixlen - 1:
        return True
    ends = (
        (net.network_address, net.broadcast_address) if net.version == 4 else (net.network_address,)
    )
    return ip not in ends


def record(
    tx: Tx, port_id: str, taken: list[tuple[Row, int]], place: int = 0
) -> list[tuple[str, str]]:
    """Write chosen addresses down for a port; return (subnet id, ip)."""
    return [
        (s["id"], addresses.record(tx, s["id"], n, s["ip_version"], port_id, place + i))
        for i, (s, n) in enumerate(taken)
    ]


def release(tx: Tx, held: Row) -> None:
    """Give one address back. held: a row of ``addresses.WITH_POOLS``."""
    number = int(ipaddress.ip_address(held["ip"]))
    addresses.release(tx, held["subnet_id"], number, addresses.pools_of(held))


def pool_size(row: Row) -> int:
    """Return how many addresses the pools hold."""
    return sum(b - a + 1 for a, b in addresses.pools_of(row))


def decode(text: str) -> list[dict[str, str]]:
    """Read a JSON list of objects from a column."""
    out: list[dict[str, str]] = json.loads(text)
    return out
