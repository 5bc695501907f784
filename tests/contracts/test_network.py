"""The contract of NetworkService: the embedded service, and Neutron's API by openstacksdk.

The second speaks to the embedded service's own API over HTTP: the driver for a real Neutron is exercised to the last
byte. Both have simulated hosts on the in-process bus.
"""

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import keystoneauth1.session
import openstack.connection
import pytest
from keystoneauth1 import token_endpoint

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import SYSTEM
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound, QuotaExceeded
from kilonova.common.ids import new_hex, new_uuid
from kilonova.http.app import Application
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.seed import seed
from kilonova.network.embedded.service import service
from kilonova.network.embedded.store import floating, networks, ports
from kilonova.network.embedded.store.common import ADD_TAG
from kilonova.network.interface import NetworkService, PortBindingFailed
from kilonova.network.openstack import OpenStackNetwork, as_service
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Applied, Change, PortState
from kilonova.objects.port import NetworkEvent, NetworkEventName, RequestedNic
from tests import databases

pytestmark = pytest.mark.filterwarnings("ignore")  # openstacksdk warns of itself


def until(condition: Callable[[], bool], guard_s: float = 30.0) -> None:
    end = time.monotonic() + guard_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


class Host:
    """A host that applies whatever it is told, once it is awake."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self.bus, self.name = bus, name
        self.awake = True
        self.ports: dict[str, PortState] = {}
        bus.subscribe(f"agent.{name}.state", self.take)

    def take(self, subject: str, body: bytes) -> None:
        if not self.awake:
            return
        change = decode(body, Change)
        items = []
        for d in change.documents:
            if isinstance(d, PortState):
                self.ports[d.id] = d
                items.append(("port", d.id, d.generation, None))
        for kind, thing, _ in change.removed:
            if kind == "port":
                self.ports.pop(thing, None)
        report = Applied(host=self.name, items=tuple(items))
        self.bus.publish(f"network.report.{self.name}", encode(report))


class Rig:
    """One implementation with a project that has a network with a subnet, and hosts."""

    def __init__(self, root: Path, kind: str) -> None:
        self.project = new_hex()
        self.bus = MemoryBus()
        self.hosts = {n: Host(self.bus, n) for n in ("host1", "host2")}
        self.database = databases.at(root / "network.sqlite", "network")
        embedded = EmbeddedNetwork(self.database, self.bus, SYSTEM, lambda: list(self.hosts))
        embedded.start()
        seed(embedded, new_hex(), self.project)
        self.embedded = embedded
        self.service: NetworkService = embedded
        self.events: list[NetworkEvent] = []
        self.http: Any = None
        if kind == "openstack":
            self.use_sdk()
        else:
            self.service.on_event(self.events.append)
        self.ctx = Context(
            request_id="req-1", user_id="u", project_id=self.project, roles=("member", "reader")
        )

    def use_sdk(self) -> None:
        """Put openstacksdk and HTTP between compute and the embedded service."""
        self.http = ThreadedServer(("127.0.0.1", 0), Silent)
        url = f"http://127.0.0.1:{self.http.server_port}/network"
        app = Application([service(self.embedded, url)], None, _authenticate, url)
        self.http.set_app(app.wsgi)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        made: dict[str, Any] = {}

        def connect(project: str | None) -> Any:
            who = project or "service"
            if who not in made:
                auth = token_endpoint.Token(url, who)
                made[who] = openstack.connection.Connection(
                    session=keystoneauth1.session.Session(auth), network_endpoint_override=url
                )
            return made[who]

        driver = OpenStackNetwork(connect, SYSTEM.now)
        self.embedded.on_event(
            driver.heard
        )  # as Neutron tells compute: through its external events
        driver.on_event(self.events.append)
        self.service = as_service(driver)

    def network(self) -> str:
        return self.service.plan(self.ctx, self.project, None)[0].network_id

    def close(self) -> None:
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
        self.embedded.stop()
        self.bus.close()
        self.database.close()


def _authenticate(token: str | None, service_token: str | None, request_id: str) -> Context:
    """Take the token for the caller's project; everybody is what the service user is: an administrator."""
    roles = ("admin", "manager", "member", "reader", "service")
    return Context(request_id=request_id, user_id="nova", project_id=token, roles=roles)


class ThreadedServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(params=["embedded", "openstack"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.close()


def test_a_port_is_made_once_per_key_and_removed_for_good(rig: Rig) -> None:
    key, server = (new_uuid(), "nic0"), new_uuid()
    made = [
        rig.service.ensure_port(
            key,
            project_id=rig.project,
            device_id=server,
            host="host1",
            network_id=rig.network(),
            hostname="web",
        )
        for _ in range(3)
    ]
    assert len({p.port_id for p in made}) == 1
    port = made[0]
    assert port.host == "host1" and port.vif_type and port.mac and port.mtu >= 1280
    assert len(port.fixed_ips) == 1 and port.subnets[0].cidr
    assert not port.preserve_on_delete and port.security_groups[0][1] == "default"
    assert [p.port_id for p in rig.service.ports_of([server])[server]] == [port.port_id]
    assert rig.service.remove_port(key) == 1
    assert rig.service.remove_port(key) == 0
    assert rig.service.ports_of([server]) == {}


def test_all_ports_of_a_server_go_at_once(rig: Rig) -> None:
    server, other = new_uuid(), new_uuid()
    operation = new_uuid()
    for item, device in (("nic0", server), ("nic1", server), ("nic2", other)):
        rig.service.ensure_port(
            (operation, item),
            project_id=rig.project,
            device_id=device,
            host="host1",
            network_id=rig.network(),
        )
    assert rig.service.remove_ports_of(server) == 2
    assert rig.service.remove_ports_of(server) == 0
    assert list(rig.service.ports_of([server, other])) == [other]


def test_plugged_is_told_when_the_host_applied_it(rig: Rig) -> None:
    rig.hosts["host1"].awake = False
    server = new_uuid()
    made = rig.service.ensure_port(
        (new_uuid(), "nic0"),
        project_id=rig.project,
        device_id=server,
        host="host1",
        network_id=rig.network(),
    )
    assert rig.service.ports_of([server])[server][0].status == "DOWN"
    assert rig.events == []
    rig.hosts["host1"].awake = True
    until(lambda: any(e.port_id == made.port_id for e in rig.events))
    event = rig.events[0]
    assert (event.name, event.server_id, event.status) == (
        NetworkEventName.VIF_PLUGGED,
        server,
        "completed",
    )
    assert rig.service.ports_of([server])[server][0].status == "ACTIVE"


def test_a_named_address_is_given_once(rig: Rig) -> None:
    network = rig.network()
    first = rig.service.ensure_port(
        (new_uuid(), "0"),
        project_id=rig.project,
        device_id=new_uuid(),
        host="host1",
        network_id=network,
    )
    taken = first.fixed_ips[0].ip_address
    with pytest.raises(BadRequest):
        rig.service.plan(rig.ctx, rig.project, [RequestedNic(network_id=network, fixed_ip=taken)])
    with pytest.raises(BadRequest):
        rig.service.ensure_port(
            (new_uuid(), "0"),
            project_id=rig.project,
            device_id=new_uuid(),
            host="host1",
            network_id=network,
            fixed_ip=taken,
        )


def test_unknown_things_are_refused_by_their_name(rig: Rig) -> None:
    nothing = new_uuid()
    with pytest.raises(BadRequest, match=nothing):
        rig.service.plan(rig.ctx, rig.project, [RequestedNic(network_id=nothing)])
    with pytest.raises(BadRequest, match=nothing):
        rig.service.plan(rig.ctx, rig.project, [RequestedNic(port_id=nothing)])
    with pytest.raises(BadRequest, match=nothing):
        rig.service.resolve_groups(rig.ctx, rig.project, [nothing])
    with pytest.raises(NotFound):
        rig.service.set_security_group(rig.ctx, new_uuid(), nothing, True)


def test_many_servers_at_once_get_different_addresses(rig: Rig) -> None:
    network, found, failed = rig.network(), [], []

    def ask(i: int) -> None:
        try:
            port = rig.service.ensure_port(
                (new_uuid(), "0"),
                project_id=rig.project,
                device_id=f"server{i}",
                host=("host1", "host2")[i % 2],
                network_id=network,
            )
            found.append(port.fixed_ips[0].ip_address)
        except KilonovaError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not failed and len(set(found)) == 40
    until(
        lambda: all(
            p.status == "ACTIVE"
            for ports in rig.service.ports_of([f"server{i}" for i in range(40)]).values()
            for p in ports
        )
    )


def test_moving_to_another_host_leaves_the_first(rig: Rig) -> None:
    key, server, network = (new_uuid(), "0"), new_uuid(), rig.network()
    made = rig.service.ensure_port(
        key, project_id=rig.project, device_id=server, host="host1", network_id=network
    )
    until(lambda: made.port_id in rig.hosts["host1"].ports)
    rig.service.ensure_port(
        key, project_id=rig.project, device_id=server, host="host2", network_id=network
    )
    until(lambda: made.port_id in rig.hosts["host2"].ports)
    until(lambda: made.port_id not in rig.hosts["host1"].ports)
    until(lambda: rig.service.ports_of([server])[server][0].status == "ACTIVE")


def test_claims_are_found_and_swept(rig: Rig) -> None:
    key = (new_uuid(), "0")
    rig.service.ensure_port(
        key, project_id=rig.project, device_id=new_uuid(), host="host1", network_id=rig.network()
    )
    until(lambda: [(c.operation, c.item) for c in rig.service.claims(0.0)] == [key])
    assert rig.service.claims(3600) == []
    assert rig.service.sweep([key, (new_uuid(), "0")]) == 1
    assert rig.service.claims(-1.0) == []


def test_groups_are_put_on_and_taken_off(rig: Rig) -> None:
    server = new_uuid()
    rig.service.ensure_port(
        (new_uuid(), "0"),
        project_id=rig.project,
        device_id=server,
        host="host1",
        network_id=rig.network(),
        security_groups=(),
    )
    assert rig.service.security_groups_of([server]) == {}
    rig.service.set_security_group(rig.ctx, server, "default", True)
    assert [n for _, n in rig.service.security_groups_of([server])[server]] == ["default"]
    rig.service.set_security_group(rig.ctx, server, "default", False)
    assert rig.service.security_groups_of([server]) == {}
    with pytest.raises(NotFound):
        rig.service.set_security_group(rig.ctx, server, "default", False)
    with pytest.raises(NotFound):
        rig.service.set_security_group(rig.ctx, new_uuid(), "default", True)


def _two(rig: Rig) -> tuple[str, list[str]]:
    """A server with two ports on host1, ACTIVE."""
    server, operation, network = new_uuid(), new_uuid(), rig.network()
    made = [
        rig.service.ensure_port(
            (operation, item),
            project_id=rig.project,
            device_id=server,
            host="host1",
            network_id=network,
        ).port_id
        for item in ("nic0", "nic1")
    ]
    until(lambda: _active(rig, server))
    return server, made


def _active(rig: Rig, server: str) -> bool:
    return all(p.status == "ACTIVE" for p in rig.service.ports_of([server])[server])


def _bound(rig: Rig, server: str) -> set[tuple[str, bool, bool]]:
    return {(b.host, b.active, b.ready) for b in rig.service.bindings_of([server])[server]}


def test_a_second_host_prepares_and_the_switch_is_one_step(rig: Rig) -> None:
    """CC-5.2, CC-6.7: an inactive binding at the destination, activated; the source's is kept for a way back."""
    server, made = _two(rig)
    rig.events.clear()
    assert rig.service.binding_extended
    for _ in range(2):
        rig.service.add_bindings(server, "host2")
    until(lambda: _bound(rig, server) == {("host1", True, True), ("host2", False, True)})
    first, second = rig.hosts["host1"].ports, rig.hosts["host2"].ports
    until(lambda: all(p in second for p in made))
    assert all(first[p].active and not second[p].active for p in made)
    wanted = {(NetworkEventName.VIF_PLUGGED, "host2", p) for p in made}
    until(lambda: {(e.name, e.host, e.port_id) for e in rig.events} == wanted)
    assert all(p.host == "host1" for p in rig.service.ports_of([server])[server])
    for _ in range(2):
        rig.service.activate_bindings(server, "host2")
    until(lambda: _bound(rig, server) == {("host1", False, True), ("host2", True, True)})
    until(lambda: all(second[p].active and not first[p].active for p in made))
    assert all(p.host == "host2" for p in rig.service.ports_of([server])[server])
    assert rig.service.delete_bindings(server, "host2") == 0, "the active one stays"
    assert [rig.service.delete_bindings(server, "host1") for _ in range(2)] == [2, 0]
    until(lambda: not any(p in first for p in made))
    assert _bound(rig, server) == {("host2", True, True)} and all(p in second for p in made)


def test_bindings_that_are_not_wanted_any_more_leave_nothing(rig: Rig) -> None:
    """CC-5.6: a roll-back removes the destination's bindings; so do an unbind and a delete."""
    server, made = _two(rig)
    rig.service.add_bindings(server, "host2")
    until(lambda: all(p in rig.hosts["host2"].ports for p in made))
    assert len(rig.service.inactive_bindings(-1.0)) == 2
    assert rig.service.inactive_bindings(3600.0) == []
    assert rig.service.delete_bindings(server, "host2") == 2
    until(lambda: not any(p in rig.hosts["host2"].ports for p in made))
    rig.service.add_bindings(server, "host2")
    rig.service.bind_ports(server, "host2")
    until(lambda: _bound(rig, server) == {("host2", True, True)})
    rig.service.add_bindings(server, "host1")
    rig.service.bind_ports(server, "host2")
    until(lambda: _bound(rig, server) == {("host2", True, True)})
    rig.service.add_bindings(server, "host1")
    rig.service.bind_ports(server, None)
    assert rig.service.bindings_of([server]) == {server: []}
    until(lambda: not any(p in h.ports for h in rig.hosts.values() for p in made))
    rig.service.bind_ports(server, "host1")
    rig.service.add_bindings(server, "host2")
    until(lambda: all(p in rig.hosts["host2"].ports for p in made))
    rig.service.remove_ports_of(server)
    until(lambda: not any(p in h.ports for h in rig.hosts.values() for p in made))
    assert rig.service.bindings_of([server]) == {} and rig.service.inactive_bindings(-1.0) == []


def test_a_host_that_cannot_have_the_ports_is_refused(rig: Rig) -> None:
    """CC-5.2: PortBindingFailed, with nothing changed."""
    server, _ = _two(rig)
    with pytest.raises(PortBindingFailed, match="Binding failed for port"):
        rig.service.add_bindings(server, "nowhere")
    with pytest.raises(PortBindingFailed):
        rig.service.activate_bindings(server, "host2")
    assert _bound(rig, server) == {("host1", True, True)}
    rig.service.add_bindings(new_uuid(), "host2")
    rig.service.activate_bindings(new_uuid(), "host2")


def test_a_port_of_the_users_is_bound_and_let_go(rig: Rig) -> None:
    """It is adopted once, keeps what its owner wrote, and is there when the server is gone."""
    mine = _users_port(rig, "mine")
    key, server = (new_uuid(), "nic0"), new_uuid()
    asked = {"project_id": rig.project, "device_id": server, "port_id": mine}
    assert rig.service.plan(rig.ctx, rig.project, [RequestedNic(port_id=mine, tag="t")])
    for _ in range(2):
        port = rig.service.ensure_port(key, host="host1", hostname="web", tag="t", **asked)
        assert (port.port_id, port.preserve_on_delete, port.tag) == (mine, True, "t")
    assert port.dns_name == "web" and port.device_owner == "compute:nova"
    with pytest.raises(Conflict):
        rig.service.plan(rig.ctx, rig.project, [RequestedNic(port_id=mine)])
    with pytest.raises(Conflict):
        rig.service.ensure_port((new_uuid(), "nic0"), host="host1", **asked)
    until(lambda: mine in rig.hosts["host1"].ports)
    assert [(c.operation, c.item) for c in rig.service.claims(-1.0)] == [key]
    assert rig.service.remove_port(key) == 1
    until(lambda: mine not in rig.hosts["host1"].ports)
    assert rig.service.ports_of([server]) == {} and rig.service.claims(-1.0) == []
    assert rig.service.plan(rig.ctx, rig.project, [RequestedNic(port_id=mine)])


def _users_port(rig: Rig, name: str) -> str:
    network = rig.network()
    new = ports.NewPort(project_id=rig.project, network_id=network, name=name)
    return rig.embedded.write(lambda w: ports.make(w, new))


def test_a_tenants_port_that_names_a_server_is_not_on_it(rig: Rig) -> None:
    """S19: neither a device_id nor a tag that its owner wrote puts a port on a server."""
    server, _ = _two(rig)
    network = rig.network()
    new = ports.NewPort(
        project_id=rig.project, network_id=network, device_id=server, device_owner="compute:nova"
    )
    lie = rig.embedded.write(lambda w: ports.make(w, new))
    for tag in ("kilonova", "kilonova_operation=o", "kilonova_item=i"):
        rig.embedded.write(lambda w, t=tag: w.tx.run(ADD_TAG, resource_id=lie, tag=t))  # type: ignore[misc]
    assert lie not in {p.port_id for p in rig.service.ports_of([server])[server]}
    assert rig.service.remove_port(("o", "i")) == 0
    assert lie not in {c.port_id for c in rig.service.claims(-1.0)}


def test_addresses_of_servers(rig: Rig) -> None:
    server, _ = _two(rig)
    with pytest.raises(NotFound):
        rig.service.add_fixed_ip(server, new_uuid())
    rig.service.add_fixed_ip(server, rig.network())
    held = [f.ip_address for p in rig.service.ports_of([server])[server] for f in p.fixed_ips]
    assert len(set(held)) == 3
    rig.service.remove_fixed_ip(server, held[-1])
    with pytest.raises(BadRequest):
        rig.service.remove_fixed_ip(server, held[-1])
    with pytest.raises(NotFound):
        rig.service.associate_floating_ip(rig.ctx, server, "203.0.113.7")
    public = rig.embedded.database.read(lambda tx: tx.value(networks.DEFAULT_EXTERNAL))
    wanted = floating.NewFloating(project_id=rig.project, network_id=public)
    taken = rig.embedded.write(lambda w: floating.get(w.tx, floating.make(w, wanted))["ip"])
    rig.service.associate_floating_ip(rig.ctx, server, taken, held[0])
    first = rig.service.ports_of([server])[server][0].fixed_ips[0]
    assert (first.ip_address, first.floating) == (held[0], (taken,))
    rig.service.disassociate_floating_ip(rig.ctx, server, taken)
    with pytest.raises(Conflict):
        rig.service.disassociate_floating_ip(rig.ctx, server, taken)
    assert rig.service.ports_of([server])[server][0].fixed_ips[0].floating == ()


def test_what_is_planned_unasked(rig: Rig) -> None:
    other = new_hex()
    assert rig.service.plan(rig.ctx, rig.project, "none") == []
    assert rig.service.plan(rig.ctx, other, None) == []
    (auto,) = rig.service.plan(rig.ctx, other, "auto")
    assert auto.network_id == "auto"
    made = rig.service.ensure_port(
        (new_uuid(), "0"), project_id=other, device_id=new_uuid(), host="host1", network_id="auto"
    )
    assert [n.network_id for n in rig.service.plan(rig.ctx, other, None)] == [made.network_id]
    rig.embedded.write(lambda w: networks.make(w, networks.NewNetwork(project_id=other)))
    with pytest.raises(Conflict, match="Multiple possible networks"):
        rig.service.plan(rig.ctx, other, None)


def test_groups_are_described(rig: Rig) -> None:
    server, _ = _two(rig)
    assert rig.service.resolve_groups(rig.ctx, rig.project, ["default", "default"])
    fresh = rig.service.resolve_groups(rig.ctx, new_hex(), ["default"])
    assert [name for _, name in fresh] == ["default"]
    (group,) = rig.service.describe_groups(server)
    assert (group.name, group.project_id) == ("default", rig.project)
    assert {r.remote_group for r in group.rules} == {("default", rig.project)}


def test_a_quota_is_kept(rig: Rig) -> None:
    rig.service.check_quota(rig.project, 1)
    with pytest.raises(QuotaExceeded):
        rig.service.check_quota(rig.project, 1_000_000)
