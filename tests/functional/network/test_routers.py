"""Routers: legs, overlaps, routes, gateways, what is in use."""

from typing import Any

from tests.functional.network.conftest import Cloud


def lan(cloud: Cloud, cidr: str, who: str = "demo:member", **fields: Any) -> tuple[str, str]:
    net = cloud.make("network", who, name="lan")["id"]
    return net, cloud.make("subnet", who, network_id=net, cidr=cidr, ip_version=4, **fields)["id"]


def leg(cloud: Cloud, router: str, verb: str = "add", **body: str) -> Any:
    return cloud.call("PUT", f"/routers/{router}/{verb}_router_interface", body=body)


def kind(result: Any) -> str:
    return str(result.json["NeutronError"]["type"])


def test_interfaces(cloud: Cloud) -> None:
    router = cloud.make("router", name="r")["id"]
    net, subnet = lan(cloud, "10.1.0.0/24")
    added = leg(cloud, router, subnet_id=subnet)
    assert added.status_code == 200 and added.json["subnet_ids"] == [subnet]
    port = cloud.ok("GET", f"/ports/{added.json['port_id']}")["port"]
    assert port["device_owner"] == "network:router_interface" and port["device_id"] == router
    assert port["fixed_ips"][0]["ip_address"] == "10.1.0.1" and port["security_groups"] == []
    again = leg(cloud, router, subnet_id=subnet)
    assert again.status_code == 400 and "already has a port" in again.text
    _, overlapping = lan(cloud, "10.1.0.128/25")
    assert "overlaps" in leg(cloud, router, subnet_id=overlapping).text
    assert leg(cloud, router).status_code == 400
    assert leg(cloud, router, subnet_id=subnet, port_id=port["id"]).status_code == 400
    _, closed = lan(cloud, "10.2.0.0/24", gateway_ip=None)
    assert "gateway IP" in leg(cloud, router, subnet_id=closed).text
    assert kind(cloud.call("DELETE", f"/routers/{router}")) == "RouterInUse"
    assert kind(cloud.call("DELETE", f"/subnets/{subnet}")) == "SubnetInUse"
    assert kind(cloud.call("DELETE", f"/networks/{net}")) == "NetworkInUse"
    assert kind(cloud.call("DELETE", f"/ports/{port['id']}")) == "ServicePortInUse"
    gone = leg(cloud, router, "remove", subnet_id=subnet)
    assert gone.status_code == 200 and gone.json["port_id"] == port["id"]
    missing = leg(cloud, router, "remove", subnet_id=subnet)
    assert (missing.status_code, kind(missing)) == (404, "RouterInterfaceNotFoundForSubnet")
    for path in (f"/routers/{router}", f"/subnets/{subnet}", f"/networks/{net}"):
        cloud.ok("DELETE", path)


def test_a_port_becomes_a_leg(cloud: Cloud) -> None:
    router = cloud.make("router", name="r")["id"]
    net, subnet = lan(cloud, "10.1.0.0/24")
    port = cloud.make("port", network_id=net, fixed_ips=[{"ip_address": "10.1.0.77"}])["id"]
    assert leg(cloud, router, port_id=port).json["subnet_id"] == subnet
    other = cloud.make("router", name="r2")["id"]
    assert kind(leg(cloud, other, port_id=port)) == "PortInUse"
    assert leg(cloud, router, "remove", port_id=port).status_code == 200
    assert cloud.call("GET", f"/ports/{port}").status_code == 404
    assert leg(cloud, router, "remove", port_id=port).status_code == 404


def test_foreign_things_are_missing(cloud: Cloud) -> None:
    """S19"""
    router = cloud.make("router", name="r")["id"]
    _, subnet = lan(cloud, "10.1.0.0/24", "other:member")
    assert leg(cloud, router, subnet_id=subnet).status_code == 404
    result = cloud.call(
        "PUT", f"/routers/{router}/add_router_interface", "other:member", {"subnet_id": subnet}
    )
    assert result.status_code == 404


