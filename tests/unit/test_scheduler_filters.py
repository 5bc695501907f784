"""Each filter alone: which hosts it lets through. Names and meaning as in Nova."""

import ipaddress
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kilonova.placement.candidates import Group
from kilonova.scheduler.filters import AFTER, BEFORE, Settings
from kilonova.scheduler.filters.specs import matches, version_fits
from kilonova.scheduler.request import Request, ServerGroup
from kilonova.scheduler.select import Decision, select
from kilonova.scheduler.view import HostKind, View
from tests.scheduling import Cloud, asks, stock

ALL = 10_000


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


def passing(view: View, request: Request, settings: Settings | None = None) -> set[str]:
    """Return every host that a request can go to."""
    d = select(view, request, 1, ALL, settings=settings or Settings())
    return names_in(d)


def names_in(d: Decision) -> set[str]:
    return {s.host for one in d.selections for s in (one.chosen, *one.alternates)}


def dropped(view: View, request: Request) -> dict[str, int]:
    return {d.filter: d.count for d in select(view, request).explanation.dropped if d.count}


def test_compute_filter_drops_what_is_down_disabled_or_forced_down(cloud: Cloud) -> None:
    cloud.host("good")
    cloud.host("down", up=False)
    cloud.host("disabled", enabled=False)
    cloud.host("forced", forced_down=True)
    cloud.host("marked", has=frozenset({"COMPUTE_STATUS_DISABLED"}))
    view = cloud.view()
    assert passing(view, asks()) == {"good"}
    view.change_host("down", up=True)
    view.change_host("good", enabled=False)
    assert passing(view, asks()) == {"down"}
    assert dropped(view, asks())["ComputeFilter"] == 4


