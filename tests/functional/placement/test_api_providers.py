"""The Placement API: providers, inventories, traits, aggregates, classes; versions, policy, errors."""

import pytest

from kilonova.common.ids import new_uuid
from kilonova.scheduler import reading
from kilonova.scheduler.view import View
from tests.functional.placement.conftest import Api

AGG = "11111111-1111-1111-1111-111111111111"
AGG2 = "22222222-2222-2222-2222-222222222222"


def test_root_needs_no_token_and_names_the_versions(api: Api) -> None:
    found = api.call("GET", "/", v=None, who="")
    assert found.status_code == 200
    (version,) = found.json["versions"]
    assert (version["min_version"], version["max_version"]) == ("1.0", "1.39")
    assert found.headers["OpenStack-API-Version"] == "placement 1.0"


def test_versions_are_negotiated(api: Api) -> None:
    assert api.call("GET", "/resource_providers", v=40).status_code == 406
    assert api.call("GET", "/traits", v=5).status_code == 404
    assert api.call("GET", "/traits", v=6).status_code == 200


@pytest.mark.parametrize("who", ["p:member", "p:reader"])
def test_only_admins_and_services(api: Api, who: str) -> None:
    """S22"""
    refused = api.call("GET", "/resource_providers", who=who)
    assert refused.status_code == 403
    assert refused.json["errors"][0]["status"] == 403
    assert api.call("GET", "/resource_providers", who="p:service").status_code == 200
    assert api.call("GET", "/resource_providers", who="").status_code == 401
    assert api.call("GET", "/usages?project_id=p", who="p:reader").status_code == 200
    assert api.call("GET", "/usages?project_id=other", who="p:reader").status_code == 403


def test_a_provider_by_version(api: Api) -> None:
    made = api.call("POST", "/resource_providers", {"name": "old"}, v=0)
    assert made.status_code == 201
    assert made.text == ""
    where = made.headers["Location"]
    assert where.startswith("/placement/resource_providers/")
    uuid = where.rpartition("/")[2]
    path = f"/resource_providers/{uuid}"

    def rels(v: int) -> list[str]:
        return [link["rel"] for link in api.call("GET", path, v=v).json["links"]]

    assert rels(0) == ["self", "inventories", "usages"]
    assert rels(1) == ["self", "inventories", "usages", "aggregates"]
    assert rels(11) == ["self", "inventories", "usages", "aggregates", "traits", "allocations"]
    assert "root_provider_uuid" not in api.call("GET", path, v=13).json
    shown = api.call("GET", path, v=14)
    assert shown.json["root_provider_uuid"] == uuid
    assert shown.json["parent_provider_uuid"] is None
    assert "Last-Modified" not in shown.headers
    assert "Last-Modified" in api.call("GET", path, v=15).headers
    made = api.call("POST", "/resource_providers", {"name": "new"}, v=20)
    assert made.status_code == 200
    assert made.json["generation"] == 0


def test_names_and_uuids_are_unique(api: Api) -> None:
    uuid = api.provider("a")
    again = api.call("POST", "/resource_providers", {"name": "a"})
    assert again.status_code == 409
    assert again.json["errors"][0]["code"] == "placement.duplicate_name"
    assert api.call("POST", "/resource_providers", {"name": "b", "uuid": uuid}).status_code == 409
    api.provider("b")
    assert api.call("PUT", f"/resource_providers/{uuid}", {"name": "b"}).status_code == 409
    assert api.call("PUT", f"/resource_providers/{uuid}", {"name": "c"}).json["name"] == "c"


