"""The packet filter of the host namespace as text: pure functions of the typed documents.

How it works (verified recipe): nft cannot match bridge ports in ``inet``, so the bridge family, which sees tap names,
does anti-spoofing and writes a mark (sender's slot in the high half, receiver's in the low half); ``inet``, reached
through br_netfilter, asks the sender's egress chain, then the receiver's ingress chain, with one conntrack zone per
network. Only replies and related packets pass by connection state; packets in a connection's first direction are asked
anew each time, so removing a rule also cuts what it had let in.

Between hosts (verbs/tunnels.py) a packet loses its mark: the sender's host asked its egress chain, the receiver's asks
ingress. DHCP and metadata stay on their host, and no guest advertises itself as a router to guests of another one,
whether it has port security or not: there only a router's own advertisements come without a mark.
"""

import ipaddress
from collections.abc import Iterable, Mapping

from kilonova.agent.helper import names
from kilonova.objects.netstate import GroupState, PortState, RuleState

BASE = """
table bridge kilonova {
  map from_port { type ifname : verdict; }
  map to_port { type ifname : verdict; }
  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname vmap @from_port
    iifname "kn-t*" drop
  }
  chain to_other_hosts {
    ether type ip udp dport { 67, 68 } drop
    ether type ip6 udp dport { 546, 547 } drop
    ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    iifname "kn-x*" oifname "kn-d*" drop
    iifname "kn-d*" oifname "kn-x*" drop
    oifname "kn-x*" meta mark & 0xffff0000 != 0 jump to_other_hosts
    oifname vmap @to_port
    oifname "kn-t*" drop
  }
}
table inet kilonova {
  map zones { typeof iifname : ct zone; }
  map sent_by { type mark : verdict; }
  map sent_to { type mark : verdict; }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    ct zone set iifname map @zones
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    meta mark & 0xffff0000 vmap @sent_by
    meta mark & 0x0000ffff vmap @sent_to
  }
}
"""
CLEAR = "table {0} kilonova {{ }}\ndelete table {0} kilonova\n"
_NUMBERS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
    "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ospf": 89, "vrrp": 112, "pgm": 113,
    "sctp": 132, "udplite": 136,
}  # fmt: skip
_ANY = "0.0.0.0"  # noqa: S104 - the sender of an ARP probe
_UNFILTERED = "0xffff0000"  # the mark of a sender without port security
_WITH_PORTS = {6, 17, 33, 132, 136}


def group_set(group_id: str, version: int) -> str:
    """Return the name of the set with the addresses of a group's members."""
    return f"g{version}_" + group_id.replace("-", "")[:24]


def _plain(port_id: str) -> str:
    return "p" + port_id.replace("-", "")[:11]


def _number(protocol: str, version: int) -> int:
    number = int(protocol) if protocol.isdigit() else _NUMBERS[protocol.lower()]
    return 58 if number == 1 and version == 6 else number


def rule_match(rule: RuleState) -> str:
    """Return the nft match of one allow rule, without its verdict. ValueError if it makes no sense."""
    version = 6 if rule.ethertype == "IPv6" else 4
    family, side = (
        ("ip6" if version == 6 else "ip"),
        ("saddr" if rule.direction == "ingress" else "daddr"),
    )
    words = [f"meta nfproto ipv{version}"]
    if rule.remote_cidr is not None:
        network = ipaddress.ip_network(rule.remote_cidr, strict=False)
        if network.version != version:
            raise ValueError(f"{rule.remote_cidr} is not {rule.ethertype}")
        if network.prefixlen:
            words.append(f"{family} {side} {network}")
    if rule.remote_group is not None:
        words.append(f"{family} {side} @{group_set(rule.remote_group, version)}")
    if rule.protocol is None or rule.protocol.lower() == "any":
        return " ".join(words)
    try:
        number = _number(rule.protocol, version)
    except KeyError as exc:
        raise ValueError(f"unknown protocol {rule.protocol!r}") from exc
    if not 0 <= number <= 255:
        raise ValueError(f"protocol {number}")
    words.append(f"meta l4proto {number}")
    low, high = rule.port_min, rule.port_max
    if number in (1, 58) and low is not None:
        name = "icmp" if number == 1 else "icmpv6"
        words.append(f"{name} type {int(low)}")
        if high is not None:
            words.append(f"{name} code {int(high)}")
    elif number in _WITH_PORTS and (low is not None or high is not None):
        first = int(low if low is not None else high)  # type: ignore[arg-type]
        last = int(high if high is not None else first)
        if (first, last) != (0, 65535):
            words.append(f"th dport {first}-{last}" if last != first else f"th dport {first}")
    return " ".join(words)