def test_extra_routes(cloud: Cloud) -> None:
    router = cloud.make("router", name="r")["id"]
    _, subnet = lan(cloud, "10.1.0.0/24")
    leg(cloud, router, subnet_id=subnet)
    path = f"/routers/{router}"
    route = {"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}
    shown = cloud.ok("PUT", path, body={"router": {"routes": [route]}})["router"]
    assert shown["routes"] == [route]
    assert cloud.bus.documents("h1", "router", router) or cloud.bus.documents(
        "h2", "router", router
    )
    assert kind(leg(cloud, router, "remove", subnet_id=subnet)) == "RouterInterfaceInUseByRoute"
    for bad in ({**route, "nexthop": "10.9.0.1"}, {**route, "nexthop": "10.1.0.1"}):
        result = cloud.call("PUT", path, body={"router": {"routes": [bad]}})
        assert (result.status_code, kind(result)) == (400, "InvalidRoutes")
    more = {"destination": "172.16.0.0/12", "nexthop": "10.1.0.9"}
    body = {"router": {"routes": [more]}}
    assert len(cloud.ok("PUT", path + "/add_extraroutes", body=body)["router"]["routes"]) == 2
    assert cloud.ok("PUT", path + "/remove_extraroutes", body=body)["router"]["routes"] == [route]


def test_gateway(seeded: Cloud) -> None:
    nets = {n["name"]: n["id"] for n in seeded.ok("GET", "/networks")["networks"]}
    router = seeded.ok("GET", "/routers")["routers"][0]
    path = f"/routers/{router['id']}"
    before = router["external_gateway_info"]["external_fixed_ips"]
    fip = seeded.make("floatingip", floating_network_id=nets["public"])
    port = seeded.make("port", network_id=nets["private"])
    seeded.ok("PUT", f"/floatingips/{fip['id']}", body={"floatingip": {"port_id": port["id"]}})
    second = seeded.make("floatingip", floating_network_id=nets["public"])
    taken = seeded.call(
        "PUT", f"/floatingips/{second['id']}", body={"floatingip": {"port_id": port["id"]}}
    )
    assert kind(taken) == "FloatingIPPortAlreadyAssociated"
    cleared: dict[str, Any] = {"router": {"external_gateway_info": {}}}
    assert kind(seeded.call("PUT", path, body=cleared)) == "RouterExternalGatewayInUseByFloatingIp"
    inside = leg(seeded, router["id"], "remove", subnet_id=port["fixed_ips"][0]["subnet_id"])
    assert kind(inside) == "RouterInterfaceInUseByFloatingIP"
    seeded.ok("DELETE", f"/ports/{port['id']}")
    shown = seeded.ok("GET", f"/floatingips/{fip['id']}")["floatingip"]
    assert (shown["port_id"], shown["fixed_ip_address"], shown["status"]) == (None, None, "DOWN")
    assert seeded.ok("PUT", path, body=cleared)["router"]["external_gateway_info"] is None
    again = {"router": {"external_gateway_info": {"network_id": nets["public"]}}}
    info = seeded.ok("PUT", path, body=again)["router"]["external_gateway_info"]
    assert info["external_fixed_ips"] == before  # the lowest address is free again
    wrong = {"router": {"external_gateway_info": {"network_id": nets["private"]}}}
    assert seeded.call("PUT", path, body=wrong).status_code == 400
    no_snat = {
        "router": {"external_gateway_info": {"network_id": nets["public"], "enable_snat": False}}
    }
    assert seeded.call("PUT", path, body=no_snat).status_code == 403
    info = seeded.ok("PUT", path, "admin:admin", no_snat)["router"]["external_gateway_info"]
    assert info["enable_snat"] is False


def test_shared_and_provider_networks_by_admin(cloud: Cloud) -> None:
    shared = cloud.make("network", "admin:admin", name="shared", shared=True)
    cloud.make("subnet", "admin:admin", network_id=shared["id"], cidr="10.3.0.0/24", ip_version=4)
    seen = cloud.ok("GET", f"/networks/{shared['id']}")["network"]
    assert seen["shared"] is True and "provider:network_type" not in seen
    assert shared["provider:network_type"] == "vxlan" and shared["provider:segmentation_id"] >= 1
    port = cloud.make("port", network_id=shared["id"])
    assert "binding:host_id" not in port
    body = {"port": {"network_id": shared["id"], "fixed_ips": [{"ip_address": "10.3.0.9"}]}}
    assert cloud.call("POST", "/ports", body=body).status_code == 403
    assert (
        cloud.call("PUT", f"/networks/{shared['id']}", body={"network": {"name": "x"}}).status_code
        == 403
    )
    unshare = {"network": {"shared": False}}
    assert (
        kind(cloud.call("PUT", f"/networks/{shared['id']}", "admin:admin", unshare))
        == "InvalidSharedSetting"
    )
    sub = {"subnet": {"network_id": shared["id"], "cidr": "10.4.0.0/24", "ip_version": 4}}
    assert cloud.call("POST", "/subnets", body=sub).status_code == 403
    full = cloud.ok("GET", "/network-ip-availabilities", "admin:admin")[
        "network_ip_availabilities"
    ][0]
    assert (full["total_ips"], full["used_ips"]) == (253, 2)
    assert cloud.call("GET", "/network-ip-availabilities").status_code == 403
    assert cloud.ok("GET", "/agents", "admin:admin") == {"agents": []}


def test_documents(cloud: Cloud) -> None:
    root = cloud.http.simulate_get("/network").json["versions"][0]
    assert root["links"][0]["href"] == "http://cloud:8774/network/v2.0/"
    assert cloud.call("GET", "", "").json["resources"][0]["name"] == "network"
    aliases = {e["alias"] for e in cloud.ok("GET", "/extensions")["extensions"]}
    assert {"security-group", "router", "external-net"} <= aliases
    assert not {"subnet_allocation", "rbac-policies", "address-scope", "qos", "trunk"} & aliases
    assert cloud.ok("GET", "/extensions/router")["extension"]["alias"] == "router"
    assert cloud.call("GET", "/extensions/nope").status_code == 404
    assert cloud.ok("GET", "/service-providers") == {"service_providers": []}
    assert len(cloud.ok("GET", "/availability_zones")["availability_zones"]) == 2
