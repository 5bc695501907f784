"""NUMA nodes of guests: what is asked, what is refused in Nova's words, where each node fits, the domain of it."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest
from kilonova.objects.guest import GuestNode
from kilonova.objects.host import HostNode
from kilonova.objects.server import FlavorRecord
from kilonova.placement.inventories import Inventory
from kilonova.scheduler import guest_numa
from kilonova.scheduler.guest_numa import Asked, Cell, cells_of
from kilonova.scheduler.request import Request, groups_of
from kilonova.scheduler.select import select
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import numa
from tests.scheduling import Cloud, stock
from tests.unit.test_passthrough import check_by_schema, domain

FOUR = Asked(4, 4096)
TWO = {"hw:numa_nodes": "2"}
UNEVEN = {
    **TWO,
    "hw:numa_cpus.0": "0",
    "hw:numa_mem.0": "1024",
    "hw:numa_cpus.1": "1-3",
    "hw:numa_mem.1": "3072",
}


def test_nodes_are_even_or_as_said() -> None:
    assert cells_of(FOUR, {}, {}) == ()
    assert cells_of(FOUR, TWO, {}) == (Cell(0, (0, 1), 2048), Cell(1, (2, 3), 2048))
    assert cells_of(FOUR, UNEVEN, {}) == (Cell(0, (0,), 1024), Cell(1, (1, 2, 3), 3072))
    image = {k.replace("hw:", "hw_"): v for k, v in UNEVEN.items()}
    assert cells_of(FOUR, {}, image) == cells_of(FOUR, UNEVEN, {})
    assert cells_of(FOUR, {"hw:numa_nodes": "1"}, {}) == (Cell(0, (0, 1, 2, 3), 4096),)


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ({"hw:numa_nodes": "0"}, "It must be a number greater than 0"),
        ({"hw:numa_nodes": "x"}, "It must be a number greater than 0"),
        ({"hw:numa_nodes": "5"}, "at most 4 NUMA nodes"),
        ({"hw:numa_nodes": "3"}, "cannot be evenly distributed"),
        ({"hw:numa_cpus.0": "0"}, "must be provided for all NUMA nodes"),
        ({**TWO, "hw:numa_cpus.0": "0-1"}, "must be provided for all NUMA nodes"),
        ({**UNEVEN, "hw:numa_cpus.1": "1-4"}, "CPU number 4 is larger than max 3"),
        ({**UNEVEN, "hw:numa_cpus.1": "0-3"}, "CPU number 0 is assigned to two nodes"),
        ({**UNEVEN, "hw:numa_cpus.1": "1-2"}, r"CPU number [3] is not assigned to any node"),
        ({**UNEVEN, "hw:numa_mem.1": "1"}, "1025 MB of memory assigned, but expected 4096 MB"),
        ({**UNEVEN, "hw:numa_cpus.1": "a"}, "Invalid inclusion expression"),
    ],
)
def test_what_cannot_be_is_refused_in_novas_words(specs: dict[str, str], says: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(says)):
        cells_of(FOUR, specs, {})


def test_an_image_does_not_override_its_flavor() -> None:
    with pytest.raises(BadRequest, match="'hw_numa_nodes' is not permitted to override"):
        cells_of(FOUR, TWO, {"hw_numa_nodes": "4"})


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


def with_nodes(cloud: Cloud, name: str, *nodes: tuple[int, int, int]) -> None:
    """Add a host with nodes of (vCPUs, MiB, dedicated CPUs)."""
    cloud.host(name, inventory=stock(16, 65536))
    for n, (cpus, memory, alone) in enumerate(nodes):
        given = {
            "CUSTOM_NUMA_VCPU": Inventory(cpus, 0, 1, cpus, 1, 1.0),
            "CUSTOM_NUMA_MEMORY_MB": Inventory(memory, 0, 1, memory, 1, 1.0),
        }
        if alone:
            given["PCPU"] = Inventory(alone, 0, 1, alone, 1, 1.0)
        cloud.child(name, f"{name}_numa{n}", given, frozenset({"HW_NUMA_ROOT"}))


def wanted(**specs: str) -> Request:
    flavor = FlavorRecord(
        flavorid="1",
        name="m",
        vcpus=4,
        memory_mib=4096,
        root_gib=1,
        extra_specs={k.replace("__", ":").replace("_dot_", "."): v for k, v in specs.items()},
    )
    groups, policy = groups_of(flavor)
    apart = frozenset(g.suffix for g in groups if g.suffix.startswith(guest_numa.PREFIX))
    return Request(groups=groups, group_policy=policy, apart=apart)


def test_each_node_of_the_guest_fits_in_a_node_of_its_own(cloud: Cloud) -> None:
    cloud.host("flat", inventory=stock(16, 65536))
    with_nodes(cloud, "small", (16, 65536, 0), (1, 65536, 0))
    with_nodes(cloud, "good", (2, 2048, 0), (2, 2048, 0))
    (found,) = select(cloud.view(), wanted(hw__numa_nodes="2"), 1, 0).selections
    assert found.chosen.host == "good"
    per_node = {"CUSTOM_NUMA_VCPU": 2, "CUSTOM_NUMA_MEMORY_MB": 2048}
    assert found.chosen.amounts == {
        cloud.uuids["good"]: {"VCPU": 4, "MEMORY_MB": 4096, "DISK_GB": 1},
        cloud.uuids["good_numa0"]: per_node,
        cloud.uuids["good_numa1"]: per_node,
    }


def test_dedicated_cpus_are_of_the_nodes(cloud: Cloud) -> None:
    with_nodes(cloud, "h", (2, 2048, 2), (2, 2048, 2))
    specs = {"hw__numa_nodes": "2", "hw__cpu_policy": "dedicated"}
    (found,) = select(cloud.view(), wanted(**specs), 1, 0).selections
    assert found.chosen.amounts[cloud.uuids["h_numa1"]] == {
        "PCPU": 2,
        "CUSTOM_NUMA_MEMORY_MB": 2048,
    }
    assert found.chosen.amounts[cloud.uuids["h"]] == {"MEMORY_MB": 4096, "DISK_GB": 1}


def test_one_node_asks_nothing_more_of_a_host() -> None:
    assert len(wanted(hw__numa_nodes="1").groups) == 1


def test_places_follow_from_what_is_held() -> None:
    cells = cells_of(FOUR, UNEVEN, {})
    small = {"CUSTOM_NUMA_VCPU": 1, "CUSTOM_NUMA_MEMORY_MB": 1024}
    big = {"CUSTOM_NUMA_VCPU": 3, "CUSTOM_NUMA_MEMORY_MB": 3072}
    assert guest_numa.places(cells, {0: big, 3: small}, dedicated=False) == {0: 3, 1: 0}
    assert guest_numa.places(cells, {0: big}, dedicated=False) == {}


NODES = (
    GuestNode(number=0, cpus=(0, 1), memory_mib=512),
    GuestNode(number=1, cpus=(2, 3), memory_mib=512),
)


def test_a_guest_sees_its_nodes() -> None:
    text = domain(nodes=NODES)
    cells = ET.fromstring(text).findall("cpu/numa/cell")
    assert [(c.get("id"), c.get("cpus"), c.get("memory")) for c in cells] == [
        ("0", "0,1", "512"),
        ("1", "2,3", "512"),
    ]
    assert "numatune" not in text
    check_by_schema(text)


def test_a_guest_is_kept_to_the_nodes_of_its_host() -> None:
    placed = tuple(n.replace(host_node=1 - n.number) for n in NODES)
    host = tuple(HostNode(number=n, memory_mib=4096, cpus=(4 * n, 4 * n + 1)) for n in (0, 1))
    text = domain(host_nodes=host, nodes=placed)
    top = ET.fromstring(text)
    pins = {p.get("vcpu"): p.get("cpuset") for p in top.iterfind("cputune/vcpupin")}
    assert pins == {"0": "4,5", "1": "4,5", "2": "0,1", "3": "0,1"}
    memory = {m.get("cellid"): m.get("nodeset") for m in top.iterfind("numatune/memnode")}
    assert memory == {"0": "1", "1": "0"}
    check_by_schema(text)
    with pytest.raises(DriverError):
        numa.place(ET.Element("domain"), placed, host[:1])