def _link_local(mac: str) -> str:
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 2
    high, low = octets[:3], octets[3:]
    full = bytes([0xFE, 0x80, 0, 0, 0, 0, 0, 0, *high, 0xFF, 0xFE, *low])
    return str(ipaddress.IPv6Address(full))


def _owned(port: PortState) -> dict[str, tuple[list[str], list[str]]]:
    """Return mac -> (IPv4, IPv6 addresses or ranges) that the port may send from."""
    owned: dict[str, tuple[list[str], list[str]]] = {port.mac: ([], [_link_local(port.mac)])}
    wanted = [(address, None) for address, _ in port.addresses] + list(port.pairs)
    for text, mac in wanted:
        network = ipaddress.ip_network(text, strict=False)
        v4, v6 = owned.setdefault(mac or port.mac, ([], [_link_local(mac or port.mac)]))
        single = network.prefixlen == network.max_prefixlen
        (v4 if network.version == 4 else v6).append(
            str(network.network_address) if single else str(network)
        )
    return owned


def _set(values: Iterable[str]) -> str:
    networks = [ipaddress.ip_network(value) for value in dict.fromkeys(values)]
    v4 = [n for n in networks if isinstance(n, ipaddress.IPv4Network)]
    v6 = [n for n in networks if isinstance(n, ipaddress.IPv6Network)]
    merged: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
    merged = [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]
    return "{ " + ", ".join(_text(n) for n in merged) + " }"


