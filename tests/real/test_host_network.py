"""The host's networking for real: namespaces as guests, a root helper of its own, everything removed afterwards."""

import os
import secrets
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kilonova.agent.helper import names, protocol
from kilonova.agent.helper.client import HelperError
from kilonova.agent.helper.run import drop_namespace, inside, ip, links, nft, run, spawn
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.agent.metadata.server import MetadataService
from kilonova.agent.metadata.store import FileMetadataStore
from kilonova.agent.network.applier import PortNotReady, RealHostNetwork
from kilonova.objects.guest import AddressConfig, MetadataDocument, NicConfig
from kilonova.objects.netstate import (
    Change,
    Document,
    GroupState,
    NetworkState,
    PortState,
    RouterGateway,
    RouterInterface,
    RouterState,
    RuleState,
    SubnetState,
)
from tests.real.netguest import Guest, Helper, missing, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

OUTSIDE = "198.51.100"
ANY_OUT = RuleState(direction="egress", ethertype="IPv4")
ANY_OUT6 = RuleState(direction="egress", ethertype="IPv6")


def new_id() -> str:
    return str(uuid.uuid4())


def ssh(remote_cidr: str | None = None, group: str | None = None) -> RuleState:
    return RuleState(
        direction="ingress", ethertype="IPv4", protocol="tcp", port_min=22, port_max=22,
        remote_cidr=remote_cidr, remote_group=group,
    )  # fmt: skip


@dataclass
class Net:
    """One tenant network with its ports, as documents."""

    cloud: "Cloud"
    segment: int
    cidr: str = "192.168.7.0/24"
    id: str = field(default_factory=new_id)
    subnet: str = field(default_factory=new_id)

    @property
    def base(self) -> str:
        return self.cidr.rsplit(".", 1)[0]

    def state(self, generation: int = 1, dns: tuple[str, ...] = ()) -> NetworkState:
        return NetworkState(
            id=self.id, generation=generation, segment=self.segment, mtu=1400,
            dns_domain="example.test.",
            subnets=(
                SubnetState(
                    id=self.subnet, cidr=self.cidr, ip_version=4, gateway=f"{self.base}.1",
                    dhcp_server=f"{self.base}.2", dns=dns, routes=(("10.99.0.0/16", f"{self.base}.9"),),
                ),
            ),
        )  # fmt: skip

    def port(
        self, last: int, rules: tuple[RuleState, ...] = (ANY_OUT, ANY_OUT6), **more: object
    ) -> PortState:
        values: dict[str, object] = {
            "id": new_id(), "generation": 1, "network_id": self.id,
            "mac": f"fa:16:3e:{self.segment & 255:02x}:00:{last:02x}",
            "addresses": ((f"{self.base}.{last}", self.subnet),), "device_id": new_id(),
            "device_owner": "compute:nova", "hostname": f"guest{last}", "rules": rules,
        }  # fmt: skip
        return PortState(**(values | more))  # type: ignore[arg-type]


@dataclass
class Cloud:
    helper: Helper
    network: RealHostNetwork
    guests: list[Guest] = field(default_factory=list)

    def apply(self, *documents: Document, full: bool = False) -> None:
        applied = self.network.apply(Change(host="h", documents=documents, full=full))
        assert [i for i in applied.items if i[3] is not None] == [], self.helper.log()[-2000:]

    def guest(self, port: PortState, address: bool = True, gateway: bool = False) -> Guest:
        """Plug a guest into its port; with its address unless it is to ask for it."""
        guest = Guest(self.helper.tag, f"{len(self.guests)}", port.id, port.mac)
        self.guests.append(guest)
        assert self.network.plug(port.id) == guest.tap
        if address:
            first = port.addresses[0][0]
            guest.use(f"{first}/24", f"{first.rsplit('.', 1)[0]}.1" if gateway else None)
        return guest


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    handle, name = tempfile.mkstemp(prefix="kntest-resolv-", dir="/tmp")  # others may read it there
    os.close(handle)
    resolv = Path(name)
    resolv.chmod(0o644)
    resolv.write_text(f"nameserver {OUTSIDE}.2\n")
    helper = Helper(tmp_path, secrets.token_hex(3), resolv)
    helper.start()
    made = Cloud(helper, RealHostNetwork(helper.client, "h"))
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    try:
        helper.client.host_up("172.31.77.0/24", "172.31.77.1")
        yield made
    finally:
        for guest in made.guests:
            guest.remove()
        left = helper.client.purge()
        helper.kill()
        resolv.unlink()
        assert left == []
        assert list_leftovers(helper.tag, tmp_path / "host") == []
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forward