def test_availability_zone_filter(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    cloud.aggregate(1, '{"availability_zone": "east"}', "a")
    cloud.aggregate(2, '{"ssd": "true"}', "a", "b")
    view = cloud.view()
    assert passing(view, asks(availability_zone="east")) == {"a"}
    assert passing(view, asks(availability_zone="nova")) == {"b", "c"}
    assert passing(view, asks(availability_zone="west")) == set()
    assert select(view, asks(availability_zone="east")).selections[0].chosen.zone == "east"


def test_requested_and_forced_and_ignored_hosts(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    cloud.aggregate(1, '{"filter_tenant_id": "other"}', "b")
    view = cloud.view()
    assert passing(view, asks(only_host="a")) == {"a"}
    assert passing(view, asks(only_node="a")) == {"a"}
    assert passing(view, asks(only_host="a", only_node="c")) == set()
    assert passing(view, asks(only_host="b")) == set(), "filters apply to a requested host (2.74)"
    assert passing(view, asks(only_host="b", force=True)) == {"b"}, "but not to a forced one"
    assert passing(view, asks(9, only_host="b", force=True)) == set(), "capacity always counts"
    assert passing(view, asks(only_host="nowhere")) == set()
    assert passing(view, asks(ignore_hosts=frozenset({"a", "x"}))) == {"c"}


def test_cells(cloud: Cloud) -> None:
    cloud.host("a1", cell="cell1")
    cloud.host("a2", cell="cell1")
    cloud.host("b1", cell="cell2")
    view = cloud.view()
    assert passing(view, asks(cell="cell2")) == {"b1"}
    assert passing(view, asks(cell="cell1")) == {"a1", "a2"}


def test_same_and_different_host(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    view = cloud.view()
    assert passing(view, asks(same_host=frozenset({"a"}))) == {"a"}
    assert passing(view, asks(same_host=frozenset())) == set(), "its server has no host"
    assert passing(view, asks(different_host=frozenset({"a"}))) == {"b", "c"}
    assert passing(view, asks(different_host=frozenset())) == {"a", "b", "c"}


def test_simple_cidr_affinity(cloud: Cloud) -> None:
    cloud.host("a", host_ip="10.1.0.9")
    cloud.host("b", host_ip="10.2.0.9")
    cloud.host("c", host_ip="")
    near = ipaddress.ip_network("10.1.0.0/24")
    assert passing(cloud.view(), asks(near=near)) == {"a"}


def test_isolated_hosts(cloud: Cloud) -> None:
    cloud.host("kept")
    cloud.host("free")
    view = cloud.view()
    s = Settings(isolated_hosts=frozenset({"kept"}), isolated_images=frozenset({"img"}))
    assert passing(view, asks(image_id="img"), s) == {"kept"}
    assert passing(view, asks(image_id="other"), s) == {"free"}
    s = Settings(
        isolated_hosts=frozenset({"kept"}),
        isolated_images=frozenset({"img"}),
        restrict_isolated_hosts_to_isolated_images=False,
    )
    assert passing(view, asks(image_id="other"), s) == {"free", "kept"}


def group(policy: str, hosts: Mapping[str, int], most: int = 1) -> ServerGroup:
    return ServerGroup("g", policy, hosts, most)


def test_server_group_policies(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    view = cloud.view()
    anti = group("anti-affinity", {"a": 1})
    assert passing(view, asks(server_group=anti)) == {"b", "c"}
    two = group("anti-affinity", {"a": 1, "b": 2}, 2)
    assert passing(view, asks(server_group=two)) == {"a", "c"}
    assert passing(view, asks(server_group=group("affinity", {"b": 3}))) == {"b"}
    assert passing(view, asks(server_group=group("affinity", {}))) == {"a", "b", "c"}
    assert passing(view, asks(server_group=group("soft-affinity", {"b": 3}))) == {"a", "b", "c"}


def test_a_multi_create_keeps_the_policy_within_itself(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    view = cloud.view()
    d = select(view, asks(server_group=group("anti-affinity", {})), 4, 0)
    assert not d.complete
    assert sorted(s.chosen.host for s in d.selections) == ["a", "b", "c"]
    d = select(view, asks(server_group=group("affinity", {})), 5, 0)
    assert d.complete
    assert len({s.chosen.host for s in d.selections}) == 1


def test_room_per_class_ratio_reserved_units(cloud: Cloud) -> None:
    from kilonova.placement.inventories import Inventory

    cloud.host("ratio", inventory=stock(2, 4096, 10, ratio=4.0))
    cloud.host("small", inventory=stock(2, 4096, 10))
    odd = dict(stock(64, 65536, 100)) | {"MEMORY_MB": Inventory(65536, 1024, 1024, 8192, 1024, 1.0)}
    cloud.host("odd", inventory=odd)
    view = cloud.view()
    assert passing(view, asks(2, 1024)) == {"ratio", "small", "odd"}
    assert passing(view, asks(1, 512)) == {"ratio", "small"}, "odd gives 1024 MiB at least"
    assert passing(view, asks(1, 1536)) == {"ratio", "small"}, "and in steps of 1024"
    assert passing(view, asks(1, 16384)) == set(), "and 8192 at most"
    assert passing(view, asks(4, 1024)) == {"odd"}, (
        "max_unit is the host's cores, whatever the ratio"
    )
    assert passing(view, asks(1, 1024, 11)) == {"odd"}
    assert passing(view, asks(1, 1024, 0)) == {"ratio", "small", "odd"}


def test_a_class_that_a_host_does_not_have(cloud: Cloud) -> None:
    inventory = stock()
    del inventory["DISK_GB"]
    cloud.host("diskless", inventory=inventory)
    view = cloud.view()
    assert passing(view, asks()) == set()
    assert passing(view, asks(disk=0)) == {"diskless"}


def test_traits(cloud: Cloud) -> None:
    cloud.host("avx", has=frozenset({"HW_CPU_X86_AVX2"}))
    cloud.host("plain")
    view = cloud.view()
    need = (frozenset({"HW_CPU_X86_AVX2"}),)
    assert passing(view, asks(required=need)) == {"avx"}
    g = Group(resources={"VCPU": 1}, forbidden=frozenset({"HW_CPU_X86_AVX2"}))
    assert passing(view, Request(groups=(g,))) == {"plain"}
    g = Group(resources={"VCPU": 1}, required=(frozenset({"HW_CPU_X86_AVX2", "COMPUTE_NODE"}),))
    assert passing(view, Request(groups=(g,))) == {"avx"}


def test_granular_groups_on_children(cloud: Cloud) -> None:
    from kilonova.placement.inventories import Inventory

    gpu = {"VGPU": Inventory(1)}
    for host, cards in (("two", 2), ("one", 1), ("none", 0)):
        cloud.host(host)
        for i in range(cards):
            cloud.child(host, f"{host}-{i}", gpu, frozenset({"CUSTOM_A"}))
    view = cloud.view()
    one = Group("1", {"VGPU": 1}, (frozenset({"CUSTOM_A"}),))
    other = Group("2", {"VGPU": 1})
    assert passing(view, asks(groups=(one,))) == {"two", "one"}
    assert passing(view, asks(groups=(one, other), group_policy="none")) == {"two"}
    assert passing(view, asks(groups=(one, other), group_policy="isolate")) == {"two"}
    three = (one, other, Group("3", {"VGPU": 1}))
    assert passing(view, asks(groups=three, group_policy="none")) == set()


def test_num_instances_and_io_ops(cloud: Cloud) -> None:
    for h in "ab":
        cloud.host(h)
    cloud.aggregate(1, '{"max_instances_per_host": "0"}', "a")
    view = cloud.view()
    assert passing(view, asks()) == {"b"}
    assert passing(view, asks(), Settings(max_instances_per_host=0)) == set()
    view.put_aggregates({}, {})
    view.set_io_ops("b", 3)
    assert passing(view, asks(), Settings(max_io_ops_per_host=3)) == {"a"}
    assert passing(view, asks()) == {"a", "b"}, "off unless somebody sets a limit"


def test_compute_capabilities(cloud: Cloud) -> None:
    kind = HostKind(hypervisor_version=7002000, cpu_info=(("arch", "x86_64"), ("vendor", "Intel")))
    cloud.host("new", kind=kind)
    cloud.host("old", kind=HostKind(hypervisor_version=5002000))
    view = cloud.view()

    def spec(**specs: str) -> Request:
        return asks(extra_specs={k.replace("__", ":"): v for k, v in specs.items()})

    assert passing(view, spec(capabilities__hypervisor_version=">= 6000000")) == {"new"}
    assert passing(view, spec(hypervisor_type="QEMU")) == {"new", "old"}
    assert passing(view, spec(capabilities__hypervisor_type="s== Xen")) == set()
    assert passing(view, spec(capabilities__cpu_info__vendor="<in> Intel")) == {"new"}
    assert passing(view, spec(capabilities__no_such="1")) == set()
    assert passing(view, spec(capabilities__host="old")) == {"old"}
    assert passing(view, spec(capabilities__free_ram_mb=">= 8192")) == {"new", "old"}
    assert passing(view, spec(capabilities__vcpus_used="== 1")) == set()
    assert passing(view, asks(extra_specs={"hw:cpu_policy": "shared", "quota:vif": "1"})) == {
        "new",
        "old",
    }


def test_image_properties(cloud: Cloud) -> None:
    cloud.host("x86", kind=HostKind(hypervisor_version=7002000))
    cloud.host("arm", kind=HostKind(supported=(("aarch64", "kvm", "hvm"),)))
    view = cloud.view()
    assert passing(view, asks(image={"hw_architecture": "aarch64"})) == {"arm"}
    assert passing(view, asks(image={"img_hv_type": "QEMU", "hw_vm_mode": "hvm"})) == {"x86"}
    assert passing(view, asks(image={"hw_vm_mode": "xen"})) == set()
    assert passing(view, asks(image={"img_hv_requested_version": ">=7.0,<8"})) == {"x86"}
    assert passing(view, asks(image={"os_distro": "debian"})) == {"x86", "arm"}


def test_aggregate_filters(cloud: Cloud) -> None:
    for h in "abcd":
        cloud.host(h)
    cloud.aggregate(1, json.dumps({"ssd": "true", "os_distro": "windows, debian"}), "a")
    cloud.aggregate(2, json.dumps({"filter_tenant_id": "p1,p2", "filter_tenant_id2": "p3"}), "b")
    cloud.aggregate(3, json.dumps({"instance_type": "big,huge"}), "c")
    view = cloud.view()
    spec: dict[str, Any] = {"aggregate_instance_extra_specs:ssd": "true"}
    assert passing(view, asks(extra_specs=spec)) == {"a"}
    assert passing(view, asks(extra_specs={"ssd": "<or> true <or> yes"})) == {"a"}
    assert passing(view, asks(image={"os_distro": "debian"})) == {"a", "d"}
    assert passing(view, asks(image={"os_distro": "suse"})) == {"d"}
    assert passing(view, asks(project="p3")) == {"a", "b", "d"}
    assert passing(view, asks(project="p4")) == {"a", "d"}
    assert passing(view, asks(flavor="huge")) == {"a", "c", "d"}


@pytest.mark.parametrize(
    ("value", "asked", "fits"),
    [
        ("4", "4", True),
        ("4", ">= 4", True),
        ("4", "= 3", True),
        ("4", "< 4", False),
        ("4", "!= 4", False),
        ("x", "== 4", False),
        ("abc", "<in> b", True),
        ("abc", "<all-in> a c", True),
        ("abc", "<all-in> a d", False),
        ("b", "<or> a <or> b", True),
        ("c", "<or> a <or> b", False),
        ("abc", "s== abc", True),
        ("abc", "s< abd", True),
        ("abc", "s>= abd", False),
    ],
)
def test_operators_of_extra_specs(value: str, asked: str, fits: bool) -> None:
    assert matches(value, asked) is fits


@pytest.mark.parametrize(
    ("asked", "fits"),
    [(">=6.0", True), ("<6", False), ("!=6.2", False), ("junk", False), (">6.1.9", True)],
)
def test_versions_of_hypervisors(asked: str, fits: bool) -> None:
    assert version_fits(6002000, asked) is fits


def test_every_filter_has_a_name_of_its_own() -> None:
    names = [f.name for f in (*BEFORE, *AFTER)]
    assert len(names) == len(set(names))
