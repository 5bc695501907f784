"""A network between hosts: one VXLAN link in its bridge, with the entries that the control plane knows.

The link lives in the host namespace; its packets go through the namespace that the helper itself stands in (the
machine's own), where the underlay address is. Nothing is learned: where a MAC lives is a static entry, so that unknown
unicast goes nowhere; the bridge answers ARP for known addresses itself. Other broadcast and multicast (IPv6 neighbour
discovery, router advertisements, VRRP) is copied to the hosts that have the network, DHCP and metadata never.

source: ip-link(8) vxlan and bridge_slave, bridge(8) fdb; Linux br_arp_nd_proxy.c (a reply needs a neighbour entry on
the bridge and an entry of its MAC at a port with neigh_suppress).
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

import msgspec

from kilonova.agent.helper import names
from kilonova.agent.helper.run import CommandFailed, bridge, ip, ip_try, links, run
from kilonova.agent.helper.settings import Settings
from kilonova.common.errors import KilonovaError
from kilonova.objects.netstate import ForwardingEntry, ForwardingState, NetworkState

NOBODY = "00:00:00:00:00:00"  # the entry that broadcast and multicast are copied by
OVERHEAD = {
    4: 50,
    6: 70,
}  # bytes that VXLAN puts before a guest's packet, by the underlay's IP version
Difference = tuple[ForwardingEntry | None, ForwardingEntry | None]  # what was, what is
_SLAVE = "learning off neigh_suppress on flood off mcast_flood on bcast_flood on"


class UnderlayRefused(KilonovaError):
    """Tunnels cannot end at this address; the message says why."""

    code = "underlay_refused"


class Underlay(msgspec.Struct, frozen=True):
    """Where this host's tunnels end: an address of this machine, and the UDP port of every host of the cloud."""

    address: str
    port: int = 4789


def remember(settings: Settings, underlay: Underlay | None) -> None:
    """Keep the underlay for every network from now on."""
    path = settings.directory("net") / "underlay"
    if underlay is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(msgspec.json.encode(underlay))


def underlay_of(settings: Settings) -> Underlay | None:
    """Return the underlay, None on a host that is alone."""
    path = settings.directory("net") / "underlay"
    return msgspec.json.decode(path.read_bytes(), type=Underlay) if path.exists() else None


def _has(address: str) -> bool:
    found: list[dict[str, Any]] = msgspec.json.decode(run(["ip", "-j", "address", "show"]))
    wanted = ipaddress.ip_address(address)
    held = (a["local"] for link in found for a in link.get("addr_info", ()) if "local" in a)
    return any(ipaddress.ip_address(a) == wanted for a in held)


def guard(settings: Settings, peers: Iterable[str]) -> str:
    """Return the table that lets only these hosts send to the tunnels of this one; on a host that is alone, none.

    A guest's packet to another host's tunnels would leave with this host's own address: it is dropped here.
    """
    underlay = underlay_of(settings)
    name = names.underlay_table(settings.tag)
    anew = f"table inet {name} {{ }}\ndelete table inet {name}\n"
    if underlay is None:
        return anew
    version = ipaddress.ip_address(underlay.address).version
    kind, family = ("ipv4_addr", "ip") if version == 4 else ("ipv6_addr", "ip6")
    others = sorted(p for p in peers if ipaddress.ip_address(p).version == version)
    elements = f"elements = {{ {', '.join(others)} }}" if others else ""
    return f"""{anew}
table inet {name} {{
  set hosts {{
    type {kind}
    {elements}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    {family} daddr {underlay.address} udp dport {underlay.port} {family} saddr != @hosts drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{names.public_bridge(settings.tag)}" {family} daddr @hosts udp dport {underlay.port} drop
  }}
}}
"""


def ensure(tag: str, underlay: Underlay, forwarding: ForwardingState) -> None:
    """Compare a network's forwarding and neighbour entries with all that should be; what stays is not touched."""
    away = [e for e in forwarding.entries if e.underlay != underlay.address]
    ns, link = names.host_ns(tag), names.tunnel(forwarding.id)
    wanted: set[tuple[str, str]] = {(e.mac, e.underlay) for e in away}
    wanted |= {(NOBODY, peer) for peer in forwarding.peers if peer != underlay.address}
    _forward(ns, link, wanted)
    neighbours = {a: e.mac for e in away for a in _ipv4(e)}
    _answer(ns, names.bridge(forwarding.id), neighbours)