def test_a_guest_gets_its_lease_with_every_option(cloud: Cloud) -> None:
    """Walk 1.5: address, MTU, routes, DNS by DHCP; a name by extra option; nothing for strangers."""
    net = Net(cloud, 100)
    port = net.port(11, dhcp_options=(("tftp-server", "boot.example"),))
    cloud.apply(net.state(), port)
    guest = cloud.guest(port, address=False)
    leases: list[dict[int, bytes]] = []

    def ask() -> bool:
        lease = guest.dhcp()
        if lease is not None:
            leases.append(lease)
        return lease is not None

    until(ask, "a DHCP lease")
    lease = leases[-1]
    assert socket.inet_ntoa(lease[0]) == "192.168.7.11"
    assert lease[53] == b"\x05"  # ACK
    assert int.from_bytes(lease[26]) == 1400
    assert socket.inet_ntoa(lease[3]) == "192.168.7.1"
    assert socket.inet_ntoa(lease[6]) == "192.168.7.2"
    assert lease[12] == b"guest11"
    assert lease[15] == b"example.test"
    assert lease[66].rstrip(b"\0") == b"boot.example"
    metadata = bytes([32, 169, 254, 169, 254, 192, 168, 7, 2])
    assert lease[121].startswith(metadata)
    assert bytes([16, 10, 99, 192, 168, 7, 9]) in lease[121]
    assert lease[121].endswith(bytes([0, 192, 168, 7, 1]))


def test_an_address_that_moves_to_another_port_is_given_to_it(cloud: Cloud) -> None:
    net = Net(cloud, 100)
    first, second = net.port(11), net.port(11, mac="fa:16:3e:00:00:99")
    cloud.apply(net.state(), first)
    guest = cloud.guest(first, address=False)
    until(guest.dhcp, "the first lease")
    guest.remove()
    cloud.network.apply(Change(host="h", removed=(("port", first.id, 2),)))
    cloud.apply(second)
    other = cloud.guest(second, address=False)
    until(lambda: (other.dhcp() or {}).get(0) == socket.inet_aton("192.168.7.11"), "the lease")


def test_default_deny_and_a_rule_that_comes_and_goes(cloud: Cloud) -> None:
    """Walk 1.5, S27: nothing gets in; a rule opens the port; removing it also cuts what it let in."""
    net = Net(cloud, 100)
    a, b = net.port(11), net.port(12)
    cloud.apply(net.state(), a, b)
    one, two = cloud.guest(a), cloud.guest(b)
    service = two.serve(22)
    assert not one.tcp("192.168.7.12", 22)
    opened = b.replace(generation=2, rules=(ANY_OUT, ssh("192.168.7.0/24")))
    cloud.apply(opened)
    assert one.tcp("192.168.7.12", 22)
    assert not one.tcp_refused("192.168.7.12"), "only port 22 was opened"
    sock = inside(one.ns, lambda: socket.create_connection(("192.168.7.12", 22), 5))
    with sock:
        sock.settimeout(5)
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
        cloud.apply(opened.replace(generation=3, rules=(ANY_OUT,)))
        assert not one.tcp("192.168.7.12", 22)
        sock.settimeout(1)
        sock.sendall(b"again")
        with pytest.raises(TimeoutError):
            sock.recv(10)
    service.close()


def test_an_older_generation_changes_nothing(cloud: Cloud) -> None:
    net = Net(cloud, 100)
    a, b = net.port(11), net.port(12, rules=(ANY_OUT, ssh()), generation=5)
    cloud.apply(net.state(), a, b)
    one, two = cloud.guest(a), cloud.guest(b)
    service = two.serve(22)
    applied = cloud.network.apply(
        Change(host="h", documents=(b.replace(generation=4, rules=(ANY_OUT,)),))
    )
    assert applied.items == (("port", b.id, 5, None),)
    assert one.tcp("192.168.7.12", 22)
    service.close()