def test_trees(api: Api) -> None:
    root = api.provider("root")
    child = api.provider("child", root)
    leaf = api.provider("leaf", child)
    other = api.provider("other")
    assert api.call("GET", f"/resource_providers/{leaf}").json["root_provider_uuid"] == root
    found = api.call("GET", f"/resource_providers?in_tree={leaf}").json["resource_providers"]
    assert [p["name"] for p in found] == ["root", "child", "leaf"]
    refused = api.call("DELETE", f"/resource_providers/{child}")
    assert refused.status_code == 409
    assert refused.json["errors"][0]["code"] == "placement.resource_provider.cannot_delete_parent"
    body = {"name": "child", "parent_provider_uuid": other}
    assert api.call("PUT", f"/resource_providers/{child}", body, v=36).status_code == 400
    assert api.call("PUT", f"/resource_providers/{child}", body, v=37).status_code == 200
    assert api.call("GET", f"/resource_providers/{leaf}").json["root_provider_uuid"] == other
    loop = {"name": "child", "parent_provider_uuid": leaf}
    assert api.call("PUT", f"/resource_providers/{child}", loop, v=37).status_code == 400
    alone = {"name": "child", "parent_provider_uuid": None}
    assert api.call("PUT", f"/resource_providers/{child}", alone, v=37).status_code == 200
    assert api.call("GET", f"/resource_providers/{leaf}").json["root_provider_uuid"] == child
    bad = {"name": "x", "parent_provider_uuid": new_uuid()}
    assert api.call("POST", "/resource_providers", bad).status_code == 400


def test_filters_of_the_list(api: Api) -> None:
    a, b = api.provider("a", VCPU=4, DISK_GB=10), api.provider("b", VCPU=8)
    api.traits(a, "HW_CPU_X86_AVX2")
    api.traits(b, "HW_CPU_X86_AVX2", "CUSTOM_X")
    api.aggregates(a, AGG)
    api.aggregates(b, AGG, AGG2)

    def found(query: str, v: int = 39) -> list[str]:
        answer = api.call("GET", f"/resource_providers?{query}", v=v)
        assert answer.status_code == 200, answer.text
        return [p["name"] for p in answer.json["resource_providers"]]

    assert found("") == ["a", "b"]
    assert found("name=a") == ["a"]
    assert found(f"uuid={b}") == ["b"]
    assert found("resources=VCPU:5") == ["b"]
    assert found("resources=VCPU:1,DISK_GB:10") == ["a"]
    assert found("required=HW_CPU_X86_AVX2,CUSTOM_X") == ["b"]
    assert found("required=!CUSTOM_X") == ["a"]
    assert found("required=in:CUSTOM_X,HW_CPU_X86_SSE&required=HW_CPU_X86_AVX2") == ["b"]
    assert found(f"member_of=in:{AGG},{AGG2}", 3) == ["a", "b"]
    assert found(f"member_of={AGG}&member_of={AGG2}", 24) == ["b"]
    assert found(f"member_of=!{AGG2}", 32) == ["a"]


@pytest.mark.parametrize(
    ("query", "v"),
    [
        ("resources=VCPU:1", 3),
        ("member_of=in:" + AGG, 2),
        ("in_tree=" + AGG, 13),
        ("required=X", 17),
        ("required=NO_SUCH_TRAIT", 39),
        ("required=!HW_CPU_X86_AVX2", 21),
        ("required=in:HW_CPU_X86_AVX2", 38),
        ("required=HW_CPU_X86_AVX2,!HW_CPU_X86_AVX2", 39),
        ("resources=VCPU", 39),
        ("resources=VCPU:0", 39),
        ("resources=NOPE:1", 39),
        ("resources=VCPU:99999999999", 39),
        ("member_of=x", 39),
        ("member_of=!" + AGG, 31),
        (f"member_of={AGG}&member_of={AGG}", 23),
        ("uuid=x", 39),
        ("in_tree=x", 39),
        ("colour=red", 39),
        ("name=a&name=b", 39),
        ("name=%00%ff", 39),
    ],
)
def test_queries_that_are_refused(api: Api, query: str, v: int) -> None:
    refused = api.call("GET", f"/resource_providers?{query}", v=v)
    assert refused.status_code == 400
    assert refused.json["errors"][0]["detail"]


