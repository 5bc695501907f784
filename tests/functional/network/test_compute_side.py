"""What compute asks: plans in Nova's words, quotas, user-given ports, groups and floating addresses of servers."""

import pytest

from kilonova.common.errors import BadRequest, Conflict, Forbidden, NotFound, QuotaExceeded
from kilonova.objects.port import RequestedNic
from tests.functional.network.conftest import DEMO, OTHER, Cloud, context

ME = context("demo:member")
NOBODY = "00000000-0000-4000-8000-000000000000"


def private(cloud: Cloud) -> str:
    return str(cloud.ok("GET", "/networks?name=private")["networks"][0]["id"])


def public(cloud: Cloud) -> str:
    return str(cloud.ok("GET", "/networks?name=public")["networks"][0]["id"])


def ask(cloud: Cloud, **fields: str) -> list[str]:
    return [p.network_id for p in cloud.network.plan(ME, DEMO, [RequestedNic(**fields)])]


def test_plan_without_request(seeded: Cloud) -> None:
    net = seeded.network
    assert [p.network_name for p in net.plan(ME, DEMO, None)] == ["private"]
    assert [p.network_name for p in net.plan(ME, DEMO, "auto")] == ["private"]
    assert net.plan(ME, DEMO, "none") == []
    other = context("other:member")
    assert net.plan(other, OTHER, None) == []
    assert [p.network_id for p in net.plan(other, OTHER, "auto")] == ["auto"]
    seeded.make("network", name="second")
    with pytest.raises(Conflict, match="Multiple possible networks found"):
        net.plan(ME, DEMO, None)


def test_auto_makes_a_network_once(seeded: Cloud) -> None:
    made = [
        seeded.network.ensure_port(
            ("o", str(i)), project_id=OTHER, device_id=f"s{i}", host="h1", network_id="auto"
        )
        for i in range(2)
    ]
    assert made[0].network_id == made[1].network_id
    assert made[0].network_name == "auto_allocated_network"
    router = seeded.ok("GET", "/routers", "other:member")["routers"]
    assert len(router) == 1 and router[0]["external_gateway_info"] is not None
    path = f"/auto-allocated-topology/{OTHER}"
    assert (
        seeded.ok("GET", path, "other:member")["auto_allocated_topology"]["id"]
        == made[0].network_id
    )
    assert seeded.call("DELETE", path, "other:member").status_code == 409
    for i in range(2):
        seeded.network.remove_port(("o", str(i)))
    seeded.ok("DELETE", path, "other:member")
    assert seeded.ok("GET", "/routers", "other:member")["routers"] == []
    assert seeded.call("GET", f"/auto-allocated-topology/{DEMO}", "other:member").status_code == 403


def test_auto_without_an_external_network_is_refused(cloud: Cloud) -> None:
    with pytest.raises(BadRequest, match="Unable to automatically allocate a network"):
        cloud.network.plan(ME, DEMO, "auto")


def test_plan_refusals(seeded: Cloud) -> None:
    net = private(seeded)
    with pytest.raises(BadRequest, match=f"Network {NOBODY} could not be found"):
        ask(seeded, network_id=NOBODY)
    with pytest.raises(BadRequest, match=f"Port id {NOBODY} could not be found"):
        ask(seeded, port_id=NOBODY)
    with pytest.raises(Forbidden, match="not allowed to create an interface on external network"):
        ask(seeded, network_id=public(seeded))
    with pytest.raises(BadRequest, match="is already in use"):
        ask(seeded, network_id=net, fixed_ip="10.10.0.1")
    with pytest.raises(BadRequest, match="not a valid ip address"):
        ask(seeded, network_id=net, fixed_ip="10.99.0.1")
    with pytest.raises(BadRequest, match="Invalid fixed IP"):
        ask(seeded, network_id=net, fixed_ip="x")
    bare = seeded.make("network", name="bare")["id"]
    with pytest.raises(BadRequest, match="requires a subnet"):
        ask(seeded, network_id=bare)
    lame = seeded.make("port", network_id=bare)["id"]
    with pytest.raises(BadRequest, match="requires a FixedIP"):
        ask(seeded, port_id=lame)
    used = seeded.make("port", network_id=net, device_id="x")["id"]
    with pytest.raises(Conflict, match="is still in use"):
        ask(seeded, port_id=used)
    free = seeded.make("port", network_id=net)["id"]
    with pytest.raises(Conflict, match="is still in use"):
        seeded.network.plan(ME, DEMO, [RequestedNic(port_id=free), RequestedNic(port_id=free)])
    foreign = context("other:member")
    with pytest.raises(BadRequest, match="could not be found"):
        seeded.network.plan(foreign, OTHER, [RequestedNic(port_id=free)])
    with pytest.raises(BadRequest, match="could not be found"):
        seeded.network.plan(foreign, OTHER, [RequestedNic(network_id=net)])
    assert ask(seeded, network_id=net, fixed_ip="10.10.0.50") == [net]
    assert ask(seeded, port_id=free) == [net]


