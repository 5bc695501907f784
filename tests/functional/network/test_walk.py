"""The network half of the acceptance walk: what a tenant and an admin do, and what hosts hear of it."""

from typing import Any

from tests.functional.network.conftest import ADMIN, DEMO, Cloud, context
from tests.functional.network.waiting import until


def only(cloud: Cloud, path: str, plural: str, who: str = "demo:member") -> dict[str, Any]:
    found = cloud.ok("GET", path, who)[plural]
    assert len(found) == 1, found
    return dict(found[0])


def test_seed_is_idempotent_and_gives_the_walk_its_networks(cloud: Cloud) -> None:
    cloud.seed()
    cloud.seed()
    names = sorted(n["name"] for n in cloud.ok("GET", "/networks")["networks"])
    assert names == ["private", "public"]
    public = only(cloud, "/networks?router%3Aexternal=True", "networks")
    assert public["is_default"] is True and public["project_id"] == ADMIN
    router = only(cloud, "/routers", "routers")
    assert router["external_gateway_info"]["network_id"] == public["id"]
    assert router["external_gateway_info"]["enable_snat"] is True
    subnet = only(cloud, "/subnets?name=private-subnet", "subnets")
    assert (subnet["cidr"], subnet["gateway_ip"]) == ("10.10.0.0/24", "10.10.0.1")
    assert only(cloud, "/security-groups", "security_groups")["name"] == "default"
    assert cloud.ok("GET", "/networks", "other:member")["networks"] == [public]


def test_port_of_a_server_goes_up_when_its_host_applied_it(seeded: Cloud) -> None:
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    key = ("op1", "nic0")
    made = net.ensure_port(
        key,
        project_id=DEMO,
        device_id="server1",
        host="h1",
        network_id=plan[0].network_id,
        hostname="hello",
    )
    assert (made.status, made.vif_type, made.vif_details["port_filter"]) == ("DOWN", "tap", True)
    assert made.security_groups[0][1] == "default" and made.subnets[0].gateway == "10.10.0.1"
    again = net.ensure_port(
        key,
        project_id=DEMO,
        device_id="server1",
        host="h1",
        network_id=plan[0].network_id,
        hostname="hello",
    )
    assert again == made
    document = seeded.bus.documents("h1", "port", made.port_id)[-1]
    assert document.addresses == ((made.fixed_ips[0].ip_address, made.subnets[0].id),)
    assert (
        seeded.bus.documents("h1", "network", made.network_id)[-1].subnets[0].dhcp_server
        == "10.10.0.2"
    )
    assert seeded.events == []
    seeded.applied("h2")
    assert net.ports_of(["server1"])["server1"][0].status == "DOWN"
    seeded.applied("h1")
    assert net.ports_of(["server1"])["server1"][0].status == "ACTIVE"
    assert [(e.name, e.server_id, e.port_id) for e in seeded.events] == [
        ("network-vif-plugged", "server1", made.port_id)
    ]
    assert net.remove_port(key) == 1
    assert net.remove_port(key) == 0
    assert ("port", made.port_id) in seeded.bus.removed("h1")
    assert net.ports_of(["server1"]) == {}


def test_a_foreign_host_cannot_report_a_port(seeded: Cloud) -> None:
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = net.ensure_port(
        ("op", "0"), project_id=DEMO, device_id="s", host="h1", network_id=plan[0].network_id
    )
    from kilonova.objects.base import encode
    from kilonova.objects.netstate import Applied

    report = Applied(host="h2", items=(("port", made.port_id, 99, None),))
    seeded.bus.publish("network.report.h2", encode(report))
    lie = Applied(host="h1", items=(("port", made.port_id, 99, None),))
    seeded.bus.publish("network.report.h2", encode(lie))
    assert net.ports_of(["s"])["s"][0].status == "DOWN"


def test_floating_ip_reaches_the_guest_and_leaves_it(seeded: Cloud) -> None:
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = net.ensure_port(
        ("op", "0"), project_id=DEMO, device_id="s", host="h1", network_id=plan[0].network_id
    )
    public = only(seeded, "/networks?name=public", "networks")
    fip = seeded.make("floatingip", floating_network_id=public["id"])
    assert fip["status"] == "DOWN" and fip["port_id"] is None
    net.associate_floating_ip(context("demo:member"), "s", fip["floating_ip_address"])
    shown = seeded.ok("GET", f"/floatingips/{fip['id']}")["floatingip"]
    assert shown["fixed_ip_address"] == made.fixed_ips[0].ip_address
    assert shown["port_details"]["device_id"] == "s"
    router = only(seeded, "/routers", "routers")
    host = next(h for h in ("h1", "h2") if seeded.bus.documents(h, "router", router["id"]))
    state = seeded.bus.documents(host, "router", router["id"])[-1]
    assert state.floating == ((fip["floating_ip_address"], made.fixed_ips[0].ip_address),)
    assert state.gateway.gateway == "172.24.4.1" and state.gateway.snat is True
    assert state.interfaces[0].addresses == (("10.10.0.1", "10.10.0.0/24"),)
    seeded.applied(host)
    assert seeded.ok("GET", f"/floatingips/{fip['id']}")["floatingip"]["status"] == "ACTIVE"
    assert net.ports_of(["s"])["s"][0].fixed_ips[0].floating == (fip["floating_ip_address"],)
    assert [e.name for e in seeded.events][-1] == "network-changed" or "network-changed" in [
        e.name for e in seeded.events
    ]
    net.disassociate_floating_ip(context("demo:member"), "s", fip["floating_ip_address"])
    assert seeded.bus.documents(host, "router", router["id"])[-1].floating == ()
    seeded.ok("DELETE", f"/floatingips/{fip['id']}")
    assert seeded.call("GET", f"/floatingips/{fip['id']}").status_code == 404


