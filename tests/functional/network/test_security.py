"""What a tenant must not be able to do by way of ports and subnets."""

from kilonova.objects.netstate import PortState
from tests.functional.network.conftest import DEMO, Cloud


def test_a_device_id_in_a_body_does_not_reach_somebodys_server(seeded: Cloud) -> None:
    """S19: a port that claims a server by device_id is not on that server, and its events go nowhere."""
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]["id"]
    made = seeded.network.ensure_port(
        ("o", "0"), project_id=DEMO, device_id="victim", host="h1", network_id=net
    )
    other = seeded.make("network", "other:member", name="n")["id"]
    seeded.make("subnet", "other:member", network_id=other, cidr="10.9.0.0/24", ip_version=4)
    lie = seeded.make(
        "port", "other:member", network_id=other, device_id="victim", device_owner="compute:nova"
    )
    assert [p.port_id for p in seeded.network.ports_of(["victim"])["victim"]] == [made.port_id]
    assert [n for _, n in seeded.network.security_groups_of(["victim"])["victim"]] == ["default"]
    seeded.ok("DELETE", f"/ports/{lie['id']}", "other:member")
    assert seeded.events == []
    body = {"port": {"device_id": "another"}}
    assert seeded.call("PUT", f"/ports/{made.port_id}", body=body).status_code == 409
    seeded.ok("DELETE", f"/ports/{made.port_id}")
    assert [e.name for e in seeded.events] == ["network-vif-deleted"]


def test_ports_that_the_network_needs_stay(seeded: Cloud) -> None:
    dhcp = seeded.ok("GET", "/ports?device_owner=network:dhcp")["ports"][0]
    taken = {"port": {"device_owner": "", "device_id": ""}}
    assert seeded.call("PUT", f"/ports/{dhcp['id']}", body=taken).status_code == 409
    seeded.ok("DELETE", f"/ports/{dhcp['id']}")
    (again,) = seeded.ok("GET", "/ports?device_owner=network:dhcp")["ports"]
    assert again["id"] != dhcp["id"] and len(again["fixed_ips"]) == len(dhcp["fixed_ips"])


def test_nothing_that_tenants_write_breaks_a_line_of_dnsmasq(seeded: Cloud) -> None:
    """S36"""
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]
    for field, value in (("dns_domain", "x\ndhcp-script=/bin/sh"), ("dns_domain", "x,y")):
        assert (
            seeded.call(
                "PUT", f"/networks/{net['id']}", body={"network": {field: value}}
            ).status_code
            == 400
        )
    subnet = f"/subnets/{net['subnets'][0]}"
    routes = [{"destination": "1.2.3.4/8", "nexthop": "10.10.0.9"}]
    shown = seeded.ok("PUT", subnet, body={"subnet": {"host_routes": routes}})["subnet"]
    assert shown["host_routes"] == [{"destination": "1.0.0.0/8", "nexthop": "10.10.0.9"}]
    bad = {"subnet": {"dns_nameservers": ["1.1.1.1\nx"]}}
    assert seeded.call("PUT", subnet, body=bad).status_code == 400


def test_an_owner_of_a_shared_networks_port_cannot_lift_its_guard(seeded: Cloud) -> None:
    shared = seeded.make("network", "admin:admin", name="shared", shared=True)["id"]
    seeded.make("subnet", "admin:admin", network_id=shared, cidr="10.3.0.0/24", ip_version=4)
    port = seeded.make("port", network_id=shared)["id"]
    pairs = [{"ip_address": "10.3.0.0/24"}]
    for change in (
        {"port_security_enabled": False, "security_groups": []},
        {"allowed_address_pairs": pairs},
        {"fixed_ips": [{"ip_address": "10.3.0.77"}]},
        {"mac_address": "fa:16:3e:00:00:01"},
        {"binding:host_id": "h2"},
    ):
        assert seeded.call("PUT", f"/ports/{port}", body={"port": change}).status_code == 403, (
            change
        )


def test_what_the_owner_of_a_network_lifts_reaches_the_host(seeded: Cloud) -> None:
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]["id"]
    made = seeded.network.ensure_port(
        ("o", "0"), project_id=DEMO, device_id="s", host="h1", network_id=net
    )
    path = f"/ports/{made.port_id}"
    assert (
        seeded.call("PUT", path, body={"port": {"port_security_enabled": False}}).status_code == 409
    )
    pairs = [{"ip_address": "10.10.0.200"}]
    seeded.ok("PUT", path, body={"port": {"allowed_address_pairs": pairs}})

    def state() -> PortState:
        found: PortState = seeded.bus.documents("h1", "port", made.port_id)[-1]
        return found

    assert state().pairs == (("10.10.0.200", made.mac),) and state().port_security
    free = {"port_security_enabled": False, "security_groups": [], "allowed_address_pairs": []}
    seeded.ok("PUT", path, body={"port": free})
    assert not state().port_security and state().rules == ()


def test_a_subnet_of_a_foreign_network_is_not_made(seeded: Cloud) -> None:
    """S19"""
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]["id"]
    body = {"subnet": {"network_id": net, "cidr": "10.4.0.0/24", "ip_version": 4}}
    assert seeded.call("POST", "/subnets", "other:member", body).status_code == 404
    port = {"port": {"network_id": net}}
    assert seeded.call("POST", "/ports", "other:member", port).status_code == 404
    public = seeded.ok("GET", "/networks?name=public")["networks"][0]["id"]
    body["subnet"]["network_id"] = public
    assert seeded.call("POST", "/subnets", "other:member", body).status_code == 403


def test_a_full_state_carries_a_number_that_grows(seeded: Cloud) -> None:
    first = seeded.network.publisher.full("h1")
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]["id"]
    seeded.network.ensure_port(
        ("o", "0"), project_id=DEMO, device_id="s", host="h1", network_id=net
    )
    assert seeded.bus.changes("h1")[-1].seq > first.seq
    assert seeded.network.publisher.full("h1").seq > seeded.bus.changes("h1")[-1].seq