def test_a_port_of_the_user_is_kept(seeded: Cloud) -> None:
    net = seeded.network
    port = seeded.make("port", network_id=private(seeded), name="mine")
    made = net.ensure_port(
        ("o", "0"), project_id=DEMO, device_id="s", host="h1", port_id=port["id"], hostname="web"
    )
    assert made.preserve_on_delete and made.port_id == port["id"] and made.dns_name == "web"
    with pytest.raises(Conflict):
        net.ensure_port(("o2", "0"), project_id=DEMO, device_id="t", host="h1", port_id=port["id"])
    seeded.applied("h1")
    shown = seeded.ok("GET", f"/ports/{port['id']}")["port"]
    assert (shown["status"], shown["device_id"], shown["device_owner"]) == (
        "ACTIVE",
        "s",
        "compute:nova",
    )
    assert net.remove_port(("o", "0")) == 1
    shown = seeded.ok("GET", f"/ports/{port['id']}", "admin:admin")["port"]
    assert (
        shown["status"],
        shown["device_id"],
        shown["device_owner"],
        shown["binding:host_id"],
    ) == ("DOWN", "", "", "")
    assert shown["binding:vif_type"] == "unbound"
    assert seeded.events[-1].name == "network-vif-unplugged"
    assert ("port", port["id"]) in seeded.bus.removed("h1")


def test_moving_a_port_between_hosts(seeded: Cloud) -> None:
    net, network_id = seeded.network, private(seeded)
    kw = {"project_id": DEMO, "device_id": "s", "network_id": network_id}
    first = net.ensure_port(("o", "0"), host="h1", **kw)
    seeded.applied("h1")
    second = net.ensure_port(("o", "0"), host="h2", **kw)
    assert second.port_id == first.port_id and (second.host, second.status) == ("h2", "DOWN")
    assert ("port", first.port_id) in seeded.bus.removed("h1")
    seeded.applied("h1")
    assert net.ports_of(["s"])["s"][0].status == "DOWN"
    seeded.applied("h2")
    assert net.ports_of(["s"])["s"][0].status == "ACTIVE"


def test_port_quota(seeded: Cloud) -> None:
    seeded.ok("PUT", f"/quotas/{DEMO}", "admin:admin", {"quota": {"port": 3}})
    net, network_id = seeded.network, private(seeded)
    used = seeded.ok("GET", f"/quotas/{DEMO}/details")["quota"]["port"]["used"]
    net.check_quota(DEMO, 3 - used)
    with pytest.raises(QuotaExceeded, match="Maximum number of ports exceeded"):
        net.check_quota(DEMO, 4 - used)
    for i in range(3 - used):
        net.ensure_port(
            (f"o{i}", "0"), project_id=DEMO, device_id="s", host="h1", network_id=network_id
        )
    with pytest.raises(QuotaExceeded):
        net.ensure_port(
            ("last", "0"), project_id=DEMO, device_id="s", host="h1", network_id=network_id
        )
    result = seeded.call("POST", "/ports", body={"port": {"network_id": network_id}})
    assert (result.status_code, result.json["NeutronError"]["type"]) == (409, "OverQuota")
    seeded.ok("DELETE", f"/quotas/{DEMO}", "admin:admin")
    assert seeded.ok("GET", f"/quotas/{DEMO}")["quota"]["port"] == 500
    assert seeded.call("GET", f"/quotas/{OTHER}").status_code == 403
    assert seeded.call("PUT", f"/quotas/{DEMO}", body={"quota": {"port": 3}}).status_code == 403
    bad = seeded.call("PUT", f"/quotas/{DEMO}", "admin:admin", {"quota": {"port": -2}})
    assert bad.status_code == 400 and "port" in bad.json["NeutronError"]["message"]


