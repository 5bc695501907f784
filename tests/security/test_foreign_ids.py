"""Another project's things, named in a body, are answered like things that are not there (S19)."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.security.roles_world import COMPUTE, KEY, MISSING, NETWORK, World
from tests.whole import Whole, running


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as made:
        made.token("other")
        yield made


@pytest.fixture(scope="module")
def theirs(whole: Whole) -> dict[str, str]:
    """Things of project demo."""
    world = World(whole)
    out = {
        kind: world.thing(service, f"/{kind}", name, "")
        for kind, service, name in (
            ("networks", "network", "id"),
            ("subnets", "network", "id"),
            ("routers", "network", "id"),
            ("security-groups", "network", "id"),
            ("floatingips", "network", "id"),
            ("image", "image", "image_id"),
            ("group", "compute", "group_id"),
        )
    }
    private = whole.call("GET", NETWORK + "/networks?name=private").json["networks"][0]["id"]
    port = {"port": {"network_id": private}}
    out["ports"] = whole.call("POST", NETWORK + "/ports", port).json["port"]["id"]
    key = {"keypair": {"name": "theirs", "public_key": KEY}}
    whole.call("POST", COMPUTE + "/os-keypairs", key)
    flavor = {
        "name": "hidden",
        "ram": 64,
        "vcpus": 1,
        "disk": 1,
        "os-flavor-access:is_public": False,
    }
    made = whole.call("POST", COMPUTE + "/flavors", {"flavor": flavor}, who="admin")
    out["flavor"] = made.json["flavor"]["id"]
    path = f"{COMPUTE}/flavors/{out['flavor']}/action"
    access = {"addTenantAccess": {"tenant": whole.content.projects["demo"]}}
    assert whole.call("POST", path, access, who="admin").status == 200
    return out


BOOT = {
    "image": lambda i: {"server": {"imageRef": i}},
    "flavor": lambda i: {"server": {"flavorRef": i}},
    "ports": lambda i: {"server": {"networks": [{"port": i}]}},
    "networks": lambda i: {"server": {"networks": [{"uuid": i}]}},
    "security-groups": lambda i: {"server": {"networks": "auto", "security_groups": [{"name": i}]}},
    "group": lambda i: {"os:scheduler_hints": {"group": i}},
}


@pytest.mark.parametrize("kind", BOOT)
def test_nothing_foreign_is_booted_from(whole: Whole, theirs: dict[str, str], kind: str) -> None:
    """S19"""

    def ask(found: str) -> tuple[int, str]:
        more: dict[str, Any] = BOOT[kind](found)
        server = {"name": "x", "flavorRef": "42", "imageRef": whole.image(), "networks": "none"}
        body = {**more, "server": {**server, **more.get("server", {})}}
        got = whole.call("POST", COMPUTE + "/servers", body, who="other", version="2.90")
        return got.status, got.raw.decode().replace(found, "ID")

    status, words = ask(theirs[kind])
    assert status in (400, 404), words
    assert (status, words) == ask(MISSING)


def test_a_key_of_another_user_is_not_found(whole: Whole, theirs: dict[str, str]) -> None:
    """S19"""
    answers = set()
    for name in ("theirs", "nobodys"):
        server = {"name": "x", "flavorRef": "42", "imageRef": whole.image(), "key_name": name}
        body = {"server": {**server, "networks": "none"}}
        got = whole.call("POST", COMPUTE + "/servers", body, who="other", version="2.90")
        answers.add((got.status, got.raw))
    assert len(answers) == 1 and answers.pop()[0] == 400


WIRE = {
    "port on a network": ("POST", "/ports", lambda t: {"port": {"network_id": t["networks"]}}),
    "subnet on a network": (
        "POST",
        "/subnets",
        lambda t: {"subnet": {"network_id": t["networks"], "ip_version": 4, "cidr": "10.9.0.0/24"}},
    ),
    "rule in a group": (
        "POST",
        "/security-group-rules",
        lambda t: {
            "security_group_rule": {
                "security_group_id": t["security-groups"],
                "direction": "ingress",
            }
        },
    ),
    "interface on a router": (
        "PUT",
        "/routers/{routers}/add_router_interface",
        lambda t: {"subnet_id": t["subnets"]},
    ),
    "address to a port": (
        "PUT",
        "/floatingips/{floatingips}",
        lambda t: {"floatingip": {"port_id": t["ports"]}},
    ),
}


@pytest.mark.parametrize("what", WIRE)
def test_nothing_foreign_is_wired(whole: Whole, theirs: dict[str, str], what: str) -> None:
    """S19"""
    method, path, body = WIRE[what]

    def ask(things: dict[str, str]) -> tuple[int, str]:
        full = NETWORK + path.format_map({k.replace("-", "_"): v for k, v in things.items()})
        got = whole.call(method, full, body(things), who="other")
        text = got.raw.decode()
        for found in things.values():
            text = text.replace(found, "ID")
        return got.status, text

    status, words = ask(theirs)
    assert status in (403, 404), words
    assert (status, words) == ask(dict.fromkeys(theirs, MISSING))


@pytest.mark.parametrize("own", ["interface", "address", "group"])
def test_own_things_are_not_wired_to_foreign_ones(
    whole: Whole, theirs: dict[str, str], own: str
) -> None:
    """S19: the path is mine, the id in the body is not."""

    def make(many: str, kind: str, **values: Any) -> str:
        got = whole.call("POST", f"{NETWORK}/{many}", {kind: values}, who="other")
        assert got.status == 201, got
        return str(got.json[kind]["id"])

    public = whole.call("GET", NETWORK + "/networks?name=public").json["networks"][0]["id"]
    if own == "interface":
        router = make("routers", "router", name="mine")
        method, path = "PUT", f"/routers/{router}/add_router_interface"
        bodies = [{"subnet_id": i} for i in (theirs["subnets"], MISSING)]
    elif own == "address":
        address = make("floatingips", "floatingip", floating_network_id=public)
        method, path = "PUT", f"/floatingips/{address}"
        bodies = [{"floatingip": {"port_id": i}} for i in (theirs["ports"], MISSING)]
    else:
        group = make("security-groups", "security_group", name="mine")
        rule = {"security_group_id": group, "direction": "ingress"}
        method, path = "POST", "/security-group-rules"
        bodies = [
            {"security_group_rule": {**rule, "remote_group_id": i}}
            for i in (theirs["security-groups"], MISSING)
        ]
    answers = []
    for body, found in zip(bodies, (None, MISSING), strict=True):
        got = whole.call(method, NETWORK + path, body, who="other")
        text = got.raw.decode()
        for known in (found, *theirs.values()):
            text = text.replace(known, "ID") if known else text
        answers.append((got.status, text))
    assert answers[0] == answers[1], answers
    assert answers[0][0] in (400, 403, 404)
