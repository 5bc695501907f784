"""DHCP and the metadata address of one network: a namespace with dnsmasq on a veth into the network's bridge.

source: dnsmasq(8), --dhcp-host, --dhcp-optsfile; SIGHUP reads both again and keeps the leases.
"""

import hashlib
import ipaddress
import os
import pwd
import signal
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.run import (
    addresses,
    alive,
    await_pid_file,
    drop_namespace,
    end,
    ensure_namespace,
    ip,
    ip_try,
    links,
    nft,
    run,
    spawn,
    sysctl,
)
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.validate import host_label
from kilonova.agent.helper.verbs.host import DNS_ADDRESS
from kilonova.objects.netstate import ForwardingEntry, NetworkState, PortState, SubnetState

METADATA = "169.254.169.254"
LEASE = "86400s"
_FILTER = """
table inet kilonova { }
delete table inet kilonova
table inet kilonova {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto { 1, 58 } accept
    iifname "dns0" drop
    udp dport { 53, 67, 547 } accept
    tcp dport 53 accept
    ip daddr 169.254.169.254 tcp dport 80 accept
  }
}
"""


def served(network: NetworkState) -> list[SubnetState]:
    """Return the subnets for which this network has a DHCP address."""
    return [s for s in network.subnets if s.dhcp_server is not None]


def _last(address: str) -> tuple[bool, str]:
    return address.startswith(METADATA), address


def _mac(network_id: str) -> str:
    digest = hashlib.sha256(network_id.encode()).hexdigest()
    return "fa:16:3f:" + ":".join(digest[i : i + 2] for i in (0, 2, 4))


def ensure(settings: Settings, network: NetworkState, ports: Iterable[PortState]) -> None:
    """Make namespace, veth, addresses and dnsmasq as the network says; restart dnsmasq only where it must."""
    subnets = served(network)
    if not subnets:
        remove(settings, network.id)
        return
    _namespace(settings.tag, network, subnets)
    _daemon(settings, network, [s for s in subnets if s.enable_dhcp], list(ports))


def _namespace(tag: str, network: NetworkState, subnets: list[SubnetState]) -> None:
    host, ns = names.host_ns(tag), names.dhcp_ns(tag, network.id)
    outer, dns = names.dhcp_link(network.id), names.dhcp_dns_link(network.id)
    fresh = ensure_namespace(ns)
    inner = links(ns)
    if fresh or "dhcp0" not in inner:
        sysctl({"net/ipv6/conf/default/accept_dad": "0"}, ns, strict=False)
        sysctl({"net/ipv6/conf/default/accept_ra": "0"}, ns, strict=False)
        nft(_FILTER, ns)
        for link in (outer, dns):
            ip_try(f"link delete {link}", host)
        ip(
            [
                f"link add {outer} type veth peer name dhcp0 netns {ns}",
                f"link add {dns} type veth peer name dns0 netns {ns}",
                f"link set {dns} master {names.DNS_BRIDGE} up",
                f"link set {dns} type bridge_slave isolated on",
            ],
            host,
        )
        ip([f"link set dhcp0 address {_mac(network.id)}", "link set dns0 up"], ns)
    ip([f"link set {outer} mtu {network.mtu} master {names.bridge(network.id)} up"], host)
    wanted = {f"{METADATA}/32"}
    for subnet in subnets:
        prefix = ipaddress.ip_network(subnet.cidr, strict=False).prefixlen
        wanted.add(f"{subnet.dhcp_server}/{prefix}")
    have = addresses("dhcp0", ns)
    ip(
        [
            f"link set dhcp0 mtu {network.mtu} up",
            *(f"address delete {old} dev dhcp0" for old in have - wanted),
            # the first one is what broadcasts are sent from: not the metadata address
            *(f"address add {new} dev dhcp0" for new in sorted(wanted - have, key=_last)),
        ],
        ns,
    )


# -- dnsmasq -----------------------------------------------------------------------------------------------------


@cache
def _option_names() -> frozenset[str]:
    words = run(["dnsmasq", "--help", "dhcp"]).split()
    return frozenset(word for word in words if not word.isdigit())


