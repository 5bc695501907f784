"""A cloud's compute API over real databases, a real bus and simulated hosts with real agents; no engine runs.

Servers are put straight into the databases: what is tested is how the nouns beside the servers read and change them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from kilonova.agent.core import Agent, Identity
from kilonova.agent.journal import Journal
from kilonova.agent.network.fake import FakeHostNetwork
from kilonova.agent.workers import Workers
from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.api.compute.service import service
from kilonova.bus.memory import MemoryBus
from kilonova.cells.listing import Lists
from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, NotFound, Unauthorized, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.db import flavors, mappings, servers, versions
from kilonova.db.secrets import Vault
from kilonova.http.app import Application
from kilonova.objects.base import encode
from kilonova.objects.guest import Hardware, PowerState
from kilonova.objects.port import BoundPort, FixedIp, GroupInfo, GroupRule
from kilonova.objects.server import FlavorRecord, RequestedServer
from kilonova.operations import rows, stores
from kilonova.operations.hosts import Hosts
from kilonova.operations.scheduling import Scheduling
from kilonova.operations.services import Services
from kilonova.virt.fake.world import FakeGuest, World
from tests import databases
from tests.answers import Exchange, verify

URL = "http://cloud.example:8774"
DEMO, ADMIN, OTHER = "demo0000", "admin000", "other000"
ROLES = {
    "admin": ("admin", "manager", "member", "reader"),
    "demo": ("member", "reader"),
    "reader": ("reader",),
    "other": ("member", "reader"),
    "service": ("service",),
}
PROJECTS = {"admin": ADMIN, "demo": DEMO, "reader": DEMO, "other": OTHER, "service": "service0"}
FLAVOR = FlavorRecord(flavorid="1", name="m1.tiny", vcpus=1, memory_mib=512, root_gib=1)


class KnownTokens:
    """Identity with one token per user; the token is the user's name."""

    def authenticate(self, token: str | None, service: str | None, request_id: str) -> Context:
        if token not in ROLES:
            raise Unauthorized("The request you have made requires authentication.")
        return Context(
            request_id=request_id,
            user_id=f"u-{token}",
            project_id=PROJECTS[token],
            roles=ROLES[token],
        )

    def project_exists(self, project_id: str) -> bool:
        return project_id in PROJECTS.values()


