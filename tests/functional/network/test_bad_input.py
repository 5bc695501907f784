"""Every bad input gets a clear answer that names the field; nothing is stored (issue 2 §4)."""

from typing import Any

import pytest

from tests.functional.network.conftest import Cloud

GOOD = {"cidr": "10.9.0.0/24", "ip_version": 4}
SUBNET: list[tuple[dict[str, Any], int, str]] = [
    ({**GOOD, "cidr": "10.9.0.0"}, 400, "cidr"),
    ({**GOOD, "cidr": "fd00::/64"}, 400, "cidr"),
    ({**GOOD, "cidr": "0.0.0.0/0"}, 400, "cidr"),
    ({**GOOD, "cidr": "10.10.0.128/25"}, 400, "overlaps"),
    ({**GOOD, "cidr": None}, 400, "cidr"),
    ({"cidr": "10.9.0.0/24"}, 400, "ip_version"),
    ({**GOOD, "ip_version": 5}, 400, "ip_version"),
    ({**GOOD, "gateway_ip": "x"}, 400, "gateway_ip"),
    ({**GOOD, "gateway_ip": "10.9.0.255"}, 400, "gateway_ip"),
    ({**GOOD, "gateway_ip": "fd00::1"}, 400, "gateway_ip"),
    ({**GOOD, "dns_nameservers": ["dns.example"]}, 400, "dns_nameservers"),
    ({**GOOD, "dns_nameservers": "8.8.8.8"}, 400, "dns_nameservers"),
    ({**GOOD, "host_routes": [{"destination": "x", "nexthop": "10.9.0.1"}]}, 400, "host_routes"),
    ({**GOOD, "host_routes": [{"destination": "1.0.0.0/8"}]}, 400, "nexthop"),
    (
        {**GOOD, "allocation_pools": [{"start": "10.9.0.9", "end": "10.9.0.2"}]},
        400,
        "allocation pool",
    ),
    (
        {**GOOD, "allocation_pools": [{"start": "10.9.0.9", "end": "10.9.1.2"}]},
        400,
        "allocation pool",
    ),
    ({**GOOD, "allocation_pools": [{"start": "10.9.0.1", "end": "10.9.0.9"}]}, 409, "10.9.0.1"),
    (
        {
            **GOOD,
            "allocation_pools": [
                {"start": "10.9.0.2", "end": "10.9.0.9"},
                {"start": "10.9.0.9", "end": "10.9.0.20"},
            ],
        },
        409,
        "overlapping",
    ),
    ({**GOOD, "enable_dhcp": "maybe"}, 400, "enable_dhcp"),
    ({**GOOD, "ipv6_ra_mode": "slaac"}, 400, "ipv6_ra_mode"),
    ({**GOOD, "subnetpool_id": "00000000-0000-4000-8000-000000000000"}, 400, "subnetpool_id"),
    ({**GOOD, "name": "x" * 256}, 400, "name"),
    ({**GOOD, "nonsense": 1}, 400, "nonsense"),
]


def refused(
    cloud: Cloud, path: str, body: Any, status: int, word: str, who: str = "demo:member"
) -> None:
    result = cloud.call("POST", path, who, body)
    assert result.status_code == status, f"{result.status_code} {result.text}"
    error = result.json["NeutronError"]
    assert word.lower() in error["message"].lower(), error
    assert error["type"] and "Traceback" not in result.text


def private(cloud: Cloud) -> dict[str, Any]:
    return dict(cloud.ok("GET", "/networks?name=private")["networks"][0])


@pytest.mark.parametrize(("fields", "status", "word"), SUBNET)
def test_subnets(seeded: Cloud, fields: dict[str, Any], status: int, word: str) -> None:
    net = private(seeded)["id"]
    before = len(seeded.ok("GET", "/subnets")["subnets"])
    refused(seeded, "/subnets", {"subnet": {"network_id": net, **fields}}, status, word)
    assert len(seeded.ok("GET", "/subnets")["subnets"]) == before


