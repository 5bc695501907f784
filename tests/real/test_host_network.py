"""The host's networking for real: namespaces as guests, a root helper of its own, everything removed afterwards."""

import contextlib
import secrets
import socket
from pathlib import Path

import pytest

from kilonova.agent.helper import names, protocol
from kilonova.agent.helper.client import HelperError
from kilonova.agent.helper.run import drop_namespace, inside, ip, links, nft, run
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.agent.metadata.server import MetadataService
from kilonova.agent.metadata.store import FileMetadataStore
from kilonova.agent.network.applier import PortNotReady
from kilonova.objects.guest import AddressConfig, MetadataDocument, NicConfig
from kilonova.objects.netstate import (
    Change,
    GroupState,
    RuleState,
)
from tests.real.netcloud import ANY_OUT, ANY_OUT6, Cloud, Net, new_id, routed, ssh
from tests.real.netguest import Helper, missing, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


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
    ns = names.host_ns(cloud.helper.tag)
    assert "set g4_" in run(["nft", "list", "sets"], ns=ns)
    gone = Change(host="h", removed=(("port", b.id, b.generation),))
    assert [i for i in cloud.network.apply(gone).items if i[3] is not None] == []
    assert "set g4_" not in run(["nft", "list", "sets"], ns=ns)
    assert ("group", group) not in cloud.network.generations()


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


def test_a_port_that_the_filter_refuses_harms_nobody_else(cloud: Cloud) -> None:
    """One set of rules that the kernel does not take is reported and cut off; others change as before."""
    net = Net(cloud, 100)
    strange = RuleState(
        direction="ingress", ethertype="IPv4", protocol="icmp", port_min=8, port_max=4711
    )
    a, b, bad = net.port(11), net.port(12), net.port(13, rules=(ANY_OUT, strange))
    cloud.apply(net.state(), a)
    applied = cloud.network.apply(Change(host="h", documents=(b, bad)))
    errors = {id_: error for _, id_, _, error in applied.items}
    assert errors[b.id] is None
    assert errors[bad.id] is not None
    with pytest.raises(PortNotReady):
        cloud.network.plug(bad.id)
    one, two = cloud.guest(a), cloud.guest(b)
    with contextlib.closing(two.serve(22)):
        assert not one.tcp("192.168.7.12", 22)
        cloud.apply(b.replace(generation=2, rules=(ANY_OUT, ssh())))
        assert one.tcp("192.168.7.12", 22)
    cloud.apply(
        bad.replace(generation=2, rules=(ANY_OUT,), pairs=(("0.0.0.0/0", None), ("::/0", None)))
    )
    cloud.guest(bad)
