"""The Placement API: allocation candidates, flat, nested, shared, granular."""

from typing import Any

import pytest

from kilonova.common.ids import new_uuid
from tests.functional.placement.conftest import Api

AGG = "11111111-1111-1111-1111-111111111111"
AGG2 = "22222222-2222-2222-2222-222222222222"


def requests(api: Api, query: str, v: int = 39) -> list[dict[str, dict[str, int]]]:
    found = api.call("GET", f"/allocation_candidates?{query}", v=v)
    assert found.status_code == 200, found.text
    return [
        {p: a["resources"] for p, a in r["allocations"].items()}
        for r in found.json["allocation_requests"]
    ]


def plain(found: dict[str, dict[str, int]]) -> str:
    """Return a key to sort by that does not depend on the order of keys."""
    return str(sorted(found.items()))


def test_flat(api: Api) -> None:
    a, b = api.provider("a", VCPU=4, MEMORY_MB=100), api.provider("b", VCPU=2, MEMORY_MB=100)
    api.provider("c", VCPU=4)
    wanted = {"VCPU": 2, "MEMORY_MB": 10}
    found = requests(api, "resources=VCPU:2,MEMORY_MB:10")
    assert sorted(found, key=plain) == sorted([{a: wanted}, {b: wanted}], key=plain)
    assert requests(api, "resources=VCPU:4,MEMORY_MB:10") == [{a: {"VCPU": 4, "MEMORY_MB": 10}}]
    assert len(requests(api, "resources=VCPU:1&limit=2")) == 2
    api.allocate(new_uuid(), {a: {"VCPU": 3}})
    assert requests(api, "resources=VCPU:2,MEMORY_MB:10") == [{b: wanted}]


def test_forms_by_version(api: Api) -> None:
    a = api.provider("a", VCPU=4, MEMORY_MB=100)
    child = api.provider("child", a, VGPU=1)
    api.traits(a, "HW_CPU_X86_AVX2")

    def ask(v: int) -> Any:
        return api.call("GET", "/allocation_candidates?resources=VCPU:1", v=v).json

    assert ask(10)["allocation_requests"] == [
        {"allocations": [{"resource_provider": {"uuid": a}, "resources": {"VCPU": 1}}]}
    ]
    assert ask(10)["provider_summaries"] == {a: {"resources": {"VCPU": {"capacity": 4, "used": 0}}}}
    assert ask(12)["allocation_requests"] == [{"allocations": {a: {"resources": {"VCPU": 1}}}}]
    assert ask(17)["provider_summaries"][a]["traits"] == ["HW_CPU_X86_AVX2"]
    assert list(ask(26)["provider_summaries"][a]["resources"]) == ["VCPU"]
    assert sorted(ask(27)["provider_summaries"][a]["resources"]) == ["MEMORY_MB", "VCPU"]
    assert ask(28)["provider_summaries"].keys() == {a}
    assert ask(29)["provider_summaries"].keys() == {a, child}
    assert ask(29)["provider_summaries"][child]["parent_provider_uuid"] == a
    assert ask(34)["allocation_requests"][0]["mappings"] == {"": [a]}
    assert (
        api.call("GET", "/allocation_candidates?resources=VGPU:1", v=28).json["allocation_requests"]
        == []
    )
    assert requests(api, "resources=VGPU:1", 29) == [{child: {"VGPU": 1}}]


def test_traits_and_aggregates(api: Api) -> None:
    a, b = api.provider("a", VCPU=4), api.provider("b", VCPU=4)
    api.traits(a, "HW_CPU_X86_AVX2")
    api.aggregates(a, AGG)
    api.aggregates(b, AGG2)
    only_a, only_b = [{a: {"VCPU": 1}}], [{b: {"VCPU": 1}}]
    assert requests(api, "resources=VCPU:1&required=HW_CPU_X86_AVX2") == only_a
    assert requests(api, "resources=VCPU:1&required=!HW_CPU_X86_AVX2") == only_b
    assert requests(api, "resources=VCPU:1&required=in:HW_CPU_X86_AVX2,HW_CPU_X86_SSE") == only_a
    assert requests(api, f"resources=VCPU:1&member_of={AGG}") == only_a
    assert requests(api, f"resources=VCPU:1&member_of=!{AGG}") == only_b
    assert len(requests(api, f"resources=VCPU:1&member_of=in:{AGG},{AGG2}")) == 2
    assert requests(api, f"resources=VCPU:1&member_of={AGG}&member_of={AGG2}") == []
    assert requests(api, f"resources=VCPU:1&in_tree={b}") == only_b
    assert requests(api, "resources=VCPU:1&root_required=HW_CPU_X86_AVX2") == only_a
    assert requests(api, "resources=VCPU:1&root_required=!HW_CPU_X86_AVX2") == only_b