PORT: list[tuple[dict[str, Any], int, str]] = [
    ({"network_id": "x"}, 400, "network_id"),
    ({"network_id": "00000000-0000-4000-8000-000000000000"}, 404, "Network"),
    ({"fixed_ips": [{"ip_address": "x"}]}, 400, "ip_address"),
    ({"fixed_ips": [{"ip_address": "10.99.0.1"}]}, 400, "10.99.0.1"),
    ({"fixed_ips": [{"ip_address": "10.10.0.255"}]}, 400, "10.10.0.255"),
    ({"fixed_ips": [{"ip_address": "10.10.0.1"}]}, 409, "10.10.0.1"),
    ({"fixed_ips": [{"ip_address": "10.10.0.9"}, {"ip_address": "10.10.0.9"}]}, 409, "10.10.0.9"),
    ({"fixed_ips": [{"subnet_id": "00000000-0000-4000-8000-000000000000"}]}, 400, "fixed_ips"),
    ({"fixed_ips": [{}]}, 400, "fixed_ips"),
    ({"mac_address": "zz"}, 400, "mac_address"),
    ({"mac_address": "01:00:5e:00:00:01"}, 400, "mac_address"),
    ({"security_groups": ["00000000-0000-4000-8000-000000000000"]}, 404, "Security group"),
    ({"security_groups": ["default"]}, 400, "security_groups"),
    ({"allowed_address_pairs": [{"ip_address": "x"}]}, 400, "allowed_address_pairs"),
    (
        {"allowed_address_pairs": [{"ip_address": "10.0.0.1"}, {"ip_address": "10.0.0.1"}]},
        400,
        "duplicate",
    ),
    (
        {"port_security_enabled": False, "allowed_address_pairs": [{"ip_address": "10.0.0.1"}]},
        409,
        "port security",
    ),
    ({"binding:host_id": "h1"}, 403, "binding:host_id"),
    ({"binding:vnic_type": "direct"}, 400, "binding:vnic_type"),
    ({"extra_dhcp_opts": [{"opt_name": "x\ny", "opt_value": "1"}]}, 400, "opt_name"),
    (
        {"extra_dhcp_opts": [{"opt_name": "x", "opt_value": "1\ndhcp-script=/bin/sh"}]},
        400,
        "opt_value",
    ),
    ({"dns_name": "-bad-"}, 400, "dns_name"),
    ({"dns_name": "a\nb"}, 400, "dns_name"),
    ({"device_owner": "network:dhcp", "network_id": "public"}, 403, "device_owner"),
]


@pytest.mark.parametrize(("fields", "status", "word"), PORT)
def test_ports(seeded: Cloud, fields: dict[str, Any], status: int, word: str) -> None:
    """S36"""
    net = private(seeded)["id"]
    if fields.get("network_id") == "public":
        public = seeded.ok("GET", "/networks?name=public")["networks"][0]["id"]
        fields = {**fields, "network_id": public}
    before = len(seeded.ok("GET", "/ports")["ports"])
    refused(seeded, "/ports", {"port": {"network_id": net, **fields}}, status, word)
    assert len(seeded.ok("GET", "/ports")["ports"]) == before


RULE: list[tuple[dict[str, Any], int, str]] = [
    ({"direction": "up"}, 400, "direction"),
    ({"ethertype": "IPX"}, 400, "ethertype"),
    ({"protocol": "nonsense"}, 400, "nonsense"),
    ({"protocol": 256}, 400, "256"),
    ({"protocol": "tcp", "port_range_min": 22}, 400, "port_range"),
    ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 5}, 400, "value for port 0"),
    ({"protocol": "tcp", "port_range_min": 9, "port_range_max": 5}, 400, "port_range_min"),
    ({"protocol": "tcp", "port_range_min": 9, "port_range_max": 70000}, 400, "70000"),
    ({"port_range_min": 9, "port_range_max": 10}, 400, "protocol"),
    ({"protocol": "gre", "port_range_min": 9, "port_range_max": 10}, 400, "gre"),
    ({"protocol": "icmp", "port_range_min": 300}, 400, "port_range_min"),
    ({"protocol": "icmp", "port_range_max": 3}, 400, "port-range-min"),
    ({"protocol": "ipv6-icmp"}, 400, "ethertype"),
    ({"remote_ip_prefix": "x"}, 400, "remote_ip_prefix"),
    ({"remote_ip_prefix": "fd00::/8"}, 400, "remote_ip_prefix"),
    ({"remote_group_id": "00000000-0000-4000-8000-000000000000"}, 404, "Security group"),
    ({"security_group_id": "00000000-0000-4000-8000-000000000000"}, 404, "Security group"),
    ({"direction": "egress"}, 409, "already exists"),
]