def change(
    tag: str,
    underlay: Underlay,
    network_id: str,
    differences: Iterable[Difference],
    peers: tuple[set[str], set[str]],
) -> None:
    """Change entries from what was to what is, and peers likewise, without a look at the others.

    Raises CommandFailed where the kernel has something else than what was: then compare all.
    """
    ns, device, link = names.host_ns(tag), names.bridge(network_id), names.tunnel(network_id)
    own = underlay.address
    gone: set[str] = set()
    news: dict[str, str] = {}
    lines = []
    for before, after in differences:
        old = before if before is not None and before.underlay != own else None
        new = after if after is not None and after.underlay != own else None
        gone |= set(_ipv4(old)) if old is not None else set()
        news |= dict.fromkeys(_ipv4(new), new.mac) if new is not None else {}
        if old is not None and new is None:
            lines.append(f"fdb del {old.mac} dev {link} dst {old.underlay} self")
            lines.append(f"fdb del {old.mac} dev {link} master")
        if new is not None and (old is None or old.underlay != new.underlay):
            lines.append(f"fdb replace {new.mac} dev {link} dst {new.underlay} self static")
        if new is not None and old is None:
            lines.append(f"fdb replace {new.mac} dev {link} master static sticky")
    were, are = (p - {own} for p in peers)
    lines += [f"fdb del {NOBODY} dev {link} dst {p} self" for p in sorted(were - are)]
    lines += [f"fdb append {NOBODY} dev {link} dst {p} self permanent" for p in sorted(are - were)]
    bridge(lines, ns)
    told = [f"neigh del {a} dev {device}" for a in sorted(gone - news.keys())]
    told += [
        f"neigh replace {a} lladdr {mac} dev {device} nud permanent"
        for a, mac in sorted(news.items())
    ]
    ip(told, ns)


def _ipv4(entry: ForwardingEntry) -> list[str]:
    return [a for a in entry.addresses if ipaddress.ip_address(a).version == 4]


def link(tag: str, network: NetworkState, underlay: Underlay) -> bool:
    """Make a network's link in its bridge; tell whether it is new, without any entry.

    UnderlayRefused when a link is to be made and this machine has no such address.
    """
    ns, device = names.host_ns(tag), names.tunnel(network.id)
    have = _details(ns, device)
    wanted = {"id": network.segment, "local": underlay.address, "port": underlay.port}
    if ":" in underlay.address:
        wanted["local6"] = wanted.pop("local")
    if have is not None and any(have.get(k) != v for k, v in wanted.items()):
        ip([f"link delete {device}"], ns)
        have = None
    if have is None:
        if not _has(underlay.address):
            raise UnderlayRefused(
                f"The underlay_ip {underlay.address} is no address of this machine."
            )
        run(
            [
                "ip", "link", "add", "name", device, "netns", ns, "type", "vxlan",
                "id", str(network.segment), "local", underlay.address,
                "dstport", str(underlay.port), "nolearning", "ttl", "64",
            ]
        )  # fmt: skip
    ip(
        [
            f"link set {device} mtu {network.mtu} master {names.bridge(network.id)}",
            f"link set {device} type bridge_slave {_SLAVE}",
            f"link set {device} up",
        ],
        ns,
    )
    return have is None


def _details(ns: str, link: str) -> dict[str, Any] | None:
    """Return what kind of tunnel a link is, or None."""
    try:
        text = run(["ip", "-d", "-j", "link", "show", "dev", link], ns=ns)
    except CommandFailed:
        return None
    found: list[dict[str, Any]] = msgspec.json.decode(text)
    data: dict[str, Any] = found[0].get("linkinfo", {}).get("info_data", {})
    return data


def _forward(ns: str, link: str, wanted: set[tuple[str, str]]) -> None:
    """Make the entries (MAC, underlay address of its host) exactly these, in the tunnel and in the bridge."""
    rows: list[dict[str, Any]] = msgspec.json.decode(
        run(["bridge", "-j", "fdb", "show", "dev", link], ns=ns)
    )
    tunnel = {(r["mac"], r["dst"]) for r in rows if "self" in r["flags"] and "dst" in r}
    bridged = {r["mac"] for r in rows if "master" in r and r.get("state") == "static"}
    macs = {mac for mac, _ in wanted if mac != NOBODY}
    lines = [
        f"fdb del {mac} dev {link} dst {dst} self"
        for mac, dst in sorted(tunnel - wanted)
        if mac not in macs  # one that moved is replaced, so that it is never without an entry
    ]
    lines += [f"fdb del {mac} dev {link} master" for mac in sorted(bridged - macs)]
    for mac, dst in sorted(wanted - tunnel):
        verb, state = ("append", "permanent") if mac == NOBODY else ("replace", "static")
        lines.append(f"fdb {verb} {mac} dev {link} dst {dst} self {state}")
    lines += [
        f"fdb replace {mac} dev {link} master static sticky" for mac in sorted(macs - bridged)
    ]
    bridge(lines, ns)


def _answer(ns: str, device: str, wanted: dict[str, str]) -> None:
    """Make the bridge's neighbour entries (address -> MAC) exactly these."""
    rows: list[dict[str, Any]] = msgspec.json.decode(
        run(["ip", "-j", "neigh", "show", "dev", device, "nud", "permanent"], ns=ns)
    )
    have = {r["dst"]: r.get("lladdr") for r in rows if ":" not in r["dst"]}
    lines = [f"neigh del {a} dev {device}" for a in sorted(have.keys() - wanted.keys())]
    lines += [
        f"neigh replace {a} lladdr {mac} dev {device} nud permanent"
        for a, mac in sorted(wanted.items())
        if have.get(a) != mac
    ]
    ip(lines, ns)


def remove(tag: str, network_id: str) -> None:
    """Remove a network's tunnel; fine when there is none."""
    ns, link, device = names.host_ns(tag), names.tunnel(network_id), names.bridge(network_id)
    have = links(ns)
    if link in have:
        ip_try(f"link delete {link}", ns)
        if device in have:
            _answer(ns, device, {})
