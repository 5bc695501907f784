"""A cloud whose simulated hosts have NUMA nodes and devices, as its users and its operator see them (CC-12.2)."""

from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.common.config import Settings
from kilonova.common.devices import PciAlias, SimulatedDevices
from tests.whole import Whole, running

V = "/compute/v2.1"
GPU = "CUSTOM_PCI_10DE_1EB8"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    settings = Settings(
        pci_alias=(PciAlias("gpu", GPU),),
        fake_host_devices=(SimulatedDevices(GPU, 2),),
        fake_host_numa_nodes=2,
    )
    with running(hosts=1, settings=settings) as made:
        yield made


def flavor(cloud: Whole, name: str, **specs: str) -> str:
    size = {"name": name, "vcpus": 2, "ram": 512, "disk": 1}
    made = cloud.call("POST", f"{V}/flavors", {"flavor": size}, who="admin").json["flavor"]
    path = f"{V}/flavors/{made['id']}/os-extra_specs"
    body = {"extra_specs": {k.replace("__", ":"): v for k, v in specs.items()}}
    assert cloud.call("POST", path, body, who="admin").status == 200
    return str(made["id"])


def topology(cloud: Whole, server: str, who: str) -> Any:
    path = f"{V}/servers/{server}/topology"
    return cloud.call("GET", path, who=who, version="2.78").json


def test_a_server_with_a_device_and_two_nodes(cloud: Whole) -> None:
    specs = {"hw__numa_nodes": "2", "pci_passthrough__alias": "gpu:2"}
    server = cloud.server(flavorRef=flavor(cloud, "m1.both", **specs))
    nodes = [{"memory_mb": 256, "siblings": [], "vcpu_set": [n]} for n in (0, 1)]
    assert topology(cloud, server, "demo") == {"nodes": nodes, "pagesize_kb": None}
    more = [{**n, "host_node": k, "cpu_pinning": {}} for k, n in enumerate(nodes)]
    assert topology(cloud, server, "admin")["nodes"] == more
    path = f"/placement/allocations/{server}"
    held = cloud.call("GET", path, who="admin").json["allocations"]
    found = sorted(tuple(sorted(h["resources"].items())) for h in held.values())
    node = (("CUSTOM_NUMA_MEMORY_MB", 256), ("CUSTOM_NUMA_VCPU", 1))
    whole = (("DISK_GB", 1), ("MEMORY_MB", 512), ("VCPU", 2))
    assert found == [node, node, ((GPU, 1),), ((GPU, 1),), whole]
    cloud.gone(server)
    held = cloud.call("GET", path, who="admin").json["allocations"]
    assert held == {}


def test_one_node_is_shown_too(cloud: Whole) -> None:
    server = cloud.server(flavorRef=flavor(cloud, "m1.one", hw__numa_nodes="1"))
    nodes = [{"memory_mb": 512, "siblings": [], "vcpu_set": [0, 1]}]
    assert topology(cloud, server, "demo")["nodes"] == nodes
    cloud.gone(server)


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ({"hw__numa_nodes": "3"}, "at most 2 NUMA nodes"),
        ({"hw__numa_nodes": "2", "hw__numa_mem.0": "1"}, "must be provided for all NUMA nodes"),
        ({"pci_passthrough__alias": "fpga:1"}, "PCI alias fpga is not defined"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(
    cloud: Whole, specs: dict[str, str], says: str
) -> None:
    of = flavor(cloud, f"m1.refused.{len(says)}", **specs)
    body = {
        "server": {
            "name": "no",
            "flavorRef": of,
            "imageRef": cloud.image(),
            "networks": "none",
        }
    }
    got = cloud.call("POST", f"{V}/servers", body, who="demo", version="2.93")
    assert got.status == 400
    assert says in got.json["badRequest"]["message"]