def test_remote_groups_are_sets_that_change_by_themselves(cloud: Cloud) -> None:
    """A member of the group may, another may not; membership changes without touching the port."""
    net, group = Net(cloud, 100), new_id()
    a, b, c = net.port(11), net.port(12, rules=(ANY_OUT, ssh(group=group))), net.port(13)
    cloud.apply(net.state(), a, b, c)
    one, two, three = cloud.guest(a), cloud.guest(b), cloud.guest(c)
    service = two.serve(22)
    assert not one.tcp("192.168.7.12", 22)
    cloud.apply(GroupState(id=group, generation=1, ipv4=("192.168.7.11",)))
    assert one.tcp("192.168.7.12", 22)
    assert not three.tcp("192.168.7.12", 22)
    cloud.apply(GroupState(id=group, generation=2, ipv4=("192.168.7.13",)))
    assert not one.tcp("192.168.7.12", 22)
    assert three.tcp("192.168.7.12", 22)
    service.close()


def test_a_guest_cannot_lie_about_its_address(cloud: Cloud) -> None:
    """Walk 1.5: a foreign IP address, MAC or ARP answer is dropped; an allowed pair is not."""
    net = Net(cloud, 100)
    a, b = net.port(11), net.port(12, rules=(ANY_OUT, ssh()))
    cloud.apply(net.state(), a, b)
    one, two = cloud.guest(a), cloud.guest(b)
    service = two.serve(22)
    assert one.tcp("192.168.7.12", 22)

    def from_address(address: str) -> bool:
        def attempt() -> bool:
            with socket.socket() as sock:
                sock.settimeout(1)
                sock.bind((address, 0))
                try:
                    sock.connect(("192.168.7.12", 22))
                except OSError:
                    return False
                return True

        return inside(one.ns, attempt)

    one.use("192.168.7.50/24")
    assert not from_address("192.168.7.50")
    cloud.apply(a.replace(generation=2, pairs=(("192.168.7.50/32", None),)))
    assert from_address("192.168.7.50")
    ip(["link set eth0 address fa:16:3e:ff:ff:ff"], one.ns)
    assert not from_address("192.168.7.11")
    cloud.apply(a.replace(generation=3, port_security=False, rules=()))
    until(lambda: from_address("192.168.7.11"), "without port security it may")
    service.close()


def test_ipv6_is_filtered_like_ipv4(cloud: Cloud) -> None:
    """A guest's own link-local address works, a foreign global one does not; ingress is denied by default."""
    net = Net(cloud, 100)
    rule = RuleState(
        direction="ingress", ethertype="IPv6", protocol="tcp", port_min=22, port_max=22
    )
    a, b = net.port(11), net.port(12, rules=(ANY_OUT, ANY_OUT6))
    cloud.apply(net.state(), a, b)
    one, two = cloud.guest(a), cloud.guest(b)

    def serve() -> socket.socket:
        return socket.create_server(("::", 22), family=socket.AF_INET6)

    until(lambda: "tentative" not in two.run("ip", "-6", "address", "show", "eth0"), "DAD ended")
    until(lambda: "tentative" not in one.run("ip", "-6", "address", "show", "eth0"), "DAD ended")
    target = "fe80::f816:3eff:fe64:c"

    def reach() -> bool:
        def attempt() -> bool:
            with socket.socket(socket.AF_INET6) as sock:
                sock.settimeout(1)
                try:
                    sock.connect((target, 22, 0, socket.if_nametoindex("eth0")))
                except OSError:
                    return False
                return True

        return inside(one.ns, attempt)

    with inside(two.ns, serve):
        assert not reach()
        cloud.apply(b.replace(generation=2, rules=(ANY_OUT, ANY_OUT6, rule)))
        assert reach()


def test_two_projects_with_the_same_subnet_do_not_see_each_other(cloud: Cloud) -> None:
    """Walk 1.5: equal addresses in two networks; each reaches its own neighbour only."""
    red, blue = Net(cloud, 100), Net(cloud, 200)
    everything = (ANY_OUT, ssh())
    r1, r2 = red.port(11, everything), red.port(12, everything)
    b1, b2 = blue.port(11, everything), blue.port(12, everything)
    cloud.apply(red.state(), blue.state(), r1, r2, b1, b2)
    red1, red2, blue1, blue2 = (cloud.guest(p) for p in (r1, r2, b1, b2))
    in_red, in_blue = red2.serve(22), blue2.serve(22)
    assert red1.tcp("192.168.7.12", 22)
    until(lambda: in_red.callers == ["192.168.7.11"], "red reached red")
    assert in_blue.callers == []
    assert blue1.tcp("192.168.7.12", 22)
    until(lambda: in_blue.callers == ["192.168.7.11"], "blue reached blue")
    assert in_red.callers == ["192.168.7.11"]
    in_red.close()
    in_blue.close()