def test_inventories(api: Api) -> None:
    uuid = api.provider("a")
    path = f"/resource_providers/{uuid}/inventories"
    made = api.call("POST", path, {"resource_class": "VCPU", "total": 4})
    assert made.status_code == 201
    assert made.json["allocation_ratio"] == 1.0
    assert made.json["resource_provider_generation"] == 1
    assert api.call("POST", path, {"resource_class": "VCPU", "total": 4}).status_code == 409
    one = api.call("PUT", path + "/VCPU", {"total": 8, "resource_provider_generation": 1})
    assert one.json["total"] == 8
    stale = api.call("PUT", path + "/VCPU", {"total": 9, "resource_provider_generation": 1})
    assert stale.status_code == 409
    assert stale.json["errors"][0]["code"] == "placement.concurrent_update"
    assert api.call("GET", path + "/VCPU").json["total"] == 8
    assert api.call("GET", path + "/DISK_GB").status_code == 404
    body = {
        "resource_provider_generation": 2,
        "inventories": {"DISK_GB": {"total": 5, "reserved": 5}},
    }
    assert api.call("PUT", path, body, v=25).status_code == 400, "reserved == total since 1.26"
    assert api.call("PUT", path, body, v=26).status_code == 200
    assert list(api.call("GET", path).json["inventories"]) == ["DISK_GB"]
    for bad in (
        {"CUSTOM_NOPE": {"total": 1}},
        {"DISK_GB": {"total": 5, "reserved": 6}},
        {"DISK_GB": {"total": 5, "min_unit": 3, "max_unit": 2}},
        {"DISK_GB": {"total": 0}},
        {"DISK_GB": {"total": 2**31}},
        {"disk": {"total": 1}},
    ):
        body = {"resource_provider_generation": 3, "inventories": bad}
        assert api.call("PUT", path, body).status_code == 400, bad
    assert api.generation(uuid) == 3
    assert api.call("DELETE", path, v=4).status_code == 404
    assert api.call("DELETE", path + "/DISK_GB").status_code == 204
    assert api.call("DELETE", path + "/DISK_GB").status_code == 404
    assert api.call("DELETE", path, v=5).status_code == 204


def test_an_inventory_in_use_stays(api: Api) -> None:
    uuid = api.provider("a", VCPU=4)
    assert api.allocate(new_uuid(), {uuid: {"VCPU": 1}}).status_code == 204
    path = f"/resource_providers/{uuid}/inventories"
    for refused in (
        api.call("DELETE", path + "/VCPU"),
        api.call("DELETE", path),
        api.call(
            "PUT", path, {"resource_provider_generation": api.generation(uuid), "inventories": {}}
        ),
    ):
        assert refused.status_code == 409
        assert refused.json["errors"][0]["code"] == "placement.inventory.inuse"
    refused = api.call("DELETE", f"/resource_providers/{uuid}")
    assert refused.status_code == 409
    assert refused.json["errors"][0]["code"] == "placement.resource_provider.inuse"


def test_traits(api: Api) -> None:
    uuid = api.provider("a")
    assert api.call("PUT", "/traits/CUSTOM_A").status_code == 201
    assert api.call("PUT", "/traits/CUSTOM_A").status_code == 204
    assert api.call("PUT", "/traits/BAD").status_code == 400
    assert api.call("PUT", "/traits/CUSTOM_bad").status_code == 400
    assert api.call("GET", "/traits/CUSTOM_A").status_code == 204
    assert api.call("GET", "/traits/CUSTOM_B").status_code == 404
    assert api.call("GET", "/traits?name=in:CUSTOM_A,HW_CPU_X86_AVX2").json["traits"] == [
        "CUSTOM_A",
        "HW_CPU_X86_AVX2",
    ]
    assert api.call("GET", "/traits?name=startswith:CUSTOM").json["traits"] == ["CUSTOM_A"]
    assert api.call("GET", "/traits?name=CUSTOM").status_code == 400
    api.traits(uuid, "CUSTOM_A")
    assert api.call("GET", "/traits?associated=true").json["traits"] == ["CUSTOM_A"]
    assert api.call("GET", "/traits?associated=maybe").status_code == 400
    path = f"/resource_providers/{uuid}/traits"
    assert api.call("GET", path).json == {"traits": ["CUSTOM_A"], "resource_provider_generation": 1}
    assert api.call("DELETE", "/traits/CUSTOM_A").status_code == 409
    assert api.call("DELETE", "/traits/HW_CPU_X86_AVX2").status_code == 400
    body = {"resource_provider_generation": 1, "traits": ["CUSTOM_NOPE"]}
    assert api.call("PUT", path, body).status_code == 400
    body = {"resource_provider_generation": 0, "traits": []}
    assert api.call("PUT", path, body).status_code == 409
    assert api.call("DELETE", path).status_code == 204
    assert api.call("DELETE", "/traits/CUSTOM_A").status_code == 204


