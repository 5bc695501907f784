"""A cloud's networks on this machine for tests: documents, guests as namespaces, a root helper of its own."""

import os
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.agent.network.applier import RealHostNetwork
from kilonova.objects.netstate import (
    Change,
    Document,
    NetworkState,
    PortState,
    RouterGateway,
    RouterInterface,
    RouterState,
    RuleState,
    SubnetState,
)
from tests.real.netguest import Guest, Helper

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