# -- routers, outside, names ---------------------------------------------------------------------------------------


@pytest.fixture
def outside(cloud: Cloud) -> Iterator[str]:
    """An outside: a namespace with its own DNS, which knows no route back to any cloud."""
    ns, link = f"kntest-{cloud.helper.tag}-out", f"kno-{cloud.helper.tag}"
    run(["ip", "netns", "add", ns])
    try:
        ip([f"link add {link} type veth peer name eth0 netns {ns}"])
        ip([f"address add {OUTSIDE}.1/24 dev {link}", f"link set {link} up"])
        ip([f"address add {OUTSIDE}.2/24 dev eth0", "link set eth0 up", "link set lo up"], ns)
        pid = cloud.helper.directory / "outside.pid"
        spawn(
            [
                "dnsmasq", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--keep-in-foreground",
                f"--pid-file={pid}", f"--address=/hello.outside/{OUTSIDE}.7", "--user=root",
            ],
            ns=ns,
            log=cloud.helper.directory / "outside.log",
        )  # fmt: skip
        until(pid.exists, "the outside's DNS runs")
        yield ns
        os.kill(int(pid.read_text()), 15)
    finally:
        drop_namespace(ns)
        if link in links():
            ip([f"link delete {link}"])


def routed(
    net: Net, floating: tuple[tuple[str, str], ...] = (), generation: int = 1
) -> tuple[NetworkState, RouterState]:
    external = NetworkState(
        id="00000000-0000-4000-8000-00000000000e", generation=1, segment=1, mtu=1500, external=True
    )
    router = RouterState(
        id=str(uuid.uuid5(uuid.UUID(net.id), "router")),
        generation=generation,
        interfaces=(
            RouterInterface(
                port_id=str(uuid.uuid5(uuid.UUID(net.id), "leg")), network_id=net.id,
                mac=f"fa:16:3e:aa:00:{net.segment & 255:02x}", mtu=1400,
                addresses=((f"{net.base}.1", net.cidr),),
            ),
        ),
        gateway=RouterGateway(
            port_id=str(uuid.uuid5(uuid.UUID(net.id), "gateway")), network_id=external.id,
            mac=f"fa:16:3e:bb:00:{net.segment & 255:02x}", gateway="172.31.77.1",
            addresses=((f"172.31.77.{net.segment & 255}", "172.31.77.0/24"),),
        ),
        floating=floating,
    )  # fmt: skip
    return external, router


def resolve(guest: Guest, server: str, name: str) -> str | None:
    """Ask a DNS server for an A record."""
    question = os.urandom(2) + b"\x01\x00\x00\x01\0\0\0\0\0\0"
    question += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\x01\0\x01"

    def ask() -> str | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.sendto(question, (server, 53))
            try:
                answer = sock.recv(512)
            except TimeoutError:
                return None
            return socket.inet_ntoa(answer[-4:]) if answer[7] else None

    return inside(guest.ns, ask)


def test_guests_reach_out_and_resolve_names(cloud: Cloud, outside: str) -> None:
    """Walk 1.5: SNAT to an outside that knows nothing of us; names by DHCP's server and by the public gateway."""
    net = Net(cloud, 100)
    port = net.port(11)
    cloud.apply(net.state(), port, *routed(net))
    guest = cloud.guest(port, gateway=True)
    service = Guest.serve(_Outside(outside), 80)  # type: ignore[arg-type]
    until(lambda: guest.tcp(f"{OUTSIDE}.2", 80), "reaches the outside")
    until(lambda: set(service.callers) == {f"{OUTSIDE}.1"}, "the outside sees the machine")
    until(
        lambda: resolve(guest, "192.168.7.2", "hello.outside") == f"{OUTSIDE}.7",
        "resolves by DHCP's",
    )
    until(lambda: resolve(guest, "172.31.77.1", "hello.outside") == f"{OUTSIDE}.7", "resolves")
    assert resolve(guest, "192.168.7.2", "guest11.example.test") in (None, "192.168.7.11")
    service.close()