def _hosts(ports: list[PortState], subnets: list[SubnetState]) -> list[str]:
    ids = {s.id for s in subnets}
    lines = []
    for port in sorted(ports, key=lambda p: p.id):
        label = host_label(port.hostname) if port.hostname else None
        for address, subnet in port.addresses:
            if subnet not in ids:
                continue
            shown = f"[{address}]" if ":" in address else address
            name = label or "host-" + address.replace(".", "-").replace(":", "-")
            lines.append(f"{port.mac},set:p{port.id.replace('-', '')},{shown},{name}")
    return lines


def _options(
    network: NetworkState, ports: list[PortState], subnets: list[SubnetState]
) -> list[str]:
    lines: list[str] = []
    for i, subnet in enumerate(subnets):
        if ":" in subnet.cidr:
            servers = ",".join(f"[{s}]" for s in subnet.dns or (subnet.dhcp_server or "",))
            lines.append(f"tag:s{i},option6:dns-server,{servers}")
            continue
        routes = [(f"{METADATA}/32", subnet.dhcp_server or ""), *subnet.routes]
        if subnet.gateway is not None:
            routes.append(("0.0.0.0/0", subnet.gateway))
            lines.append(f"tag:s{i},option:router,{subnet.gateway}")
        else:
            lines.append(f"tag:s{i},option:router")
        joined = ",".join(f"{destination},{hop}" for destination, hop in routes)
        lines.append(f"tag:s{i},option:classless-static-route,{joined}")
        lines.append(f"tag:s{i},249,{joined}")
        lines.append(
            f"tag:s{i},option:dns-server,{','.join(subnet.dns or (subnet.dhcp_server or '',))}"
        )
        lines.append(f"tag:s{i},option:mtu,{network.mtu}")
        if network.dns_domain:
            lines.append(f"tag:s{i},option:domain-name,{network.dns_domain.rstrip('.')}")
    for port in sorted(ports, key=lambda p: p.id):
        for name, value in port.dhcp_options:
            tag = f"tag:p{port.id.replace('-', '')}"
            if name.isdigit() and 0 < int(name) < 255:
                lines.append(f"{tag},{name},{value}")
            elif name in _option_names():
                lines.append(f"{tag},option:{name},{value}")
    return lines


def _named(network: NetworkState, entries: Iterable[ForwardingEntry]) -> list[str]:
    """Return lines of addresses with their names: of guests on every host of the network."""
    domain = network.dns_domain.rstrip(".")
    lines = []
    for entry in entries:
        label = host_label(entry.hostname) if entry.hostname else None
        for address in entry.addresses if label is not None else ():
            full = f"{label}.{domain} " if domain else ""
            lines.append(f"{address} {full}{label}")
    return sorted(lines)


def tell_names(
    settings: Settings, network: NetworkState, entries: Iterable[ForwardingEntry]
) -> bool:
    """Let guests find each other by name across hosts; False where no dnsmasq runs."""
    directory = settings.runtime_root / "net" / network.id
    running = alive(directory / "pid", str(directory))
    if running is not None and _write(directory / "names", _named(network, entries)):
        os.kill(running, signal.SIGHUP)
    return running is not None


def add_names(
    settings: Settings, network: NetworkState, entries: Iterable[ForwardingEntry]
) -> bool:
    """Add names of new guests to those that were told; False where no dnsmasq runs."""
    directory = settings.runtime_root / "net" / network.id
    running = alive(directory / "pid", str(directory))
    lines = _named(network, entries)
    if running is None or not (directory / "names").exists():
        return False
    if lines:
        with (directory / "names").open("a") as file:
            file.write("".join(line + "\n" for line in lines))
        os.kill(running, signal.SIGHUP)
    return True


