"""Routers, floating IPs, SNAT and names, with an outside that is a namespace with its own DNS."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kilonova.agent.helper import names
from kilonova.agent.helper.run import drop_namespace, inside, ip, links, run, spawn
from kilonova.objects.netstate import Advert, RuleState
from tests.real.netcloud import ANY_OUT, ANY_OUT6, OUTSIDE, Cloud, Net, routed, ssh
from tests.real.netguest import Guest, missing, resolve, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


SSH6 = RuleState(direction="ingress", ethertype="IPv6", protocol="tcp", port_min=22, port_max=22)


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


# -- IPv6 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless"])
def test_guests_make_addresses_of_what_a_router_advertises(mode: str, cloud: Cloud) -> None:
    """RS, RA, EUI-64 address as the port has it, default route, MTU; and two guests speak by them."""
    net, prefix = Net(cloud, 100), "fd00:77::"
    ports = []
    for last in (11, 12):
        plain = net.port(last, rules=(ANY_OUT, ANY_OUT6, SSH6))
        own = f"{prefix}f816:3eff:fe64:{last:x}"
        ports.append(plain.replace(addresses=(*plain.addresses, (own, net.subnet))))
    external, router = routed(net)
    advert = Advert(cidr=f"{prefix}/64", mode=mode, dns=("fd00:77::53",))
    leg = router.interfaces[0]
    leg = leg.replace(addresses=(*leg.addresses, (f"{prefix}1", f"{prefix}/64")), adverts=(advert,))
    router = router.replace(interfaces=(leg,))
    cloud.apply(net.state(), *ports, external, router)
    one, two = (cloud.guest(p) for p in ports)
    for guest, last in ((one, 11), (two, 12)):
        own = f"{prefix}f816:3eff:fe64:{last:x}"

        def has(guest: Guest = guest, own: str = own) -> bool:
            shown = guest.run("ip", "-6", "address", "show", "dev", "eth0")
            return own in shown and "tentative" not in shown

        until(has, f"{own} is there")
        assert "default via fe80::f816:3eff:feaa:" in guest.run("ip", "-6", "route")
        assert guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1400"
    with inside(two.ns, lambda: socket.create_server(("::", 22), family=socket.AF_INET6)):

        def reach() -> bool:
            with socket.socket(socket.AF_INET6) as sock:
                sock.settimeout(1)
                return sock.connect_ex((f"{prefix}f816:3eff:fe64:c", 22)) == 0

        assert inside(one.ns, reach)
    daemons = f"/run/kilonova-{cloud.helper.tag}/ra"
    assert os.listdir(daemons) == [router.id]
    cloud.apply(router.replace(generation=2, interfaces=(leg.replace(adverts=()),)))
    assert os.listdir(daemons) == []