def test_rule_change_reaches_every_port_of_the_group_at_once(seeded: Cloud) -> None:
    """S27"""
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = [
        net.ensure_port(
            ("op", str(i)),
            project_id=DEMO,
            device_id=f"s{i}",
            host=h,
            network_id=plan[0].network_id,
        )
        for i, h in enumerate(["h1", "h1", "h2"])
    ]
    group = only(seeded, "/security-groups", "security_groups")
    rule = seeded.make(
        "security_group_rule",
        security_group_id=group["id"],
        direction="ingress",
        protocol="TCP",
        port_range_min=22,
        port_range_max="22",
        remote_ip_prefix="10.0.0.5/8",
    )
    assert (rule["protocol"], rule["remote_ip_prefix"], rule["ethertype"]) == (
        "tcp",
        "10.0.0.0/8",
        "IPv4",
    )
    for p, h in zip(made, ["h1", "h1", "h2"], strict=True):
        first, last = (
            seeded.bus.documents(h, "port", p.port_id)[0],
            seeded.bus.documents(h, "port", p.port_id)[-1],
        )
        assert last.generation > first.generation
        assert [r.port_min for r in last.rules if r.protocol == "tcp"] == [22]
    seeded.ok("DELETE", f"/security-group-rules/{rule['id']}")
    last = seeded.bus.documents("h2", "port", made[2].port_id)[-1]
    assert [r for r in last.rules if r.protocol == "tcp"] == []


def test_remote_group_members_are_published_in_batches(seeded: Cloud) -> None:
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = [
        net.ensure_port(
            ("op", str(i)),
            project_id=DEMO,
            device_id=f"s{i}",
            host="h1",
            network_id=plan[0].network_id,
        )
        for i in range(5)
    ]
    net.publisher.send_groups()
    group = only(seeded, "/security-groups", "security_groups")
    states = seeded.bus.documents("h1", "group", group["id"])
    wanted = {p.fixed_ips[0].ip_address for p in made}

    def newest() -> set[str]:
        found = seeded.bus.documents("h1", "group", group["id"])
        return set(found[-1].ipv4) if found else set()

    until(lambda: newest() == wanted)
    assert len(states) <= 5


def test_a_host_asks_for_everything_that_it_should_have(seeded: Cloud) -> None:
    from kilonova.objects.base import decode, encode
    from kilonova.objects.netstate import Change, StateRequest

    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = net.ensure_port(
        ("op", "0"), project_id=DEMO, device_id="s", host="h1", network_id=plan[0].network_id
    )
    reply = seeded.bus.request("network.state.h1", encode(StateRequest(host="h1")), 1)
    change = decode(reply, Change)
    kinds = {type(d).__struct_config__.tag for d in change.documents}
    assert change.full and {"network", "port", "group"} <= kinds
    one = decode(
        seeded.bus.request(
            "network.state.h1", encode(StateRequest(host="h1", port_id=made.port_id)), 1
        ),
        Change,
    )
    assert not one.full and {type(d).__struct_config__.tag for d in one.documents} == {
        "network",
        "port",
        "group",
    }
    nothing = decode(
        seeded.bus.request("network.state.hx", encode(StateRequest(host="hx")), 1), Change
    )
    assert nothing.full and nothing.documents == ()


def test_a_router_moves_off_a_host_that_is_down(seeded: Cloud) -> None:
    router = only(seeded, "/routers", "routers")
    home = next(h for h in ("h1", "h2") if seeded.bus.documents(h, "router", router["id"]))
    other = "h2" if home == "h1" else "h1"
    seeded.hosts = [other]
    assert seeded.network.rebalance_routers() == 1
    assert seeded.network.rebalance_routers() == 0
    assert ("router", router["id"]) in seeded.bus.removed(home)
    state = seeded.bus.documents(other, "router", router["id"])[-1]
    assert state.gateway is not None and len(state.interfaces) == 1


def test_what_no_host_reported_is_sent_again(seeded: Cloud) -> None:
    net = seeded.network
    plan = net.plan(context("demo:member"), DEMO, None)
    made = net.ensure_port(
        ("op", "0"), project_id=DEMO, device_id="s", host="h1", network_id=plan[0].network_id
    )
    before = len(seeded.bus.documents("h1", "port", made.port_id))
    seeded.clock.advance(3)
    assert net.publisher.resend() >= 1
    assert len(seeded.bus.documents("h1", "port", made.port_id)) == before + 1
    seeded.applied("h1")
    seeded.applied("h2")
    seeded.clock.advance(3)
    assert net.publisher.resend() == 0


def test_a_router_made_before_any_host_was_heard_of_finds_one(cloud: Cloud) -> None:
    cloud.hosts = []
    cloud.seed()
    router = only(cloud, "/routers", "routers")
    assert cloud.bus.sent == []
    cloud.hosts = ["h1"]
    until(lambda: bool(cloud.bus.documents("h1", "router", router["id"])))
    assert cloud.bus.documents("h1", "router", router["id"])[-1].gateway is not None
    cloud.hosts = ["h2"]
    assert cloud.network.rebalance_routers(move=False) == 0