def _arguments(directory: Path, network: NetworkState, subnets: list[SubnetState]) -> list[str]:
    arguments = [
        "dnsmasq", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--interface=dhcp0",
        "--bind-interfaces", "--except-interface=lo", "--dhcp-authoritative", "--no-ping",
        f"--server={DNS_ADDRESS}%dns0", f"--dhcp-hostsfile={directory / 'hosts'}",
        f"--dhcp-optsfile={directory / 'options'}", f"--dhcp-leasefile={directory / 'leases'}",
        f"--addn-hosts={directory / 'names'}",
        f"--pid-file={directory / 'pid'}", f"--log-facility={directory / 'log'}",
        "--dhcp-lease-max=65536", "--keep-in-foreground", "--bogus-priv", "--dhcp-ignore=tag:!known",
    ]  # fmt: skip
    if network.dns_domain:
        domain = network.dns_domain.rstrip(".")
        arguments += [f"--domain={domain}", f"--local=/{domain}/"]
    for i, subnet in enumerate(subnets):
        cidr = ipaddress.ip_network(subnet.cidr, strict=False)
        if cidr.version == 4:
            span = f"{cidr.network_address},static,{cidr.netmask},{LEASE}"
        else:
            span = f"{cidr.network_address},static,{cidr.prefixlen},{LEASE}"
        arguments.append(f"--dhcp-range=set:s{i},{span}")
    return arguments


def _write(path: Path, lines: list[str]) -> bool:
    """Write lines if they differ; tell whether they did."""
    text = "".join(line + "\n" for line in lines)
    if path.exists() and path.read_text() == text:
        return False
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    os.chmod(scratch, 0o644)
    os.replace(scratch, path)
    return True


def _daemon(
    settings: Settings, network: NetworkState, subnets: list[SubnetState], ports: list[PortState]
) -> None:
    directory = settings.runtime("net", network.id)
    user = settings.dns_user
    owner = pwd.getpwnam(user)
    os.chown(directory, owner.pw_uid, owner.pw_gid)
    running = alive(directory / "pid", str(directory))
    if not subnets:
        if running is not None:
            end(running)
        return
    hosts = _hosts(ports, subnets)
    arguments = [*_arguments(directory, network, subnets), f"--user={user}"]
    changed = _write(directory / "hosts", hosts)
    changed |= _write(directory / "options", _options(network, ports, subnets))
    anew = _write(directory / "arguments", arguments) or running is None
    if not (directory / "names").exists():
        _write(directory / "names", [])
    freed = _stale(directory / "leases", hosts)
    if running is not None and (anew or freed):
        end(running)
    if freed:
        _forget(directory / "leases", freed)
    if anew or freed:
        ns = names.dhcp_ns(settings.tag, network.id)
        (directory / "pid").unlink(missing_ok=True)
        pid = spawn(arguments, ns=ns, log=directory / "out")
        await_pid_file(pid, directory / "pid", directory / "out")
    elif changed and running is not None:
        os.kill(running, signal.SIGHUP)


def _stale(leases: Path, hosts: list[str]) -> set[str]:
    """Return leased addresses that belong to another MAC, or to nobody, now: dnsmasq would not give them out."""
    if not leases.exists():
        return set()
    owners = {}
    for line in hosts:
        mac, _, address, _ = line.split(",")
        owners[address.strip("[]")] = mac
    stale = set()
    for line in leases.read_text().splitlines():
        words = line.split()
        if len(words) >= 4 and ":" not in words[2] and owners.get(words[2]) != words[1]:
            stale.add(words[2])
    return stale


def _forget(leases: Path, stale: set[str]) -> None:
    lines = leases.read_text().splitlines(keepends=True)
    leases.write_text("".join(line for line in lines if (line.split() + [""] * 3)[2] not in stale))


def remove(settings: Settings, network_id: str) -> None:
    """End dnsmasq and remove the namespace and its files; fine when there is none."""
    directory = settings.runtime_root / "net" / network_id
    running = alive(directory / "pid", str(directory))
    if running is not None:
        end(running)
    for link in (names.dhcp_link(network_id), names.dhcp_dns_link(network_id)):
        ip_try(f"link delete {link}", names.host_ns(settings.tag))
    drop_namespace(names.dhcp_ns(settings.tag, network_id))
    if directory.is_dir():
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
