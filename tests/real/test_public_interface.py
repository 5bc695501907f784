"""The public network on a real interface: a machine (a namespace) with one cable to an outside (another one).

The machine's own traffic goes on all the time, over the very interface that the public network is on.
"""

import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilonova.agent.helper import names
from kilonova.agent.helper.client import HelperError
from kilonova.agent.helper.run import drop_namespace, inside, ip, links, run
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.agent.network.applier import RealHostNetwork
from kilonova.objects.netstate import NetworkState, RouterState
from kilonova.server import public_interface
from tests.real.netcloud import ANY_OUT, Cloud, Net, routed, ssh
from tests.real.netguest import Helper, Listener, missing, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
LAN = "198.51.100"
POOL = (f"{LAN}.200", f"{LAN}.220")


@dataclass
class Machine:
    """ns: the machine; outside: what is at the other end of its cable, and its default gateway."""

    ns: str
    outside: str

    def facts(self) -> tuple[object, object]:
        """Return what the cloud must not change: addresses of the interface, routes over it."""
        shown = json.loads(run(["ip", "-j", "address", "show", "dev", "lan0"], ns=self.ns))
        routes = json.loads(run(["ip", "-j", "route", "show", "dev", "lan0"], ns=self.ns))
        return [a["local"] for a in shown[0]["addr_info"] if a["family"] == "inet"], routes

    def reaches_out(self) -> bool:
        return reaches(self.ns, f"{LAN}.1", 7000)


def reaches(ns: str, address: str, port: int) -> bool:
    def attempt() -> bool:
        with socket.socket() as sock:
            sock.settimeout(1.0)
            try:
                sock.connect((address, port))
            except OSError:
                return False
            return True

    return inside(ns, attempt)


@pytest.fixture
def machine() -> Iterator[Machine]:
    token = secrets.token_hex(3)
    made = Machine(f"kntest-{token}-m", f"kntest-{token}-o")
    for ns in (made.ns, made.outside):
        run(["ip", "netns", "add", ns])
        ip(["link set lo up"], ns)
    ip([f"link add lan0 type veth peer name eth0 netns {made.outside}"], made.ns)
    ip([f"address add {LAN}.10/24 dev lan0", "link set lan0 up"], made.ns)
    ip([f"address add {LAN}.1/24 dev eth0", "link set eth0 up"], made.outside)
    ip([f"route add default via {LAN}.1"], made.ns)
    service = Listener(made.outside, 7000)
    yield made
    service.close()
    for ns in (made.ns, made.outside):
        drop_namespace(ns)


@pytest.fixture
def cloud(machine: Machine, tmp_path: Path) -> Iterator[Cloud]:
    helper = Helper(tmp_path, secrets.token_hex(3), ns=machine.ns)
    helper.start()
    made = Cloud(helper, RealHostNetwork(helper.client, "h"))
    try:
        yield made
    finally:
        for guest in made.guests:
            guest.remove()
        left = inside(machine.ns, helper.client.purge)
        helper.kill()
        assert left == []


def on_lan(net: Net, floating: str) -> tuple[NetworkState, RouterState]:
    external, router = routed(net, ((floating, "192.168.7.11"),))
    assert router.gateway is not None
    gateway = router.gateway.replace(gateway=f"{LAN}.1", addresses=((f"{LAN}.200", f"{LAN}.0/24"),))
    return external, router.replace(gateway=gateway)


def test_floating_addresses_on_the_machines_own_network(machine: Machine, cloud: Cloud) -> None:
    before = machine.facts()
    plan = inside(machine.ns, lambda: public_interface.find("lan0", f"{POOL[0]}-{POOL[1]}", None))
    assert (plan.cidr, plan.gateway, plan.pool) == (f"{LAN}.0/24", f"{LAN}.1", POOL)
    for _ in range(2):
        cloud.helper.client.host_up(
            plan.cidr, plan.gateway, public_interface="lan0", public_pool=plan.pool
        )
        assert machine.reaches_out()
    net = Net(cloud, 77)
    port = net.port(11, rules=(ANY_OUT, ssh()))
    floating = f"{LAN}.201"
    cloud.apply(net.state(), port, *on_lan(net, floating))
    guest = cloud.guest(port, gateway=True)
    service = guest.serve(22)
    until(lambda: guest.tcp(f"{LAN}.1", 7000), "the guest reaches the outside")
    assert reaches(machine.outside, floating, 22)
    until(lambda: f"{LAN}.1" in service.callers, "the guest sees who called")
    assert reaches(machine.ns, floating, 22), "the machine itself reaches its guest"
    assert not reaches(machine.outside, floating, 23)
    assert machine.facts() == before
    assert machine.reaches_out()
    service.close()
    with pytest.raises(HelperError, match="another interface"):
        cloud.helper.client.host_up("172.31.77.0/24", "172.31.77.1")
    assert inside(machine.ns, cloud.helper.client.purge) == []
    assert set(links(machine.ns)) == {"lo", "lan0"}
    assert machine.facts() == before
    assert machine.reaches_out()
    assert list_leftovers(cloud.helper.tag, cloud.helper.directory / "host") == []
    assert names.host_ns(cloud.helper.tag) not in run(["ip", "netns", "list"])


@pytest.mark.parametrize(
    ("interface", "pool", "cidr", "words"),
    [
        ("nothere", "198.51.100.200-198.51.100.220", None, "no interface nothere"),
        ("lan0", "198.51.100.1-198.51.100.9", None, "198.51.100.1, in use"),
        ("lan0", "198.51.100.5-198.51.100.20", None, "198.51.100.10, in use"),
        ("lan0", "203.0.113.5-203.0.113.20", None, "--public-cidr"),
        ("lan0", "198.51.100.20-198.51.100.5", None, "lower one first"),
        ("lan0", "many", None, "with a dash"),
        ("lan0", "203.0.113.5-203.0.113.20", "198.51.100.0/24", "not inside"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    interface: str, pool: str, cidr: str | None, words: str, machine: Machine
) -> None:
    with pytest.raises(public_interface.PublicInterfaceRefused, match=words):
        inside(machine.ns, lambda: public_interface.find(interface, pool, cidr))