def test_granular_groups_isolate_and_subtrees(api: Api) -> None:
    root = api.provider("root", VCPU=4)
    numa = [api.provider(f"numa{i}", root, MEMORY_MB=100) for i in (0, 1)]
    cards = [api.provider(f"card{i}", numa[i], VGPU=2) for i in (0, 1)]
    api.traits(cards[0], "CUSTOM_A")
    one = requests(api, "resources=VCPU:1&resources1=VGPU:1")
    assert sorted(one, key=plain) == sorted(
        [{root: {"VCPU": 1}, c: {"VGPU": 1}} for c in cards], key=str
    )
    assert requests(api, "resources1=VGPU:1&required1=CUSTOM_A") == [{cards[0]: {"VGPU": 1}}]
    two = "resources1=VGPU:1&resources2=VGPU:1"
    assert api.call("GET", f"/allocation_candidates?{two}").status_code == 400
    free = requests(api, two + "&group_policy=none")
    assert {cards[0]: {"VGPU": 2}} in free
    apart = requests(api, two + "&group_policy=isolate")
    assert apart
    assert all(len(r) == 2 for r in apart)
    near = "resources_M=MEMORY_MB:1&resources_G=VGPU:1&group_policy=none"
    assert len(requests(api, near)) == 4
    same = requests(api, near + "&same_subtree=_M,_G")
    wanted = [{numa[i]: {"MEMORY_MB": 1}, cards[i]: {"VGPU": 1}} for i in (0, 1)]
    assert sorted(same, key=plain) == sorted(wanted, key=plain)
    empty = "resources_G=VGPU:1&required_N=CUSTOM_NUMA&same_subtree=_N,_G"
    api.traits(numa[1], "CUSTOM_NUMA")
    assert requests(api, empty) == [{cards[1]: {"VGPU": 1}}]
    mapped = api.call("GET", f"/allocation_candidates?{empty}").json["allocation_requests"][0]
    assert mapped["mappings"] == {"_G": [cards[1]], "_N": [numa[1]]}


def test_sharing(api: Api) -> None:
    a = api.provider("a", VCPU=4)
    api.provider("b", VCPU=4)
    pool = api.provider("pool", DISK_GB=100)
    api.traits(pool, "MISC_SHARES_VIA_AGGREGATE")
    api.aggregates(pool, AGG)
    api.aggregates(a, AGG)
    assert requests(api, "resources=VCPU:1,DISK_GB:5") == [{a: {"VCPU": 1}, pool: {"DISK_GB": 5}}]
    assert requests(api, "resources=DISK_GB:5") == [{pool: {"DISK_GB": 5}}]


@pytest.mark.parametrize(
    ("query", "v"),
    [
        ("resources=VCPU:1", 9),
        ("", 39),
        ("required=HW_CPU_X86_AVX2", 39),
        ("resources=VCPU:1&limit=0", 39),
        ("resources=VCPU:1&limit=x", 39),
        ("resources=VCPU:1&limit=1", 15),
        ("resources=VCPU:1&required=X", 16),
        ("resources=VCPU:1&member_of=" + AGG, 20),
        ("resources1=VCPU:1", 24),
        ("resources_A=VCPU:1", 32),
        ("resources=VCPU:1&in_tree=" + AGG, 30),
        ("resources=VCPU:1&root_required=HW_CPU_X86_AVX2", 34),
        ("resources_A=VCPU:1&same_subtree=_A", 35),
        ("resources_A=VCPU:1&same_subtree=_A,_B", 39),
        ("resources=VCPU:1&same_subtree=", 39),
        ("resources=VCPU:1&required_A=HW_CPU_X86_AVX2", 39),
        ("resources=NOPE:1", 39),
        ("resources=VCPU:1&required=NOPE", 39),
        ("resources=VCPU:1&group_policy=maybe", 39),
        ("resources=VCPU:1&resources=VCPU:2", 39),
        ("colour=red", 39),
    ],
)
def test_queries_that_are_refused(api: Api, query: str, v: int) -> None:
    status = api.call("GET", f"/allocation_candidates?{query}", v=v).status_code
    assert status == (404 if v < 10 else 400)