def _text(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def _from_chain(port: PortState, slot: int) -> list[str]:
    mark = f"meta mark set 0x{slot:04x}0000"
    if not port.port_security:
        return [f"meta mark set {_UNFILTERED}"]
    owned = _owned(port)
    macs = "{ " + ", ".join(owned) + " }"
    out = [mark, f"ether saddr != {macs} drop", f"ether type arp arp saddr ether != {macs} drop"]
    for mac, (v4, _) in owned.items():
        out.append(f"arp saddr ether {mac} arp saddr ip {_set([_ANY, *v4])} accept")
    out += [
        "ether type arp drop",
        "ether type ip udp sport 67 udp dport 68 drop",
        "ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        "ether type ip6 udp sport 547 udp dport 546 drop",
        "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop",
    ]
    for mac, (_, v6) in owned.items():
        for text in v6:
            if "/" not in text:
                target = int(ipaddress.IPv6Address(text))
                out.append(
                    f"ether type ip6 ether saddr {mac} icmpv6 type nd-neighbor-advert"
                    f" @th,64,128 0x{target:032x} accept"
                )
    if not any("/" in text for _, v6 in owned.values() for text in v6):
        out.append("ether type ip6 icmpv6 type nd-neighbor-advert drop")
    for mac, (v4, v6) in owned.items():
        if v4:
            out.append(f"ether type ip ether saddr {mac} ip saddr {_set(v4)} accept")
        out.append(f"ether type ip6 ether saddr {mac} ip6 saddr {_set(['::', *v6])} accept")
    out.append("drop")
    return out


_ND = (
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query,"
    " mld-listener-report, mld2-listener-report } return"
)


def _state_rules() -> list[str]:
    return [
        "ct state related return",
        "ct direction reply ct state established return",
        "ct state invalid drop",
    ]


def _rules(port: PortState, direction: str) -> list[str]:
    matches = (rule_match(rule) for rule in port.rules if rule.direction == direction)
    return [f"{match} return" for match in dict.fromkeys(matches)]


def port_chains(port: PortState, slot: int, dhcp_servers: tuple[str, ...]) -> dict[str, list[str]]:
    """Return chain name ("bridge x", "inet y") -> rules of one port."""
    name = _plain(port.id)
    if not (port.admin_up and port.active):
        return {f"bridge {name}_from": ["drop"], f"bridge {name}_to": ["drop"]}
    low = slot if port.port_security else 0
    chains = {
        f"bridge {name}_from": _from_chain(port, slot),
        f"bridge {name}_to": [f"meta mark set meta mark & 0xffff0000 | 0x{low:x}"],
    }
    if port.port_security:
        dhcp = [
            f"meta mark & 0xffff0000 == 0 {family} saddr {_set(servers)} udp sport {a} udp dport {b} return"
            for family, a, b, servers in (
                ("ip", 67, 68, [s for s in dhcp_servers if ":" not in s]),
                ("ip6", 547, 546, ["fe80::/64", *(s for s in dhcp_servers if ":" in s)]),
            )
            if servers
        ]
        advert = "meta mark & 0xffff0000 == 0 icmpv6 type nd-router-advert return"
        out = ["udp sport 68 udp dport 67 return", "udp sport 546 udp dport 547 return"]
        chains[f"inet {name}_out"] = [
            _ND, "icmpv6 type nd-router-solicit return", *_state_rules(), *out,
            *_rules(port, "egress"), "drop",
        ]  # fmt: skip
        chains[f"inet {name}_in"] = [
            _ND, advert, *dhcp, *_state_rules(), *_rules(port, "ingress"), "drop",
        ]  # fmt: skip
    return chains


def groups_of(port: PortState) -> set[str]:
    """Return the groups whose sets a port's rules name."""
    return {rule.remote_group for rule in port.rules if rule.remote_group is not None}


def port_lines(chains: Mapping[str, list[str]], port_id: str, slot: int) -> list[str]:
    """Return the transaction lines that put a port's chains in force, whether or not they exist."""
    lines: list[str] = []
    for name, rules in chains.items():
        family, chain = name.split()
        lines.append(f"add chain {family} kilonova {chain}")
        lines.append(f"flush chain {family} kilonova {chain}")
        lines += [f"add rule {family} kilonova {chain} {rule}" for rule in rules]
    return lines + port_elements(chains, port_id, slot)


def port_elements(chains: Mapping[str, list[str]], port_id: str, slot: int) -> list[str]:
    tap, plain = names.tap(port_id), _plain(port_id)
    lines = [
        f'add element bridge kilonova from_port {{ "{tap}" : goto {plain}_from }}',
        f'add element bridge kilonova to_port {{ "{tap}" : goto {plain}_to }}',
    ]
    if f"inet {plain}_out" in chains:
        lines.append(f"add element inet kilonova sent_by {{ 0x{slot:04x}0000 : jump {plain}_out }}")
        lines.append(f"add element inet kilonova sent_to {{ 0x{slot:x} : jump {plain}_in }}")
    return lines


def port_removal(chains: Iterable[str], port_id: str, slot: int) -> list[str]:
    """Return the lines that remove a port; ``chains``: the names that are in force."""
    tap, plain, have = names.tap(port_id), _plain(port_id), set(chains)
    lines = [
        f'delete element bridge kilonova from_port {{ "{tap}" }}',
        f'delete element bridge kilonova to_port {{ "{tap}" }}',
    ]
    if f"inet {plain}_out" in have:
        lines.append(f"delete element inet kilonova sent_by {{ 0x{slot:04x}0000 }}")
        lines.append(f"delete element inet kilonova sent_to {{ 0x{slot:x} }}")
    for name in have:
        family, chain = name.split()
        lines.append(f"delete chain {family} kilonova {chain}")
    return lines


def group_lines(group: GroupState | str) -> list[str]:
    """Return the lines that put a group's sets in force; an id alone makes empty sets if there are none."""
    lines: list[str] = []
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        name = group_set(group if isinstance(group, str) else group.id, version)
        lines.append(f"add set inet kilonova {name} {{ type {kind}; flags interval; auto-merge; }}")
        if isinstance(group, str):
            continue
        lines.append(f"flush set inet kilonova {name}")
        members = group.ipv4 if version == 4 else group.ipv6
        if members:
            lines.append(f"add element inet kilonova {name} {_set(members)}")
    return lines


def group_removal(group_id: str) -> list[str]:
    """Return the lines that remove a group's sets; no rule may name them any more."""
    return [f"delete set inet kilonova {group_set(group_id, version)}" for version in (4, 6)]


def zone_line(network_id: str, zone: int) -> str:
    return f'add element inet kilonova zones {{ "{names.bridge(network_id)}" : {zone} }}'
