"""Networks across hosts in the kernel: two hosts as network namespaces on one underlay, guests as namespaces.

Each "machine" is a namespace with an underlay address; a root helper stands in each. What a guest sends to another
host is seen on the underlay by a raw socket.
"""

import contextlib
import os
import secrets
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.agent.helper import names
from kilonova.agent.helper.run import drop_namespace, ensure_namespace, inside, ip, run
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.agent.network.applier import RealHostNetwork
from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import SYSTEM
from kilonova.common.context import service_context
from kilonova.common.ids import new_uuid
from kilonova.db.sqlite import SqliteDatabase
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.schema import router as router_table
from kilonova.network.embedded.seed import seed
from kilonova.network.embedded.store import floating, groups, networks
from kilonova.objects.netstate import (
    Advert,
    Change,
    Document,
    ForwardingEntry,
    ForwardingState,
    PortState,
    RuleState,
)
from kilonova.objects.port import BoundPort
from tests.real.netcloud import ANY_OUT, ANY_OUT6, Cloud, Net, routed
from tests.real.netguest import Guest, Helper, missing, resolve, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
ANY_IN = RuleState(direction="ingress", ethertype="IPv4")
ANY_IN6 = RuleState(direction="ingress", ethertype="IPv6")
OPEN = (ANY_OUT, ANY_OUT6, ANY_IN, ANY_IN6)
A, B = "10.66.0.1", "10.66.0.2"
UDP, VXLAN_HEADER = 17, 8


class Underlay:
    """Every inner Ethernet frame that arrives at one machine's underlay address."""

    def __init__(self, machine: str) -> None:
        self.frames: list[bytes] = []
        make = lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, UDP)  # noqa: E731
        self._sock = inside(machine, make)
        self._sock.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                packet = self._sock.recv(65535)
            except TimeoutError:
                continue
            header = (packet[0] & 15) * 4
            if struct.unpack("!H", packet[header + 2 : header + 4])[0] == 4789:
                self.frames.append(packet[header + 8 + VXLAN_HEADER :])

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._sock.close()

    def kinds(self) -> set[int]:
        """Return the Ethernet types that came."""
        return {struct.unpack("!H", f[12:14])[0] for f in self.frames}


@dataclass
class Two:
    """Two hosts of one cloud; ``where``: port -> host name of its active binding."""

    a: Cloud
    b: Cloud
    generation: int = 1

    def tell(self, net: Net, where: list[tuple[PortState, str]], *more: Document) -> None:
        """Tell both hosts where ports live, and everything else, as the network service does."""
        self.generation += 1
        entries = tuple(
            ForwardingEntry(
                mac=p.mac,
                underlay=at,
                addresses=tuple(x for x, _ in p.addresses),
                hostname=p.hostname,
            )
            for p, at in where
        )
        state = ForwardingState(
            id=net.id, generation=self.generation, entries=entries, peers=(A, B)
        )
        for cloud in (self.a, self.b):
            cloud.apply(net.state(), state, *more)


def _machine(name: str, address: str) -> None:
    ensure_namespace(name)
    ip([f"address add {address}/24 dev under", "link set under up"], name)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    token = secrets.token_hex(3)
    machines = [f"kntest-{token}-m{i}" for i in (1, 2)]
    for name in machines:
        ensure_namespace(name)
    ip([f"link add under type veth peer name under netns {machines[1]}"], machines[0])
    handle, resolv = tempfile.mkstemp(prefix="kntest-resolv-", dir="/tmp")
    os.close(handle)
    Path(resolv).chmod(0o644)
    clouds = []
    try:
        for name, address in zip(machines, (A, B), strict=True):
            _machine(name, address)
            directory = tmp_path / name
            directory.mkdir()
            helper = Helper(directory, secrets.token_hex(3), Path(resolv), name)
            helper.start()
            clouds.append(Cloud(helper, RealHostNetwork(helper.client, name)))
            helper.client.host_up("172.31.77.0/24", "172.31.77.1", underlay=address)
        yield Two(clouds[0], clouds[1])
    finally:
        for cloud in clouds:
            for guest in cloud.guests:
                guest.remove()
            left = cloud.helper.client.purge()
            cloud.helper.kill()
            assert left == []
            assert list_leftovers(cloud.helper.tag, cloud.helper.directory / "host") == []
        for name in machines:
            drop_namespace(name)
        Path(resolv).unlink()


