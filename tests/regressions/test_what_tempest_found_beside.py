"""What Tempest met in the identity and network APIs, each as it failed before."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Whole, running

ID, N = "/identity/v3", "/network/v2.0"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=1) as made:
        yield made


def _ok(whole: Whole, method: str, path: str, body: Any = None, *, who: str = "admin") -> Any:
    got = whole.call(method, path, body, who=who)
    assert got.status < 300, got
    return got.json


def test_a_role_of_a_domain_is_never_effective_itself(whole: Whole) -> None:
    """A role that a domain calls ``admin`` once made its holder the cloud's admin."""
    body = {"role": {"name": "admin", "domain_id": "default"}}
    role = _ok(whole, "POST", f"{ID}/roles", body)["role"]["id"]
    user = {"user": {"name": "climber", "password": "correct-horse-battery-9"}}
    user_id = _ok(whole, "POST", f"{ID}/users", user)["user"]["id"]
    project = whole.project("demo")
    members = _ok(whole, "GET", f"{ID}/roles?name=member")["roles"]
    for id_ in (role, members[0]["id"]):
        _ok(whole, "PUT", f"{ID}/projects/{project}/users/{user_id}/roles/{id_}")
    who = {"name": "climber", "domain": {"id": "default"}, "password": "correct-horse-battery-9"}
    auth = {"identity": {"methods": ["password"], "password": {"user": who}}}
    scope = {"project": {"id": project}}
    got = whole.call("POST", f"{ID}/auth/tokens", {"auth": {**auth, "scope": scope}}, who=None)
    assert {r["name"] for r in got.json["token"]["roles"]} == {"member", "reader"}
    token = got.headers["x-subject-token"]
    assert whole.call("GET", "/compute/v2.1/os-services", token=token).status == 403
    query = f"user.id={user_id}&effective"
    held = _ok(whole, "GET", f"{ID}/role_assignments?{query}")["role_assignments"]
    assert role not in {a["role"]["id"] for a in held}
    implied = f"{ID}/roles/{members[0]['id']}/implies/{role}"
    assert whole.call("PUT", implied, who="admin").status == 403


def test_a_token_that_ended_is_not_found_by_anybody(whole: Whole) -> None:
    token = whole.login("demo")
    mine = {"X-Subject-Token": token}
    assert whole.call("GET", f"{ID}/auth/tokens", headers=mine).status == 200
    assert whole.call("DELETE", f"{ID}/auth/tokens", headers=mine).status == 204
    assert whole.call("GET", f"{ID}/auth/tokens", headers=mine).status == 404


def test_an_admin_may_change_a_password_that_it_knows(whole: Whole) -> None:
    user = {"user": {"name": "pat", "password": "old-horse-battery-1"}}
    id_ = _ok(whole, "POST", f"{ID}/users", user)["user"]["id"]
    change = {"original_password": "old-horse-battery-1", "password": "new-horse-battery-2"}
    wrong = {"user": {**change, "original_password": "no"}}
    assert whole.call("POST", f"{ID}/users/{id_}/password", wrong, who="admin").status == 401
    body = {"user": change}
    assert whole.call("POST", f"{ID}/users/{id_}/password", body, who="admin").status == 204


def test_a_user_of_a_missing_domain_is_404(whole: Whole) -> None:
    body = {"user": {"name": "x", "password": "long-enough-word-1", "domain_id": "none"}}
    assert whole.call("POST", f"{ID}/users", body, who="admin").status == 404


def test_subnets_of_an_external_network_are_its_owners(whole: Whole) -> None:
    (public,) = _ok(whole, "GET", f"{N}/networks?name=public", who="demo")["networks"]
    path = f"{N}/subnets?network_id={public['id']}"
    assert _ok(whole, "GET", path, who="demo")["subnets"] == []
    (subnet,) = _ok(whole, "GET", path)["subnets"]
    assert whole.call("GET", f"{N}/subnets/{subnet['id']}").status == 404


def test_an_external_network_goes_with_its_idle_floating_addresses(whole: Whole) -> None:
    net = {"network": {"name": "ext2", "router:external": True}}
    id_ = _ok(whole, "POST", f"{N}/networks", net)["network"]["id"]
    subnet = {"network_id": id_, "ip_version": 4, "cidr": "198.51.100.0/28", "enable_dhcp": False}
    _ok(whole, "POST", f"{N}/subnets", {"subnet": subnet})
    made = _ok(whole, "POST", f"{N}/floatingips", {"floatingip": {"floating_network_id": id_}})
    _ok(whole, "DELETE", f"{N}/networks/{id_}")
    path = f"{N}/floatingips/{made['floatingip']['id']}"
    assert whole.call("GET", path, who="admin").status == 404


def test_a_rule_shows_the_protocol_number_it_was_made_with(whole: Whole) -> None:
    body = {"security_group": {"name": "numbers"}}
    group = _ok(whole, "POST", f"{N}/security-groups", body, who="demo")["security_group"]["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": 17}
    path = f"{N}/security-group-rules"
    made = _ok(whole, "POST", path, {"security_group_rule": rule}, who="demo")
    assert made["security_group_rule"]["protocol"] == "17"
    same = {"security_group_rule": {**rule, "protocol": "udp"}}
    assert whole.call("POST", path, same).status == 409


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"port_range_min": -16, "port_range_max": 80}, 400, "Invalid value for port -16"),
        ({"port_range_min": 80, "port_range_max": 79}, 400, "port_range_min must be <= "),
        ({"port_range_max": 6}, 400, "port_range_min must be <= port_range_max"),
        ({"protocol": "icmp", "port_range_min": -1, "port_range_max": 25}, 400, "Invalid value"),
        ({"remote_group_id": "bad_group_id"}, 404, "bad_group_id"),
    ],
)
def test_rules_are_refused_in_neutrons_words(
    whole: Whole, fields: dict[str, Any], status: int, says: str
) -> None:
    groups = _ok(whole, "GET", f"{N}/security-groups", who="demo")["security_groups"]
    rule = {"security_group_id": groups[0]["id"], "direction": "ingress", "protocol": "tcp"}
    body = {"security_group_rule": {**rule, **fields}}
    got = whole.call("POST", f"{N}/security-group-rules", body)
    assert got.status == status and says in got.json["NeutronError"]["message"]


def test_everybody_sees_that_there_are_no_agents(whole: Whole) -> None:
    assert _ok(whole, "GET", f"{N}/agents", who="demo") == {"agents": []}


def test_a_leg_that_is_gone_is_not_found(whole: Whole) -> None:
    router = _ok(whole, "POST", f"{N}/routers", {"router": {"name": "r9"}}, who="demo")["router"]
    net = _ok(whole, "POST", f"{N}/networks", {"network": {"name": "n9"}}, who="demo")["network"]
    subnet = {"network_id": net["id"], "ip_version": 4, "cidr": "10.99.0.0/24"}
    _ok(whole, "POST", f"{N}/subnets", {"subnet": subnet}, who="demo")
    port = {"port": {"network_id": net["id"]}}
    leg = {"port_id": _ok(whole, "POST", f"{N}/ports", port, who="demo")["port"]["id"]}
    path = f"{N}/routers/{router['id']}"
    _ok(whole, "PUT", f"{path}/add_router_interface", leg, who="demo")
    _ok(whole, "PUT", f"{path}/remove_router_interface", leg, who="demo")
    assert whole.call("PUT", f"{path}/remove_router_interface", leg).status == 404
