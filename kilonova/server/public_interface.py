"""What ``--public-interface`` and ``--public-pool`` mean on this machine: network, gateway, free addresses."""

import ipaddress
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.agent.helper.run import CommandFailed, run
from kilonova.common.errors import KilonovaError


class PublicInterfaceRefused(KilonovaError):
    """The options do not fit the machine; the message says what does."""

    code = "public_interface_refused"


@dataclass(frozen=True)
class Public:
    """The public network. pool: first and last floating address."""

    interface: str
    cidr: str
    gateway: str
    pool: tuple[str, str]


def find(interface: str, pool: str, cidr: str | None) -> Public:
    """Look at the interface; raise PublicInterfaceRefused in words. Touches nothing.

    cidr: of the network, when the interface has no address to tell it by; its gateway is then the first address.
    """
    own = _addresses(interface)
    first, last = _pool(pool)
    network = ipaddress.IPv4Network(cidr) if cidr else _network_of(interface, own, first)
    if first not in network or last not in network:
        raise PublicInterfaceRefused(
            f"--public-pool {pool} is not inside {network}, the network of {interface}."
        )
    gateway = _gateway(interface, network)
    mine = {i.ip for i in _addresses(None)} | {gateway, network.network_address}
    taken = sorted(str(a) for a in mine | {network.broadcast_address} if first <= a <= last)
    if taken:
        raise PublicInterfaceRefused(
            f"--public-pool {pool} holds {', '.join(taken)}, in use by this machine or its network."
        )
    return Public(interface, str(network), str(gateway), (str(first), str(last)))


def _pool(text: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    begin, dash, end = text.partition("-")
    try:
        first, last = ipaddress.IPv4Address(begin.strip()), ipaddress.IPv4Address(end.strip())
    except ValueError:
        dash = ""
    if not dash or first > last:
        raise PublicInterfaceRefused(
            f"--public-pool is two IPv4 addresses with a dash between, lower one first, not {text!r}."
        )
    return first, last


def _network_of(
    interface: str, own: list[ipaddress.IPv4Interface], first: ipaddress.IPv4Address
) -> ipaddress.IPv4Network:
    for one in own:
        if first in one.network:
            return one.network
    said = ", ".join(str(o) for o in own) or "no address"
    raise PublicInterfaceRefused(
        f"{interface} has {said}: say in which network the pool is with --public-cidr."
    )


def _gateway(interface: str, network: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    for route in _ask(["ip", "-j", "-4", "route", "show", "default"]):
        via = route.get("gateway")
        if route.get("dev") == interface and via and ipaddress.IPv4Address(via) in network:
            return ipaddress.IPv4Address(via)
    return network.network_address + 1


def _addresses(interface: str | None) -> list[ipaddress.IPv4Interface]:
    where = [] if interface is None else ["dev", interface]
    try:
        found = _ask(["ip", "-j", "-4", "address", "show", *where])
    except CommandFailed as exc:
        raise PublicInterfaceRefused(f"There is no interface {interface}.") from exc
    return [
        ipaddress.IPv4Interface(f"{a['local']}/{a['prefixlen']}")
        for link in found
        for a in link.get("addr_info", ())
        if "local" in a
    ]


def _ask(command: list[str]) -> list[Any]:
    return msgspec.json.decode(run(command) or "[]", type=list[Any])