def talks(guest: Guest, host: str) -> None:
    until(lambda: guest.tcp_refused(host), f"{guest.ns} reaches {host}")


def test_guests_of_two_hosts_reach_each_other_and_nothing_is_flooded(two: Two) -> None:
    """Issue 4: entries that the control plane knows; no ARP for known addresses, no unknown unicast on the wire."""
    net = Net(two.a, 100)
    one, other = net.port(11, OPEN), net.port(12, OPEN)
    two.a.apply(net.state(), one)
    two.b.apply(net.state(), other)
    first, second = two.a.guest(one), two.b.guest(other)
    two.tell(net, [(one, A), (other, B)])
    wire = Underlay(two.b.helper._ns or "")
    try:
        talks(first, "192.168.7.12")
        talks(second, "192.168.7.11")
        assert wire.kinds() - {0x86DD} == {0x0800}, "ARP was answered on the sender's host"
        wire.frames.clear()
        ip(["neigh replace 192.168.7.77 lladdr fa:16:3e:00:00:77 dev eth0"], first.ns)
        assert not first.tcp_refused("192.168.7.77")
        talks(first, "192.168.7.12")
        unknown = bytes.fromhex("fa163e000077")
        assert wire.frames and not any(f[:6] == unknown for f in wire.frames)
    finally:
        wire.close()
    shown = run(
        ["bridge", "fdb", "show", "dev", names.tunnel(net.id)], ns=names.host_ns(two.a.helper.tag)
    )
    assert "dst 10.66.0.2" in shown and "dst 10.66.0.1" not in shown


def test_activation_switches_the_traffic_with_its_connections(two: Two) -> None:
    """CC-6.7, issue 4: the destination prepares and is silent; after the switch a connection goes on there."""
    net = Net(two.a, 101)
    peer, moving = net.port(11, OPEN), net.port(12, OPEN)
    two.a.apply(net.state(), peer, moving)
    client, old = two.a.guest(peer), two.a.guest(moving)
    two.tell(net, [(peer, A), (moving, A)])
    service = old.serve(22)
    sock = inside(client.ns, lambda: socket.create_connection(("192.168.7.12", 22), 5))
    sock.settimeout(10)
    sock.sendall(b"before")
    assert sock.recv(100) == b"before"

    prepared = moving.replace(generation=2, active=False)
    two.b.apply(net.state(), prepared)
    new = two.b.guest(prepared)
    assert not new.tcp_refused("192.168.7.11"), "an inactive binding passes nothing"
    assert new.dhcp(timeout_s=0.5) is None, "nor is DHCP answered for it"
    sock.sendall(b"still")
    assert sock.recv(100) == b"still"

    two.a.apply(net.state(), moving.replace(generation=3, active=False))
    two.tell(net, [(peer, A), (moving, B)])
    two.b.apply(moving.replace(generation=3))
    talks(client, "192.168.7.12")
    talks(new, "192.168.7.11")
    assert not old.tcp_refused("192.168.7.11")
    until(lambda: (new.dhcp() or {}).get(0) == socket.inet_aton("192.168.7.12"), "a lease there")
    sock.close()
    service.close()


