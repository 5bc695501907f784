"""The host namespace and the public bridge with NAT and a resolver: what all networks of a cloud stand on."""

import ipaddress
from pathlib import Path

from kilonova.agent.helper import forward, names, nft_rules
from kilonova.agent.helper.protocol import HostUp
from kilonova.agent.helper.run import (
    addresses,
    alive,
    await_pid_file,
    end,
    ensure_namespace,
    ip,
    links,
    nft,
    spawn,
    sysctl,
)
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import public_interface, tunnels
from kilonova.agent.helper.verbs.tunnels import Underlay

DNS_ADDRESS = "fe80::1"


def host_up(settings: Settings, request: HostUp) -> list[str]:
    """Make what is missing; return notes on what was changed on the machine. Repeatable."""
    tag = settings.tag
    if ensure_namespace(names.host_ns(tag)) or "kn-ext" not in links(names.host_ns(tag)):
        _host_namespace(tag)
    public_interface.remember(settings, request.public_interface)
    here = None if request.underlay is None else Underlay(request.underlay, request.underlay_port)
    tunnels.remember(settings, here)
    _dns_link(tag)
    if request.public_interface is not None:
        notes = public_interface.join(settings, request)
        nft(_root_table(tag, request))
    else:
        _root_links(tag, request)
        settings.note_once("ip_forward", Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
        sysctl({"net/ipv4/ip_forward": "1"})
        nft(_root_table(tag, request))
        notes = forward.mend(tag)
    _resolver(settings, request)
    return notes


def _host_namespace(tag: str) -> None:
    ns = names.host_ns(tag)
    sysctl({"net/ipv6/conf/default/disable_ipv6": "1"}, ns, strict=False)
    bridged = {f"net/bridge/bridge-nf-call-{kind}": "1" for kind in ("iptables", "ip6tables")}
    sysctl(bridged, ns)
    # Connections of a guest that moved here are seen from the middle on; each direction is asked like a new one.
    sysctl({"net/netfilter/nf_conntrack_tcp_loose": "1"}, ns, strict=False)
    have = links(ns)
    lines = [
        f"link add {name} type bridge forward_delay 0 stp_state 0"
        for name in (names.EXTERNAL, names.DNS_BRIDGE)
        if name not in have
    ]
    ip([*lines, f"link set {names.EXTERNAL} up", f"link set {names.DNS_BRIDGE} up"], ns)
    nft(nft_rules.CLEAR.format("bridge") + nft_rules.CLEAR.format("inet") + nft_rules.BASE, ns)


def _veth(outer: str, inner: str, ns: str) -> None:
    have, there = links(), links(ns)
    if outer in have and inner in there:
        return
    if outer in have:
        ip([f"link delete {outer}"])
    ip([f"link add {outer} type veth peer name {inner} netns {ns}"])


def _dns_link(tag: str) -> None:
    ns, dns = names.host_ns(tag), names.dns_link(tag)
    _veth(dns, names.DNS_UP, ns)
    ip([f"link set {names.DNS_UP} master {names.DNS_BRIDGE} up"], ns)
    sysctl({f"net/ipv6/conf/{dns}/disable_ipv6": "0"}, strict=False)
    sysctl({f"net/ipv6/conf/{dns}/accept_ra": "0"}, strict=False)
    ip([f"link set {dns} up", f"address replace {DNS_ADDRESS}/64 dev {dns} nodad"])


def _root_links(tag: str, request: HostUp) -> None:
    ns, bridge, uplink = names.host_ns(tag), names.public_bridge(tag), names.uplink(tag)
    if bridge not in links():
        ip([f"link add {bridge} type bridge forward_delay 0 stp_state 0"])
    _veth(uplink, names.EXTERNAL_UP, ns)
    ip([f"link set {names.EXTERNAL_UP} master {names.EXTERNAL} up"], ns)
    network = ipaddress.ip_network(request.public_cidr)
    wanted = f"{request.public_gateway}/{network.prefixlen}"
    stale = addresses(bridge) - {wanted}
    ip([f"address delete {old} dev {bridge}" for old in stale])
    ip(
        [
            f"link set {uplink} master {bridge} up",
            f"link set {bridge} up",
            f"address replace {wanted} dev {bridge}",
        ]
    )


def _root_table(tag: str, request: HostUp) -> str:
    name, bridge, dns = names.table(tag), names.public_bridge(tag), names.dns_link(tag)
    ports = ", ".join(str(port) for port in sorted({53, *request.open_tcp_ports}))
    masquerade = f'ip saddr {request.public_cidr} oifname != "{bridge}" masquerade'
    if request.public_interface is not None:
        masquerade = ""
    return f"""
table inet {name} {{ }}
delete table inet {name}
table inet {name} {{
  chain nat {{
    type nat hook postrouting priority srcnat; policy accept;
    {masquerade}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{dns}" drop
    oifname "{dns}" drop
    iifname "{bridge}" accept
    oifname "{bridge}" accept
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != {{ "{bridge}", "{dns}" }} accept
    ct state established,related accept
    udp dport 53 accept
    tcp dport {{ {ports} }} accept
    meta l4proto {{ 1, 58 }} accept
    drop
  }}
}}
"""


def _resolver(settings: Settings, request: HostUp) -> None:
    directory = settings.runtime("dns")
    pid_file = directory / "pid"
    key = f"{request.public_gateway} {settings.resolv_conf}"
    running, known = alive(pid_file, str(directory)), directory / "key"
    if running is not None:
        if known.exists() and known.read_text() == key:
            return
        end(running)
    known.write_text(key)
    pid_file.unlink(missing_ok=True)
    local = [f"--interface={names.public_bridge(settings.tag)}"]
    pid = spawn(
        [
            "dnsmasq", "--conf-file=/dev/null", "--no-hosts", f"--resolv-file={settings.resolv_conf}",
            *(local if request.public_interface is None else []), "--bind-interfaces",
            f"--interface={names.dns_link(settings.tag)}", "--except-interface=lo",
            f"--pid-file={pid_file}", f"--log-facility={directory / 'log'}", "--cache-size=1000",
            "--keep-in-foreground", f"--user={settings.dns_user}",
        ],
        ns=None,
        log=directory / "out",
    )  # fmt: skip
    await_pid_file(pid, pid_file, directory / "out")