@dataclass
class _Outside:
    ns: str


def test_a_floating_ip_works_both_ways(cloud: Cloud, outside: str) -> None:
    """Walk 1.5: the machine reaches the guest by it; the guest goes out by it; taken away it is gone."""
    net = Net(cloud, 100)
    port = net.port(11, (ANY_OUT, ssh()))
    other = net.port(12)
    floating = (("172.31.77.200", "192.168.7.11"),)
    cloud.apply(net.state(), port, other, *routed(net, floating))
    guest, inner = cloud.guest(port, gateway=True), cloud.guest(other, gateway=True)
    service = guest.serve(22)

    def reach() -> bool:
        try:
            with socket.create_connection(("172.31.77.200", 22), 1):
                return True
        except OSError:
            return False

    until(reach, "the machine reaches the floating IP")
    until(lambda: set(service.callers) == {"172.31.77.1"}, "the guest sees the machine")
    assert inner.tcp("172.31.77.200", 22), "from the same network, too"
    public = _machine_listener()
    try:
        assert not guest.tcp("172.31.77.1", public.getsockname()[1]), (
            "the machine is closed to guests"
        )
    finally:
        public.close()
    _see_source(cloud, guest, "172.31.77.200")
    _see_source(cloud, inner, "172.31.77.100")
    _, router = routed(net, (), 2)
    cloud.apply(router)
    until(lambda: not reach(), "gone")
    service.close()


def _machine_listener() -> socket.socket:
    return socket.create_server(("172.31.77.1", 0))


def _see_source(cloud: Cloud, guest: Guest, address: str) -> None:
    """Prove the source address that packets of a guest have on the public bridge."""
    bridge = names.public_bridge(cloud.helper.tag)
    watch = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with watch:
        watch.bind((bridge, 0x0800))
        watch.settimeout(5)

        def fire() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"see me", (f"{OUTSIDE}.2", 4711))

        inside(guest.ns, fire)
        while True:
            packet = watch.recv(2000)
            if b"see me" in packet and packet[9] == 17:
                assert socket.inet_ntoa(packet[12:16]) == address
                return


# -- the whole -----------------------------------------------------------------------------------------------------


def test_what_somebody_removed_is_repaired_and_a_restart_keeps_all(cloud: Cloud) -> None:
    """S27: full state writes the filter anew; a killed helper comes back with everything in force."""
    net = Net(cloud, 100)
    a, b = net.port(11), net.port(12, rules=(ANY_OUT, ssh()))
    cloud.apply(net.state(), a, b)
    one, two = cloud.guest(a), cloud.guest(b)
    service = two.serve(22)
    host = names.host_ns(cloud.helper.tag)
    nft("delete table inet kilonova\ndelete table bridge kilonova\n", host)
    cloud.apply(net.state(2), a.replace(generation=2), b.replace(generation=2), full=True)
    assert one.tcp("192.168.7.12", 22)
    assert not one.tcp_refused("192.168.7.12")
    cloud.helper.kill()
    cloud.helper.start()
    nft("delete table inet kilonova\ndelete table bridge kilonova\n", host)
    cloud.helper.client.host_up("172.31.77.0/24", "172.31.77.1")
    assert one.tcp("192.168.7.12", 22)
    assert not one.tcp_refused("192.168.7.12")
    cloud.apply(b.replace(generation=3, rules=(ANY_OUT,)))
    assert not one.tcp("192.168.7.12", 22)
    service.close()


def test_full_state_removes_what_it_does_not_name(cloud: Cloud) -> None:
    red, blue = Net(cloud, 100), Net(cloud, 200)
    port, other = red.port(11), blue.port(12)
    cloud.apply(red.state(), blue.state(), port, other, *routed(red))
    cloud.guest(port)
    tag = cloud.helper.tag
    cloud.apply(blue.state(2), other, full=True)
    left = list_leftovers(tag)
    assert f"namespace {names.dhcp_ns(tag, blue.id)}" in left
    assert not any(names.dhcp_ns(tag, red.id) in line or "-r-" in line for line in left)
    there = links(names.host_ns(tag))
    assert names.bridge(red.id) not in there
    assert names.tap(port.id) not in there
    with pytest.raises(PortNotReady):
        cloud.network.plug(port.id)