def test_a_connection_of_a_guest_that_moved_goes_on(two: Two) -> None:
    """The live form: the guest's own namespace goes to the other host with its sockets, as a migrated guest does."""
    net = Net(two.a, 102)
    peer, moving = net.port(11), net.port(12, (ANY_OUT,))
    peer = peer.replace(rules=(ANY_OUT, ANY_IN))
    two.a.apply(net.state(), peer, moving)
    server, guest = two.a.guest(peer), two.a.guest(moving)
    two.tell(net, [(peer, A), (moving, A)])
    service = server.serve(22)
    sock = inside(guest.ns, lambda: socket.create_connection(("192.168.7.11", 22), 5))
    sock.settimeout(20)
    sock.sendall(b"before")
    assert sock.recv(100) == b"before"
    two.b.apply(net.state(), moving.replace(generation=2, active=False))
    target = names.host_ns(two.b.helper.tag)
    ip([f"link set {guest.tap} netns {target}"], names.host_ns(two.a.helper.tag))
    guest.host = target
    two.a.apply(moving.replace(generation=3, active=False))
    two.tell(net, [(peer, A), (moving, B)])
    two.b.apply(moving.replace(generation=3))
    two.b.network.plug(moving.id)
    sock.sendall(b"after")
    assert sock.recv(100) == b"after"
    assert not server.tcp_refused("192.168.7.12"), "its rules came with it"
    sock.close()
    service.close()


def test_same_addresses_of_two_projects_stay_apart(two: Two) -> None:
    first, second = Net(two.a, 103), Net(two.a, 104)
    ours = [first.port(11, OPEN), first.port(12, OPEN)]
    theirs = [second.port(11, OPEN), second.port(12, OPEN)]
    two.a.apply(first.state(), second.state(), ours[0], theirs[0])
    two.b.apply(first.state(), second.state(), ours[1], theirs[1])
    a, b = two.a.guest(ours[0]), two.b.guest(ours[1])
    c, d = two.a.guest(theirs[0]), two.b.guest(theirs[1])
    two.tell(first, [(ours[0], A), (ours[1], B)])
    two.tell(second, [(theirs[0], A), (theirs[1], B)])
    listening = b.serve(80), d.serve(80)
    until(lambda: a.tcp("192.168.7.12", 80), "ours")
    until(lambda: listening[0].callers == ["192.168.7.11"], "the call is heard")
    assert listening[1].callers == []
    until(lambda: c.tcp("192.168.7.12", 80), "theirs")
    until(lambda: len(listening[1].callers) == 1, "the other call is heard")
    assert len(listening[0].callers) == 1
    for service in listening:
        service.close()


def test_dhcp_is_answered_at_home_and_no_guest_routes_for_another_host(two: Two) -> None:
    """S-rules across hosts: DHCP never crosses, nor a router advertisement of a guest, with port security or not."""
    net = Net(two.a, 105)
    one, other = net.port(11, OPEN), net.port(12, OPEN, port_security=False)
    two.a.apply(net.state(), one)
    two.b.apply(net.state(), other)
    first, liar = two.a.guest(one, address=False), two.b.guest(other)
    two.tell(net, [(one, A), (other, B)])
    wires = Underlay(two.a.helper._ns or ""), Underlay(two.b.helper._ns or "")
    try:
        until(lambda: (first.dhcp() or {}).get(0) == socket.inet_aton("192.168.7.11"), "a lease")

        def advertise() -> bool:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as sock:
                sock.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255)
                body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
                with contextlib.suppress(OSError):  # the address is not ready yet
                    return sock.sendto(body, ("ff02::1%eth0", 0)) > 0
                return False

        def offer() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.bind(("0.0.0.0", 67))
                sock.sendto(b"x" * 300, ("192.168.7.255", 68))
                sock.sendto(b"x" * 300, ("192.168.7.255", 7777))

        until(lambda: inside(liar.ns, advertise), "the advertisement is sent")
        inside(liar.ns, offer)
        until(lambda: any(b"\x1e\x61" in f[34:42] for f in wires[0].frames), "the other broadcast")
        udp = [f for wire in wires for f in wire.frames if f[12:14] == b"\x08\x00" and f[23] == UDP]
        ports = {struct.unpack("!H", f[36:38])[0] for f in udp}
        assert not ports & {67, 68} and 7777 in ports
        icmp6 = [
            f[54] for wire in wires for f in wire.frames if f[12:14] == b"\x86\xdd" and f[20] == 58
        ]
        assert 134 not in icmp6
    finally:
        for wire in wires:
            wire.close()


