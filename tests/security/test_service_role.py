"""The role ``service`` on the network: every port, reading networks and subnets, and nothing else."""

from collections.abc import Iterator

import pytest

from tests.whole import Whole, running

N = "/network/v2.0"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


def test_it_has_every_port_and_nothing_else(cloud: Whole) -> None:
    networks = cloud.call("GET", f"{N}/networks?name=private").json["networks"]
    private, owner = networks[0]["id"], networks[0]["project_id"]
    seen = cloud.call("GET", f"{N}/networks/{private}", who="service")
    assert seen.status == 200 and "provider:network_type" in seen.json["network"]
    assert cloud.call("GET", f"{N}/subnets?network_id={private}", who="service").json["subnets"]
    body = {
        "network_id": private,
        "project_id": owner,
        "binding:host_id": "cell1-host1",
        "mac_address": "fa:16:3e:aa:bb:cc",
    }
    made = cloud.call("POST", f"{N}/ports", {"port": body}, who="service")
    assert made.status == 201, made
    port = made.json["port"]
    assert (port["project_id"], port["binding:host_id"]) == (owner, "cell1-host1")
    mine = cloud.call("GET", f"{N}/ports/{port['id']}")
    assert mine.status == 200 and "binding:host_id" not in mine.json["port"]
    change = {"port": {"binding:host_id": "", "device_id": ""}}
    assert cloud.call("PUT", f"{N}/ports/{port['id']}", change, who="service").status == 200
    assert cloud.call("DELETE", f"{N}/ports/{port['id']}", who="service").status == 204
    for method, path, sent in (
        ("PUT", f"networks/{private}", {"network": {"name": "taken"}}),
        ("DELETE", f"networks/{private}", None),
        ("GET", f"quotas/{owner}", None),
        ("GET", "routers", None),
        ("GET", "security-groups", None),
        ("GET", "floatingips", None),
        ("POST", "routers", {"router": {"name": "r"}}),
        ("POST", "networks", {"network": {"name": "n", "project_id": owner}}),
    ):
        got = cloud.call(method, f"{N}/{path}", sent, who="service")
        assert got.status in (403, 404), (method, path, got)