def test_aggregates_before_and_after_1_19(api: Api) -> None:
    uuid = api.provider("a")
    path = f"/resource_providers/{uuid}/aggregates"
    assert api.call("GET", path, v=0).status_code == 404
    assert api.call("PUT", path, [AGG], v=1).json == {"aggregates": [AGG]}
    assert api.call("PUT", path, {"aggregates": []}, v=18).status_code == 400
    assert api.call("PUT", path, ["x"], v=18).status_code == 400
    assert api.call("GET", path, v=19).json == {
        "aggregates": [AGG],
        "resource_provider_generation": 1,
    }
    stale = {"aggregates": [], "resource_provider_generation": 0}
    assert api.call("PUT", path, stale).status_code == 409


def test_resource_classes(api: Api) -> None:
    names = [c["name"] for c in api.call("GET", "/resource_classes").json["resource_classes"]]
    assert names[:3] == ["VCPU", "MEMORY_MB", "DISK_GB"]
    assert api.call("POST", "/resource_classes", {"name": "CUSTOM_A"}).status_code == 201
    assert api.call("POST", "/resource_classes", {"name": "CUSTOM_A"}).status_code == 409
    assert api.call("POST", "/resource_classes", {"name": "VGPU2"}).status_code == 400
    assert api.call("PUT", "/resource_classes/CUSTOM_B", v=7).status_code == 201
    assert api.call("PUT", "/resource_classes/CUSTOM_B", v=7).status_code == 204
    renamed = api.call("PUT", "/resource_classes/CUSTOM_B", {"name": "CUSTOM_C"}, v=6)
    assert renamed.json["name"] == "CUSTOM_C"
    assert api.call("PUT", "/resource_classes/VCPU", {"name": "CUSTOM_D"}, v=6).status_code == 400
    assert api.call("GET", "/resource_classes/CUSTOM_B").status_code == 404
    api.provider("a", CUSTOM_C=2)
    assert api.call("DELETE", "/resource_classes/CUSTOM_C").status_code == 409
    assert api.call("DELETE", "/resource_classes/VCPU").status_code == 400
    assert api.call("DELETE", "/resource_classes/CUSTOM_A").status_code == 204
    assert api.call("DELETE", "/resource_classes/CUSTOM_A").status_code == 404


@pytest.mark.parametrize(
    "tail", ["", "/inventories", "/usages", "/aggregates", "/traits", "/allocations"]
)
@pytest.mark.parametrize("uuid", [AGG, "nonsense", "%F0%9F%98%80"])
def test_missing_providers(api: Api, uuid: str, tail: str) -> None:
    assert api.call("GET", f"/resource_providers/{uuid}{tail}").status_code == 404


def test_absurd_numbers(api: Api) -> None:
    """R19: nothing is a 500, and the scheduler's columns can hold what the API takes."""
    uuid = api.provider("a", VCPU=1)
    path = f"/resource_providers/{uuid}/inventories/VCPU"
    huge = {"total": 2**31 - 1, "allocation_ratio": 3.4e38}
    assert (
        api.call("PUT", path, {**huge, "resource_provider_generation": 10**30}).status_code == 409
    )
    assert api.call("PUT", path, {**huge, "resource_provider_generation": -1}).status_code == 409
    assert api.call("PUT", path, {**huge, "resource_provider_generation": 1}).status_code == 200
    assert (
        api.call("PUT", path, {"total": 10**30, "resource_provider_generation": 2}).status_code
        == 400
    )
    assert api.allocate(new_uuid(), {uuid: {"VCPU": 10**30}}).status_code == 400
    assert (
        api.allocate(new_uuid(), {uuid: {"VCPU": 1}}, consumer_generation=10**30).status_code == 409
    )
    assert api.call("GET", "/allocation_candidates?resources=VCPU:9999999999").status_code == 200
    view = View()
    reading.refresh(view, api.db, 0.0, full=True)
    assert view.roots.n == 1