@pytest.mark.parametrize(("fields", "status", "word"), RULE)
def test_rules(seeded: Cloud, fields: dict[str, Any], status: int, word: str) -> None:
    group = seeded.ok("GET", "/security-groups")["security_groups"][0]["id"]
    body = {"security_group_id": group, "direction": "ingress", **fields}
    refused(seeded, "/security-group-rules", {"security_group_rule": body}, status, word)
    assert len(seeded.ok("GET", "/security-group-rules")["security_group_rules"]) == 4


OTHERS: list[tuple[str, Any, int, str]] = [
    ("/networks", {"network": {"name": 5}}, 400, "name"),
    ("/networks", {"network": {"mtu": 20}}, 400, "mtu"),
    ("/networks", {"network": {"shared": True}}, 403, "shared"),
    ("/networks", {"network": {"router:external": True}}, 403, "router:external"),
    ("/networks", {"network": {"provider:network_type": "flat"}}, 403, "provider:network_type"),
    ("/networks", {"network": {"project_id": "e" * 32}}, 403, "create_network"),
    ("/networks", {"network": {"project_id": "d" * 32, "tenant_id": "e" * 32}}, 400, "tenant_id"),
    ("/networks", {}, 400, "non-empty"),
    ("/networks", {"networks": []}, 400, "networks"),
    ("/networks", [], 400, "object"),
    ("/networks", {"net": {}}, 400, "net"),
    ("/routers", {"router": {"external_gateway_info": {"enable_snat": True}}}, 400, "network_id"),
    ("/routers", {"router": {"external_gateway_info": {"network_id": "x"}}}, 400, "network_id"),
    ("/routers", {"router": {"distributed": True}}, 400, "distributed"),
    ("/floatingips", {"floatingip": {}}, 400, "floating_network_id"),
    ("/floatingips", {"floatingip": {"floating_network_id": "PRIVATE"}}, 400, "floating_network_id"),
    ("/floatingips", {"floatingip": {"floating_network_id": "PUBLIC", "fixed_ip_address": "1.2.3.4"}}, 400, "port_id"),
    ("/floatingips", {"floatingip": {"floating_network_id": "PUBLIC", "floating_ip_address": "172.24.4.9"}}, 403,
     "floating_ip_address"),
    ("/security-groups", {"security_group": {"name": "default"}}, 409, "Default"),
    ("/security-groups", {"security_group": {"description": "x"}}, 400, "name"),
    ("/security-groups", {"security_group": {"name": "🚀" * 256}}, 400, "name"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "word"), OTHERS)
def test_others(seeded: Cloud, path: str, body: Any, status: int, word: str) -> None:
    import json

    ids = {n["name"].upper(): n["id"] for n in seeded.ok("GET", "/networks")["networks"]}
    text = json.dumps(body)
    for name, network_id in ids.items():
        text = text.replace(f'"{name}"', f'"{network_id}"')
    refused(seeded, path, json.loads(text), status, word)


def test_unicode_names_are_kept(cloud: Cloud) -> None:
    made = cloud.make("network", name="сеть 🚀 网络")
    assert cloud.ok("GET", f"/networks/{made['id']}")["network"]["name"] == "сеть 🚀 网络"


def test_raw_garbage(cloud: Cloud) -> None:
    for body in (b"{", b"\xff\xfe", b"null", b'"x"', b"[" * 10000):
        result = cloud.http.simulate_post(
            "/network/v2.0/networks", headers={"X-Auth-Token": "demo:member"}, body=body
        )
        assert result.status_code == 400, (body[:10], result.text)
    assert cloud.call("GET", "/networks", "").status_code == 401
    assert cloud.call("GET", "/nothing").status_code == 404
    assert cloud.call("GET", "/subnetpools").status_code == 404
    assert cloud.call("PATCH", "/networks").status_code == 405
    assert cloud.call("POST", "/networks", "demo:reader", {"network": {}}).status_code == 403
