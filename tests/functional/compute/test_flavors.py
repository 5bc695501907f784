"""Flavors, extra specs and access at the microversions where they change."""

from typing import Any

import pytest

from kilonova.api.compute.schemas import extra_specs
from kilonova.common.errors import BadRequest
from tests.functional.compute.conftest import DEMO, OTHER, Cloud

BASE = {
    "id",
    "name",
    "ram",
    "disk",
    "swap",
    "vcpus",
    "links",
    "OS-FLV-EXT-DATA:ephemeral",
    "os-flavor-access:is_public",
}
OLD = {"OS-FLV-DISABLED:disabled", "rxtx_factor"}
WHOLE = [
    (1, BASE | OLD),
    (54, BASE | OLD),
    (55, BASE | OLD | {"description"}),
    (61, BASE | OLD | {"description", "extra_specs"}),
    (101, BASE | OLD | {"description", "extra_specs"}),
    (102, BASE | {"description", "extra_specs"}),
]


def make(cloud: Cloud, name: str, at: int = 104, **more: Any) -> Any:
    body = {"flavor": {"name": name, "ram": 64, "vcpus": 1, "disk": 1, **more}}
    return cloud.call("POST", "/flavors", body, as_="admin", at=at, status=200)["flavor"]


@pytest.mark.parametrize(("at", "keys"), WHOLE)
def test_fields_of_a_flavor(cloud: Cloud, at: int, keys: set[str]) -> None:
    made = make(cloud, "f", at, id="f1")
    assert set(made) == keys
    assert set(cloud.get("/flavors/f1", at=at)["flavor"]) == keys
    for row in cloud.get("/flavors/detail", at=at)["flavors"]:
        assert set(row) == keys
    brief = {"id", "name", "links"} | ({"description"} if at >= 55 else set())
    assert set(cloud.get("/flavors", at=at)["flavors"][0]) == brief
    assert made["swap"] == (0 if at >= 75 else "")
    assert made["links"] == [
        {"rel": "self", "href": "http://cloud.example:8774/compute/v2.1/flavors/f1"},
        {"rel": "bookmark", "href": "http://cloud.example:8774/compute/flavors/f1"},
    ]


def test_create_refusals(cloud: Cloud) -> None:
    make(cloud, "taken", id="t1")
    body = {"flavor": {"name": "taken", "ram": 64, "vcpus": 1, "disk": 1}}
    say = cloud.message("POST", "/flavors", body, as_="admin", status=409)
    assert say == "Flavor with name taken already exists."
    body["flavor"] |= {"name": "free", "id": "t1"}
    say = cloud.message("POST", "/flavors", body, as_="admin", status=409)
    assert say == "Flavor with ID t1 already exists."
    for wrong in (
        {"ram": 0},
        {"vcpus": -1},
        {"ram": "9" * 30},
        {"disk": 2**31},
        {"id": " x"},
        {"rxtx_factor": 1.0},
        {"name": " "},
        {"name": " x"},
        {"name": "x\t"},
        {"surprise": 1},
    ):
        bad = {"flavor": {"name": "w", "ram": 64, "vcpus": 1, "disk": 1, **wrong}}
        cloud.call("POST", "/flavors", bad, as_="admin", status=400)
    cloud.call("POST", "/flavors", body, as_="demo", status=403)
    described = {"flavor": {"name": "d", "ram": 64, "vcpus": 1, "disk": 1, "description": "x"}}
    cloud.call("POST", "/flavors", described, as_="admin", at=54, status=400)
    cloud.call("POST", "/flavors", described, as_="admin", at=55, status=200)


def test_update_and_delete(cloud: Cloud) -> None:
    make(cloud, "u", id="u1")
    body = {"flavor": {"description": "for tests"}}
    cloud.call("PUT", "/flavors/u1", body, as_="admin", at=54, status=404)
    seen = cloud.call("PUT", "/flavors/u1", body, as_="admin", at=55, status=200)
    assert seen["flavor"]["description"] == "for tests"
    cloud.call("DELETE", "/flavors/u1", as_="admin", status=202)
    say = cloud.message("GET", "/flavors/u1", status=404)
    assert say == "Flavor u1 could not be found."


def test_list_filters_pages_and_sorts(cloud: Cloud) -> None:
    for n in range(3):
        make(cloud, f"p{n}", id=f"p{n}", ram=1000 + n)
    first = cloud.get("/flavors?limit=2&minRam=1000&sort_key=memory_mb&sort_dir=desc")
    assert [f["id"] for f in first["flavors"]] == ["p2", "p1"]
    (link,) = first["flavors_links"]
    assert link["rel"] == "next" and "marker=p1" in link["href"]
    rest = cloud.get("/flavors?" + link["href"].partition("?")[2])
    assert [f["id"] for f in rest["flavors"]] == ["p0"] and "flavors_links" not in rest
    assert cloud.message("GET", "/flavors?marker=no", status=400) == "marker [no] not found"
    cloud.get("/flavors?minRam=lots", status=400)
    cloud.get("/flavors?limit=-1", status=400)
    cloud.get("/flavors?bogus=1", at=74)
    cloud.get("/flavors?bogus=1", at=75, status=400)
    assert [f["id"] for f in cloud.get("/flavors?name=p1")["flavors"]] == ["p1"]
    cloud.get("/flavors?name=p1", at=101, status=400)
    cloud.get("/flavors?sort_key=rxtx_factor", at=101)
    cloud.get("/flavors?sort_key=rxtx_factor", at=102, status=400)