def test_bulk_create_is_all_or_nothing(seeded: Cloud) -> None:
    network_id = private(seeded)
    seeded.ok("PUT", f"/quotas/{DEMO}", "admin:admin", {"quota": {"port": 5}})
    before = len(seeded.ok("GET", "/ports")["ports"])
    items = [{"network_id": network_id, "name": f"p{i}"} for i in range(9)]
    assert seeded.call("POST", "/ports", body={"ports": items}).status_code == 409
    assert len(seeded.ok("GET", "/ports")["ports"]) == before
    made = seeded.ok("POST", "/ports", body={"ports": items[:2]})["ports"]
    assert [p["name"] for p in made] == ["p0", "p1"]


def test_groups_of_a_server(seeded: Cloud) -> None:
    net, network_id = seeded.network, private(seeded)
    group = seeded.make("security_group", name="web")
    assert net.resolve_groups(ME, DEMO, ["web", group["id"], "default"])[0] == (group["id"], "web")
    with pytest.raises(BadRequest, match="Security group nope not found"):
        net.resolve_groups(ME, DEMO, ["nope"])
    made = net.ensure_port(
        ("o", "0"),
        project_id=DEMO,
        device_id="s",
        host="h1",
        network_id=network_id,
        security_groups=[group["id"]],
    )
    assert net.security_groups_of(["s"]) == {"s": [(group["id"], "web")]}
    net.set_security_group(ME, "s", "default", True)
    assert [n for _, n in net.security_groups_of(["s"])["s"]] == ["default", "web"]
    assert len(seeded.bus.documents("h1", "port", made.port_id)[-1].groups) == 2
    net.set_security_group(ME, "s", "web", False)
    assert [n for _, n in net.security_groups_of(["s"])["s"]] == ["default"]
    with pytest.raises(NotFound, match="not associated"):
        net.set_security_group(ME, "s", "web", False)
    with pytest.raises(NotFound, match="not found"):
        net.set_security_group(ME, "s", "nope", True)
    seeded.make("security_group", name="web")
    with pytest.raises(Conflict, match="Multiple security groups"):
        net.set_security_group(ME, "s", "web", True)
    in_use = seeded.ok("GET", "/security-groups?name=default")["security_groups"][0]
    assert seeded.call("DELETE", f"/security-groups/{in_use['id']}").status_code == 409


def test_floating_refusals(seeded: Cloud) -> None:
    net = seeded.network
    with pytest.raises(NotFound):
        net.associate_floating_ip(ME, "s", "172.24.4.200")
    fip = seeded.make("floatingip", floating_network_id=public(seeded))
    with pytest.raises(BadRequest, match="No fixed IPs"):
        net.associate_floating_ip(ME, "s", fip["floating_ip_address"])
    lonely = seeded.make("network", name="lonely")["id"]
    seeded.make("subnet", network_id=lonely, cidr="10.77.0.0/24", ip_version=4)
    net.ensure_port(("o", "0"), project_id=DEMO, device_id="s", host="h1", network_id=lonely)
    with pytest.raises(BadRequest, match="not reachable"):
        net.associate_floating_ip(ME, "s", fip["floating_ip_address"])
    with pytest.raises(Conflict):
        net.disassociate_floating_ip(ME, "s", fip["floating_ip_address"])
    with pytest.raises(NotFound):
        net.associate_floating_ip(context("other:member"), "s", fip["floating_ip_address"])


def test_claims_and_sweep(seeded: Cloud) -> None:
    net, network_id = seeded.network, private(seeded)
    net.ensure_port(("o", "0"), project_id=DEMO, device_id="s", host="h1", network_id=network_id)
    assert net.claims(60) == []
    seeded.clock.advance(61)
    claim = net.claims(60)[0]
    assert (claim.operation, claim.item, claim.device_id) == ("o", "0", "s")
    assert net.sweep([("o", "0"), ("o", "1")]) == 1
    assert net.claims(0) == []


def test_addresses_of_many_servers_cost_a_fixed_number_of_statements(seeded: Cloud) -> None:
    net, network_id = seeded.network, private(seeded)
    servers = [f"s{i}" for i in range(50)]
    for s in servers:
        net.ensure_port((s, "0"), project_id=DEMO, device_id=s, host="h1", network_id=network_id)
    counts = []
    for n in (1, 50):
        tries = []
        for _ in range(5):  # the network's own thread may ask something in between
            before = seeded.database.statements
            assert len(net.ports_of(servers[:n])) == n
            tries.append(seeded.database.statements - before)
        counts.append(min(tries))
    assert counts[0] == counts[1] <= 8