def test_guests_find_each_other_by_name(two: Two) -> None:
    """The address that DHCP answers from knows the guests of every host; a name that is none is left out."""
    net = Net(two.a, 111)
    one, other = net.port(11, OPEN), net.port(12, OPEN, hostname="web.example.org")
    bad = net.port(13, OPEN, hostname="a b\n1.2.3.4 evil")
    two.a.apply(net.state(), one)
    two.b.apply(net.state(), other)
    first = two.a.guest(one)
    two.tell(net, [(one, A), (other, B), (bad, B)])
    for name in ("web", "web.example.test"):
        until(lambda n=name: resolve(first, "192.168.7.2", n) == "192.168.7.12", name)  # type: ignore[misc]
    assert resolve(first, "192.168.7.2", "evil") is None
    two.tell(net, [(one, A)])
    until(lambda: resolve(first, "192.168.7.2", "web") is None, "the name is gone")


def test_a_router_serves_the_guests_of_both_hosts(two: Two) -> None:
    """Issue 4: a router on one host is every guest's way out; after a move of it to the other host too."""
    net = Net(two.a, 106)
    here, there = net.port(11, OPEN), net.port(12, OPEN)
    external, router = routed(net)
    leg = router.interfaces[0]
    two.a.apply(net.state(), external, here, router)
    two.b.apply(net.state(), there)
    first, second = two.a.guest(here, gateway=True), two.b.guest(there, gateway=True)
    as_port = here.replace(id=leg.port_id, mac=leg.mac, addresses=(("192.168.7.1", net.subnet),))
    two.tell(net, [(here, A), (there, B), (as_port, A)])
    for guest in (first, second):
        until(lambda g=guest: g.tcp("172.31.77.1", 53), "the resolver outside")  # type: ignore[misc]
    two.a.network.apply(Change(host="h", removed=(("router", router.id, router.generation),)))
    two.b.apply(external, router)
    two.tell(net, [(here, A), (there, B), (as_port, B)])
    for guest in (second, first):
        until(lambda g=guest: g.tcp("172.31.77.1", 53), "the resolver outside")  # type: ignore[misc]


def test_ipv6_goes_from_host_to_host(two: Two) -> None:
    """Router advertisements reach the guests of both hosts, neighbours find each other, rules are asked."""
    net, prefix = Net(two.a, 108), "fd00:77::"
    ports = []
    for last in (11, 12):
        plain = net.port(last, OPEN)
        own = f"{prefix}f816:3eff:fe6c:{last:x}"
        ports.append(plain.replace(addresses=(*plain.addresses, (own, net.subnet))))
    external, router = routed(net)
    leg = router.interfaces[0]
    leg = leg.replace(
        addresses=(*leg.addresses, (f"{prefix}1", f"{prefix}/64")),
        adverts=(Advert(cidr=f"{prefix}/64", mode="slaac"),),
    )
    two.a.apply(net.state(), external, ports[0], router.replace(interfaces=(leg,)))
    two.b.apply(net.state(), ports[1])
    near, far = two.a.guest(ports[0]), two.b.guest(ports[1])
    as_port = ports[0].replace(
        id=leg.port_id, mac=leg.mac, addresses=tuple((a, net.subnet) for a, _ in leg.addresses)
    )
    two.tell(net, [(ports[0], A), (ports[1], B), (as_port, A)])
    for guest, last in ((near, 11), (far, 12)):
        own = f"{prefix}f816:3eff:fe6c:{last:x}"

        def ready(guest: Guest = guest, own: str = own) -> bool:
            shown = guest.run("ip", "-6", "address", "show", "dev", "eth0")
            return own in shown and "tentative" not in shown

        until(ready, f"{own} is there")
        assert "default via fe80::" in guest.run("ip", "-6", "route")

    def reach() -> bool:
        with socket.socket(socket.AF_INET6) as sock:
            sock.settimeout(1)
            return sock.connect_ex((f"{prefix}f816:3eff:fe6c:c", 22)) == 0

    with inside(far.ns, lambda: socket.create_server(("::", 22), family=socket.AF_INET6)):
        until(lambda: inside(near.ns, reach), "a connection")
        two.b.apply(ports[1].replace(generation=2, rules=(ANY_OUT, ANY_OUT6)))
        assert not inside(near.ns, reach)


