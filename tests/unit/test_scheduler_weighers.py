"""Which of several hosts is chosen, and how ties are spread."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.scheduler.filters import Settings
from kilonova.scheduler.request import ServerGroup
from kilonova.scheduler.select import select
from kilonova.scheduler.view import HostKind
from tests.scheduling import Cloud, asks, stock


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


def best(cloud: Cloud, multipliers: dict[str, float] | None = None, **more: Any) -> list[str]:
    """Return all hosts, best first."""
    s = Settings(multipliers=multipliers or {})
    one = select(cloud.view(), asks(**more), 1, 99, settings=s).selections[0]
    return [one.chosen.host, *(a.host for a in one.alternates)]


@pytest.mark.parametrize(
    ("weigher", "more"),
    [
        ("RAMWeigher", {"memory": 16384}),
        ("CPUWeigher", {"vcpus": 16}),
        ("DiskWeigher", {"disk": 200}),
    ],
)
def test_more_free_is_better_and_negative_stacks(
    cloud: Cloud, weigher: str, more: dict[str, int]
) -> None:
    cloud.host("less")
    cloud.host("more", inventory=stock(**more))
    assert best(cloud) == ["more", "less"]
    assert best(cloud, {weigher: -1.0}) == ["less", "more"]


def test_io_ops_instances_failures_versions(cloud: Cloud) -> None:
    cloud.host("a", kind=HostKind(hypervisor_version=6002000))
    cloud.host("b", kind=HostKind(hypervisor_version=6002001))
    assert best(cloud)[0] == "b", "a newer hypervisor is better, however small the difference"
    view = cloud.view()
    view.set_io_ops("b", 5)
    assert best(cloud, {"HypervisorVersionWeigher": 0.5})[0] == "a"
    view.set_io_ops("b", 0)
    view.build_failed("b")
    assert best(cloud)[0] == "a"
    view.set_build_failures("b", 0)
    assert best(cloud)[0] == "b"


def test_among_hosts_without_failures_the_others_still_count(cloud: Cloud) -> None:
    cloud.host("failed")
    cloud.host("less", inventory=stock(memory=8193))
    cloud.host("more", inventory=stock(memory=8200))
    cloud.view().build_failed("failed")
    assert best(cloud) == ["more", "less", "failed"]


def test_soft_group_policies(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    members = {"a": 1, "b": 2}
    assert best(cloud, server_group=ServerGroup("g", "soft-affinity", members)) == ["b", "a", "c"]
    assert best(cloud, server_group=ServerGroup("g", "soft-anti-affinity", members)) == [
        "c",
        "a",
        "b",
    ]


def test_a_soft_policy_spreads_a_multi_create(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h)
    group = ServerGroup("g", "soft-anti-affinity")
    d = select(cloud.view(), asks(server_group=group), 6, 0)
    hosts = [s.chosen.host for s in d.selections]
    assert sorted(hosts) == ["a", "a", "b", "b", "c", "c"]


def test_preferred_cell_and_its_multiplier(cloud: Cloud) -> None:
    """CC-3.9"""
    cloud.host("here", cell="cell1")
    cloud.host("there", cell="cell2", inventory=stock(memory=65536))
    view = cloud.view()
    assert select(view, asks(prefer_cell="cell1")).selections[0].chosen.host == "here"
    drain = Settings(multipliers={"CrossCellWeigher": -1e6})
    assert (
        select(view, asks(prefer_cell="cell1"), settings=drain).selections[0].chosen.host == "there"
    )


def test_aggregates_override_multipliers(cloud: Cloud) -> None:
    cloud.host("less")
    cloud.host("more", inventory=stock(memory=16384))
    assert best(cloud)[0] == "more"
    cloud.aggregate(1, '{"ram_weight_multiplier": "-2"}', "more")
    assert best(cloud)[0] == "less"
    cloud.aggregate(2, '{"ram_weight_multiplier": "no number"}', "less")
    assert best(cloud)[0] == "less"


def test_ties_are_spread_by_the_given_randomness(cloud: Cloud) -> None:
    for i in range(8):
        cloud.host(f"h{i}")
    view = cloud.view()
    assert len({select(view, asks()).selections[0].chosen.host for _ in range(20)}) == 1
    rng = random.Random(5)
    assert len({select(view, asks(), rng=rng).selections[0].chosen.host for _ in range(80)}) == 8


def test_host_subset_size_chooses_among_the_best(cloud: Cloud) -> None:
    for i in range(8):
        cloud.host(f"h{i}", inventory=stock(memory=8192 + i))
    view, rng = cloud.view(), random.Random(5)
    s = Settings(host_subset_size=3)
    seen = {select(view, asks(), settings=s, rng=rng).selections[0].chosen.host for _ in range(60)}
    assert seen == {"h5", "h6", "h7"}