class Absent:
    """A part that this half of a cloud does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unavailable("This half of a cloud does not have it.", asked=name)


class KnownPorts(Absent):
    """A network service that knows what a test told it."""

    def __init__(self) -> None:
        self.ports: dict[str, list[BoundPort]] = {}
        self.groups = {"default": "g-default", "web": "g-web"}

    def ports_of(self, ids: Any) -> dict[str, list[BoundPort]]:
        return {i: self.ports[i] for i in ids if i in self.ports}

    def set_security_group(self, ctx: Context, server_id: str, name: str, add: bool) -> None:
        if name not in self.groups:
            raise NotFound(f"Security group {name} not found.")
        if server_id not in self.ports:
            raise BadRequest("The server has no port that can have groups.")
        pair = (self.groups[name], name)
        ports = self.ports[server_id]
        if not add and not any(pair in p.security_groups for p in ports):
            raise NotFound(f"Security group {name} is not on the server.")
        for i, port in enumerate(ports):
            kept = tuple(g for g in port.security_groups if g != pair)
            ports[i] = port.replace(security_groups=(*kept, pair) if add else kept)

    def describe_groups(self, server_id: str) -> list[GroupInfo]:
        rule = GroupRule(id="r1", protocol="tcp", port_min=22, port_max=22, cidr="0.0.0.0/0")
        ping = GroupRule(id="r2", protocol="icmp", remote_group=("default", DEMO))
        found = sorted({g for p in self.ports.get(server_id, []) for g in p.security_groups})
        return [
            GroupInfo(id=i, name=n, project_id=DEMO, description="d", rules=(rule, ping))
            for i, n in found
        ]

    def associate_floating_ip(
        self, ctx: Context, server_id: str, address: str, fixed: str | None = None
    ) -> None:
        ports = self.ports.get(server_id)
        if not ports:
            raise BadRequest("No fixed IPs associated to instance")
        first = ports[0].fixed_ips[0]
        ports[0] = ports[0].replace(fixed_ips=(first.replace(floating=(address,)),))

    def disassociate_floating_ip(self, ctx: Context, server_id: str, address: str) -> None:
        port = self.ports.get(server_id, [None])[0]
        if port is None or address not in port.fixed_ips[0].floating:
            raise Conflict("The floating IP is not on this server.")
        bare = port.fixed_ips[0].replace(floating=())
        self.ports[server_id][0] = port.replace(fixed_ips=(bare,))


@dataclass
class Cloud:
    """Everything a test touches."""

    services: Services
    clock: ManualClock
    network: KnownPorts
    client: falcon.testing.TestClient
    guests: World
    stop: list[Any] = field(default_factory=list)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        at: int = 104,
        as_: str = "demo",
        status: int | None = None,
    ) -> Any:
        """Send one request at 2.``at``; return the decoded answer, or the response when no status is expected."""
        head = {"X-Auth-Token": as_, "OpenStack-API-Version": f"compute 2.{at}"}
        path, _, query = path.partition("?")
        answer = self.client.simulate_request(
            method, "/compute/v2.1" + path, headers=head, json=body, query_string=query
        )
        head = {k.lower(): v for k, v in answer.headers.items()}
        where = "/compute/v2.1" + path
        verify(Exchange(method, where, body, answer.status_code, head, answer.content))
        if status is None:
            return answer
        assert answer.status_code == status, answer.text
        return answer.json if answer.content else None

    def get(self, path: str, **kw: Any) -> Any:
        return self.call("GET", path, status=kw.pop("status", 200), **kw)

    def message(self, method: str, path: str, body: Any = None, **kw: Any) -> str:
        """Send a request that must be refused; return the message."""
        answer = self.call(method, path, body, **kw)
        (fault,) = answer.values()
        assert fault["code"] == kw["status"]
        return str(fault["message"])

    def server(self, host: str | None = "cell1-host1", **changes: Any) -> str:
        """Put a server into the databases: on a host, or (None) not placed yet."""
        now = self.clock.now()
        asked = RequestedServer(
            server_id=new_uuid(),
            project_id=changes.pop("project_id", DEMO),
            user_id=changes.pop("user_id", "u-demo"),
            request_id="req-1",
            name=changes.pop("name", "s1"),
            hostname="s1",
            flavor=changes.pop("flavor_record", FLAVOR),
            image=None,
            server_group=changes.pop("server_group", None),
            created_at=now,
        )
        cell = None if host is None else host.split("-")[0]
        world = self.services.world
        world.write(
            lambda tx: mappings.add(
                tx,
                server=asked.server_id,
                project_id=asked.project_id,
                user_id=asked.user_id,
                server_group=asked.server_group,
                vcpus=asked.flavor.vcpus,
                memory_mib=asked.flavor.memory_mib,
                requested=encode(asked),
                operation=new_uuid(),
                now=now,
            )
        )
        if cell is not None:
            row = rows.row_of(asked) | {
                "vm_state": "active",
                "task_state": None,
                "power_state": 1,
                "host": host,
                "node": host,
                "launched_at": now,
                **changes,
            }
            self.services.cell(cell).write(lambda tx: servers.add(tx, **row))
            world.write(
                lambda tx: mappings.place(tx, asked.server_id, cell=cell, host=host, now=now)
            )
        return asked.server_id

    def port(self, server_id: str, address: str = "10.0.0.5") -> BoundPort:
        """Give a server a port."""
        port = BoundPort(
            port_id=new_uuid(),
            network_id=new_uuid(),
            network_name="private",
            project_id=DEMO,
            device_id=server_id,
            mac="fa:16:3e:00:00:01",
            mtu=1500,
            status="ACTIVE",
            fixed_ips=(FixedIp(ip_address=address, subnet_id=new_uuid()),),
            tag="nic1",
        )
        self.network.ports.setdefault(server_id, []).append(port)
        return port

    def guest(
        self, server_id: str, host: str = "cell1-host1", power: int = PowerState.RUNNING
    ) -> None:
        """Let a simulated host have a guest of this server, with three lines on its console."""
        self.guests.put(
            host,
            FakeGuest(
                server=server_id,
                name="g",
                power=int(power),
                vcpus=1,
                memory_mib=512,
                disks=("root",),
                volumes=(),
                nics=(("p", "fa:16:3e:00:00:01"),),
                hardware=Hardware(machine="pc", cpu_model="none", firmware="bios"),
                log=("one", "two\x07", "three"),
            ),
        )

    def close(self) -> None:
        for closer in reversed(self.stop):
            closer()


def build(root: Path) -> Cloud:
    """Start databases, two cells of two simulated hosts, and the API."""
    clock, bus = ManualClock(), MemoryBus()
    world = databases.at(root / "global.db", "global")
    versions.ensure(world, stores.WORLD)
    cells = {n: databases.at(root / f"{n}.db", n) for n in ("cell0", "cell1", "cell2")}
    for db in cells.values():
        versions.ensure(db, stores.CELL)
    network: Any = KnownPorts()
    tokens: Any = KnownTokens()
    absent: Any = Absent()
    services = Services(
        world=world,
        cells=cells,
        bus=bus,
        vault=Vault.at(root / "secret.key"),
        images=absent,
        network=network,
        identity=tokens,
        state_dir=root,
        public_url=URL,
        clock=clock,
        simulated=True,
    )
    lists, scheduling = Lists(world, cells, render_unplaced), Scheduling(services)
    services.install(lists=lists, scheduling=scheduling)
    hosts = Hosts(services)
    services.install(hosts=hosts)
    guests, workers = World(), Workers(1)
    agents = []
    for cell in ("cell1", "cell2"):
        for k in (1, 2):
            name = f"{cell}-host{k}"
            who = Identity(host=name, host_id=f"id-{name}", cell=cell, boot_id=new_uuid())
            net = FakeHostNetwork(name, bus)
            disks = guests.volumes(name)
            agents.append(
                Agent(who, guests.driver(name), net, bus, Journal(), workers, volumes=disks)
            )
    for agent in agents:
        agent.start()
    for agent in agents:
        assert agent.registered.wait(30)
    services.install(engine=absent)  # after the registrations, which speak to one that is there
    world.write(lambda tx: flavors.add(tx, FLAVOR, clock.now()))
    app = Application([service()], services, tokens.authenticate, URL)
    client = falcon.testing.TestClient(app.wsgi)
    cloud = Cloud(services, clock, network, client, guests)
    cloud.stop = [world.close, *(d.close for d in cells.values()), bus.close, lists.close]
    cloud.stop += [hosts.close, workers.close, *(a.close for a in agents)]
    return cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = build(tmp_path)
    yield made
    made.close()