def _wrapped(segment: int, mac: str, text: bytes) -> bytes:
    """Return a VXLAN payload: a datagram from 192.168.7.11 to port 7777 of the guest that has 192.168.7.12."""
    udp = struct.pack("!HHHH", 7777, 7777, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, UDP, 0)
    head += socket.inet_aton("192.168.7.11") + socket.inet_aton("192.168.7.12")
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    frame = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("fa163e6d000b") + b"\x08\x00"
    return struct.pack("!II", 0x08000000, segment << 8) + frame + head + udp


def test_only_hosts_of_the_cloud_send_to_tunnels(two: Two) -> None:
    """A stranger's VXLAN is dropped, and a guest's that would leave with its host's own address."""
    net = Net(two.a, 109)
    one, other = net.port(11, OPEN), net.port(12, OPEN)
    external, router = routed(net)
    leg = router.interfaces[0]
    two.a.apply(net.state(), external, one, router)
    two.b.apply(net.state(), other)
    first, second = two.a.guest(one, gateway=True), two.b.guest(other)
    as_port = one.replace(id=leg.port_id, mac=leg.mac, addresses=(("192.168.7.1", net.subnet),))
    two.tell(net, [(one, A), (other, B), (as_port, A)])
    talks(first, "192.168.7.12")
    here, there = (c.helper._ns or "" for c in (two.a, two.b))
    ip(["address add 10.66.0.9/24 dev under"], here)

    def listen(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", port))
        sock.settimeout(0.05)
        return sock

    def send(ns: str, payload: bytes, port: int = 4789, source: str = "0.0.0.0") -> None:
        def go() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                sock.sendto(payload, (B, port))

        inside(ns, go)

    seen: list[bytes] = []

    def hears(sock: socket.socket, text: bytes, again: Callable[[], None]) -> bool:
        again()
        with contextlib.suppress(TimeoutError):
            while True:
                seen.append(sock.recv(100))
        return text in seen

    guest, machine = inside(second.ns, lambda: listen(7777)), inside(there, lambda: listen(5555))
    wire = Underlay(there)
    with guest, machine:
        send(here, _wrapped(109, other.mac, b"stranger"), source="10.66.0.9")
        send(first.ns, _wrapped(109, other.mac, b"a guest"))
        good = _wrapped(109, other.mac, b"a host")
        until(lambda: hears(guest, b"a host", lambda: send(here, good, source=A)), "a host's")
        for ns, source, out in ((first.ns, "0.0.0.0", b"way 1"), (here, "10.66.0.9", b"way 2")):

            def again(ns: str = ns, source: str = source, out: bytes = out) -> None:
                send(ns, out, 5555, source)

            until(lambda a=again, out=out: hears(machine, out, a), "another port")  # type: ignore[misc]
        hears(guest, b"", lambda: None)
        assert set(seen) == {b"a host", b"way 1", b"way 2"}
        assert wire.frames and not any(b"a guest" in f for f in wire.frames)
    wire.close()


def test_a_full_state_without_entries_leaves_them_and_entries_need_their_network(two: Two) -> None:
    """A full state that would be too long comes without them: traffic goes on meanwhile."""
    net = Net(two.a, 112)
    one, other = net.port(11, OPEN), net.port(12, OPEN)
    early = ForwardingState(id=net.id, generation=1, peers=(A, B))
    applied = two.a.network.apply(Change(host="h", documents=(early,)))
    assert applied.items[0][3] == "its network is not in force on this host"
    two.a.apply(net.state(), one)
    two.b.apply(net.state(), other)
    first = two.a.guest(one)
    two.b.guest(other)
    two.tell(net, [(one, A), (other, B)])
    talks(first, "192.168.7.12")
    ns, link = names.host_ns(two.a.helper.tag), names.tunnel(net.id)
    before = run(["ip", "link", "show", link], ns=ns).split(":")[0]
    two.a.apply(net.state(), one, full=True)
    assert run(["ip", "link", "show", link], ns=ns).split(":")[0] == before
    talks(first, "192.168.7.12")
    two.a.apply(full=True)
    assert link not in run(["ip", "link"], ns=ns)


def test_an_underlay_address_that_the_machine_has_not_is_refused(two: Two) -> None:
    """It is said of the network's entries; guests of the one host still reach each other."""
    two.a.helper.client.host_up("172.31.77.0/24", "172.31.77.1", underlay="10.66.0.77")
    net = Net(two.a, 110)
    one, other = net.port(11, OPEN), net.port(12, OPEN)
    state = ForwardingState(id=net.id, generation=1, peers=(B,))
    applied = two.a.network.apply(Change(host="h", documents=(net.state(), state, one, other)))
    wrong = {kind: error for kind, _, _, error in applied.items if error is not None}
    assert wrong == {"forwarding": "The underlay_ip 10.66.0.77 is no address of this machine."}
    first, _ = two.a.guest(one), two.a.guest(other)
    talks(first, "192.168.7.12")


def test_a_restart_of_the_helper_keeps_the_tunnels_and_their_removal_leaves_nothing(
    two: Two,
) -> None:
    net = Net(two.a, 107)
    one, other = net.port(11, OPEN), net.port(12, OPEN)
    two.a.apply(net.state(), one)
    two.b.apply(net.state(), other)
    first = two.a.guest(one)
    two.b.guest(other)
    two.tell(net, [(one, A), (other, B)])
    talks(first, "192.168.7.12")
    ns, link = names.host_ns(two.a.helper.tag), names.tunnel(net.id)
    ip([f"link delete {link}"], ns)
    two.a.helper.kill()
    two.a.helper.start()
    two.a.helper.client.host_up("172.31.77.0/24", "172.31.77.1", underlay=A)
    talks(first, "192.168.7.12")
    two.a.network.apply(Change(host="h", removed=(("network", net.id, 99), ("port", one.id, 99))))
    assert link not in run(["ip", "link"], ns=ns)
    two.a.helper.client.host_up("172.31.77.0/24", "172.31.77.1")
    two.a.apply(net.state(), one)
    assert link not in run(["ip", "link"], ns=ns), "a host that is alone has no tunnel"


@dataclass
class Whole:
    """The network service itself, which drives both hosts."""

    service: EmbeddedNetwork
    hosts: dict[str, Cloud]
    project: str

    def server(self, name: str, host: str) -> tuple[Guest, str, str]:
        """Make a server's port, wait for it and plug a guest in; return the guest, the address and the port."""
        network = self.service.plan(service_context(self.project), self.project, None)[0]
        port = self.service.ensure_port(
            (new_uuid(), "0"),
            project_id=self.project,
            device_id=name,
            host=host,
            network_id=network.network_id,
        )
        return self.plug(port, host), port.fixed_ips[0].ip_address, port.port_id

    def outside(self) -> tuple[str, str]:
        """Return the external network, and the host that has the router."""
        database = self.service.database
        public = database.read(lambda tx: tx.value(networks.DEFAULT_EXTERNAL))
        return public, database.read(lambda tx: tx.select(sa.select(router_table.c.host)))[0][0]

    def plug(self, port: BoundPort, host: str) -> Guest:
        cloud = self.hosts[host]
        assert cloud.network.wait_port(port.port_id, 30)
        guest = Guest(cloud.helper.tag, f"{len(cloud.guests)}", port.port_id, port.mac)
        cloud.guests.append(guest)
        cloud.network.plug(port.port_id)
        guest.use(f"{port.fixed_ips[0].ip_address}/24", "10.10.0.1")
        return guest


@pytest.fixture
def whole(two: Two, tmp_path: Path) -> Iterator[Whole]:
    bus, project = MemoryBus(), new_uuid().replace("-", "")
    database = SqliteDatabase(tmp_path / "network.db", "network")
    hosts = {"m1": two.a, "m2": two.b}
    service = EmbeddedNetwork(database, bus, SYSTEM, lambda: list(hosts))
    service.start()
    seed(service, new_uuid().replace("-", ""), project, public_cidr="172.31.77.0/24")
    for (name, cloud), underlay in zip(hosts.items(), (A, B), strict=True):
        cloud.network = RealHostNetwork(cloud.helper.client, name, bus, underlay)
        cloud.network.resync()
    yield Whole(service, hosts, project)
    for cloud in hosts.values():
        cloud.network.close()
    service.stop()
    bus.close()
    database.close()


def test_the_network_service_leads_the_traffic_of_both_hosts(whole: Whole) -> None:
    """Issue 4: ports, a remote group, a floating address and a switch, over the bus, on two hosts."""
    first, one, _ = whole.server("s1", "m1")
    second, two, port = whole.server("s2", "m2")
    talks(first, two)  # the default group lets its members in, wherever they are
    talks(second, one)
    for guest in (first, second):
        until(lambda g=guest: g.tcp("172.31.77.1", 53), "the way out")  # type: ignore[misc]
    _reached_from_outside(whole, second, "s2")
    whole.service.add_bindings("s2", "m1")
    bound = whole.service.ports_of(["s2"])["s2"][0]
    moved = whole.plug(bound, "m1")
    assert not moved.tcp_refused(one)
    talks(first, two)
    begun = time.monotonic()
    whole.service.activate_bindings("s2", "m1")
    talks(moved, one)
    talks(first, two)
    print(f"the switch took {time.monotonic() - begun:.2f} s")
    assert not second.tcp_refused(one)
    until(lambda: all(b.ready for b in whole.service.bindings_of(["s2"])["s2"]), "both in force")
    assert whole.service.delete_bindings("s2", "m2") == 1
    until(lambda: not whole.hosts["m2"].network.wait_port(port, 0), "the old host let go")


def _reached_from_outside(whole: Whole, guest: Guest, server: str) -> None:
    """Lead a floating address to a server and call it from the machine that has the router."""
    public, where = whole.outside()
    wanted = floating.NewFloating(project_id=whole.project, network_id=public)
    outer = whole.service.write(lambda w: floating.get(w.tx, floating.make(w, wanted))["ip"])
    whole.service.associate_floating_ip(service_context(whole.project), server, outer)
    group = whole.service.security_groups_of([server])[server][0][0]
    port = {"protocol": "tcp", "port_min": 22, "port_max": 22}
    whole.service.write(
        lambda w: groups.add_rule(w, group, whole.project, "ingress", "IPv4", **port)  # type: ignore[arg-type]
    )
    machine = whole.hosts[where].helper._ns or ""

    def call() -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex((outer, 22)) == 0

    service = guest.serve(22)
    until(lambda: inside(machine, call), "the floating address leads to the other host's guest")
    service.close()


@pytest.mark.parametrize(
    "entry",
    [
        {"mac": "fa:16:3e:00:00:01 dst 1.2.3.4", "underlay": A},
        {"mac": "01:00:5e:00:00:01", "underlay": A},
        {"mac": "00:00:00:00:00:00", "underlay": A},
        {"mac": "fa:16:3e:00:00:01", "underlay": "10.66.0.2 self"},
        {"mac": "fa:16:3e:00:00:01", "underlay": A, "addresses": ("x\nlink del lo",)},
    ],
)
def test_entries_that_are_not_addresses_are_refused(entry: dict[str, str], tmp_path: Path) -> None:
    """S36: every field of a document is checked before it becomes a line of a batch."""
    from kilonova.agent.helper import validate

    state = ForwardingState(
        id="00000000-0000-4000-8000-000000000001",
        generation=1,
        entries=(ForwardingEntry(**entry),),  # type: ignore[arg-type]
    )
    with pytest.raises(validate.Refused):
        validate.check(state)