def test_private_flavors_and_access(cloud: Cloud) -> None:
    make(cloud, "priv", id="x1", **{"os-flavor-access:is_public": False})
    cloud.get("/flavors/x1", status=404)
    assert "x1" not in [f["id"] for f in cloud.get("/flavors")["flavors"]]
    seen = cloud.get("/flavors?is_public=none", as_="admin")["flavors"]
    assert {"x1", "1"} <= {f["id"] for f in seen}
    add = {"addTenantAccess": {"tenant": DEMO}}
    listed = cloud.call("POST", "/flavors/x1/action", add, as_="admin", status=200)
    assert listed == {"flavor_access": [{"flavor_id": "x1", "tenant_id": DEMO}]}
    assert cloud.get("/flavors/x1/os-flavor-access", as_="admin") == listed
    cloud.get("/flavors/x1")
    cloud.get("/flavors/x1", as_="other", status=404)
    cloud.call("POST", "/flavors/x1/action", add, as_="admin", status=409)
    nobody = {"addTenantAccess": {"tenant": "nobody"}}
    cloud.call("POST", "/flavors/x1/action", nobody, as_="admin", status=400)
    cloud.call("POST", "/flavors/x1/action", add, as_="demo", status=403)
    gone = {"removeTenantAccess": {"tenant": DEMO}}
    assert cloud.call("POST", "/flavors/x1/action", gone, as_="admin", status=200) == {
        "flavor_access": []
    }
    cloud.call("POST", "/flavors/x1/action", gone, as_="admin", status=404)
    public = {"addTenantAccess": {"tenant": OTHER}}
    cloud.call("POST", "/flavors/1/action", public, as_="admin", at=6, status=200)
    cloud.call("POST", "/flavors/1/action", public, as_="admin", at=7, status=409)
    say = cloud.message("GET", "/flavors/1/os-flavor-access", as_="admin", status=404)
    assert say == "Access list not available for public flavors."


def test_extra_specs(cloud: Cloud) -> None:
    path = "/flavors/1/os-extra_specs"
    body = {"extra_specs": {"hw:cpu_policy": "shared", "free": "text"}}
    assert cloud.call("POST", path, body, as_="admin", status=200) == body
    assert cloud.get(path) == body
    assert cloud.get(path + "/free") == {"free": "text"}
    one = {"hw:numa_nodes": "2"}
    assert cloud.call("PUT", path + "/hw:numa_nodes", one, as_="admin", status=200) == one
    say = cloud.message("PUT", path + "/other", one, as_="admin", status=400)
    assert say == "Request body and URI mismatch"
    assert cloud.get("/flavors/1", at=61)["flavor"]["extra_specs"]["hw:numa_nodes"] == "2"
    cloud.call("DELETE", path + "/free", as_="admin", status=200)
    say = cloud.message("GET", path + "/free", status=404)
    assert say == "Flavor 1 has no extra specs with key free."
    cloud.call("POST", path, body, status=403)
    bad = {"extra_specs": {"hw:cpu_policy": "sharrred"}}
    cloud.call("POST", path, bad, as_="admin", at=85, status=200)
    cloud.call("POST", path, bad, as_="admin", at=86, status=400)
    cloud.call("POST", path, {"extra_specs": {"hw:no": "1"}}, as_="admin", at=86, status=400)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("hw:cpu_realtime", "true", "maybe"),
        ("hw:numa_cpus.1", "0-3,^2", "x"),
        ("hw:mem_page_size", "2MB", "huge"),
        ("quota:disk_read_iops_sec", "0", "-1"),
        ("quota:vif_inbound_peak", "10", "ten"),
        ("resources:VCPU", "2", "two"),
        ("resources1:CUSTOM_GOLD", "1", ""),
        ("trait:HW_CPU_X86_AVX", "required", "yes"),
        ("group_policy", "none", "some"),
    ],
)
def test_extra_spec_values(name: str, good: str, bad: str) -> None:
    extra_specs.check(name, good)
    with pytest.raises(BadRequest):
        extra_specs.check(name, bad)


@pytest.mark.parametrize("name", ["resources:NOT_A_CLASS", "trait:NOPE", "os:bogus", "quota:x"])
def test_extra_spec_names(name: str) -> None:
    with pytest.raises(BadRequest):
        extra_specs.check(name, "1")
    extra_specs.check("mycompany:anything", "goes")