def test_a_document_with_a_bad_field_is_refused_by_name(cloud: Cloud) -> None:
    """S36: text that would be configuration never reaches a program."""
    net = Net(cloud, 100)
    evil = net.port(11, mac='fa:16:3e:00:00:01" drop')
    late = net.port(12, hostname="a\nb", dhcp_options=(("router", "1\n2"),))
    applied = cloud.network.apply(Change(host="h", documents=(net.state(), evil, late)))
    errors = {id_: error or "" for _, id_, _, error in applied.items}
    assert "mac" in errors[evil.id]
    assert "dhcp_options" in errors[late.id]
    assert errors[net.id] == ""
    with pytest.raises(HelperError):
        cloud.helper.client.tap_ensure("../../etc")


def test_metadata_is_told_by_network_and_source_address(cloud: Cloud, tmp_path: Path) -> None:
    """Walk 1.5: guests with equal addresses in two networks each read their own; a restart serves on."""
    red, blue = Net(cloud, 100), Net(cloud, 200)
    r, b = red.port(11), blue.port(11)
    cloud.apply(red.state(), blue.state(), r, b)
    in_red, in_blue = cloud.guest(r), cloud.guest(b)
    for guest in (in_red, in_blue):
        ip(["route add 169.254.169.254/32 via 192.168.7.2"], guest.ns)
    store = FileMetadataStore(tmp_path / "metadata")
    for port, name in ((r, "red"), (b, "blue")):
        nic = NicConfig(
            port_id=port.id, network_id=port.network_id, mac=port.mac, mtu=1400,
            addresses=(AddressConfig(address="192.168.7.11", cidr="192.168.7.0/24"),),
        )  # fmt: skip
        store.put(
            MetadataDocument(
                server_id=new_id(), generation=1, name=name, hostname=name, project_id="p",
                availability_zone="nova", networks=(nic,),
            ),
            (),
        )  # fmt: skip
    for _ in range(2):  # the second one stands for the agent's next life
        service = MetadataService(
            FileMetadataStore(tmp_path / "metadata"), cloud.helper.client.metadata_socket
        )
        try:
            service.serve_networks(cloud.network.networks())
            until(lambda s=service: s.served() == {red.id, blue.id}, "sockets open")  # type: ignore[misc]
            assert in_red.http("/latest/meta-data/hostname") == (200, b"red")
            assert in_blue.http("/latest/meta-data/hostname") == (200, b"blue")
            assert in_red.http("/openstack/latest/nothing")[0] == 404
        finally:
            service.close()


def test_a_foreign_forward_drop_is_mended_and_the_mend_is_taken_back(tmp_path: Path) -> None:
    """DESIGN §8: Docker's or ufw's drop gets our accept in its own chain; a purge takes it out again."""
    tag = secrets.token_hex(3)
    machine = f"kntest-{tag}-machine"
    run(["ip", "netns", "add", machine])
    helper = Helper(tmp_path, tag, ns=machine)
    try:
        ip(["link set lo up"], machine)
        nft(
            "table ip filter {\nchain FORWARD { type filter hook forward priority filter; policy drop; }\n}\n",
            machine,
        )
        before = run(["nft", "list", "ruleset"], ns=machine)
        helper.start()
        (note,) = helper.client.host_up("172.31.79.0/24", "172.31.79.1")
        assert "filter FORWARD" in note
        mended = run(["nft", "list", "chain", "ip", "filter", "FORWARD"], ns=machine)
        assert mended.count(f'"{names.public_bridge(tag)}" accept') == 2
        assert helper.client.host_up("172.31.79.0/24", "172.31.79.1") == [], "once is enough"
        assert helper.client.purge() == []
        assert run(["nft", "list", "ruleset"], ns=machine) == before
    finally:
        helper.kill()
        drop_namespace(machine)


def test_only_the_owner_may_call(cloud: Cloud) -> None:
    """S36: the socket is the owner's alone; what is not a verb is refused and changes nothing."""
    path = cloud.helper.directory / "helper.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        for body in (b'{"type":"shell","command":"id"}', b'{"type":"tap_ensure"}', b"\xff", b"[]"):
            protocol.send(sock, body)
            reply, _ = protocol.receive(sock)
            assert protocol.REPLIES.decode(reply).code == "refused"
