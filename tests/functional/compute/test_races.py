"""Callers at the same time: no change is lost, no quota is passed, no name is taken twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.functional.compute.conftest import DEMO, Cloud

CALLERS = 8


def at_once(one: Callable[[int], Any]) -> list[int]:
    """Return the statuses of CALLERS requests made at the same time."""
    with ThreadPoolExecutor(CALLERS) as pool:
        return [answer.status_code for answer in pool.map(one, range(CALLERS))]


def test_metadata_and_tags_are_not_lost(cloud: Cloud) -> None:
    path = f"/servers/{cloud.server()}"
    found = at_once(lambda n: cloud.call("POST", path + "/metadata", {"metadata": {f"k{n}": "v"}}))
    assert found == [200] * CALLERS
    assert at_once(lambda n: cloud.call("PUT", f"{path}/tags/t{n}")) == [201] * CALLERS
    assert len(cloud.get(path + "/metadata")["metadata"]) == CALLERS
    assert cloud.get(path + "/tags")["tags"] == [f"t{n}" for n in range(CALLERS)]


def test_extra_specs_are_not_lost(cloud: Cloud) -> None:
    path = "/flavors/1/os-extra_specs"
    found = at_once(
        lambda n: cloud.call("POST", path, {"extra_specs": {f"k{n}": "v"}}, as_="admin")
    )
    assert found == [200] * CALLERS
    assert len(cloud.get(path)["extra_specs"]) == CALLERS


def test_quota_of_groups_holds(cloud: Cloud) -> None:
    limit = {"quota_set": {"server_groups": 3}}
    cloud.call("PUT", f"/os-quota-sets/{DEMO}", limit, as_="admin", status=200)
    body = {"server_group": {"name": "g", "policy": "affinity"}}
    found = at_once(lambda n: cloud.call("POST", "/os-server-groups", body))
    assert sorted(found) == [200] * 3 + [403] * (CALLERS - 3)


def test_one_name_one_winner(cloud: Cloud) -> None:
    flavor = {"flavor": {"name": "same", "ram": 1, "vcpus": 1, "disk": 1}}
    found = at_once(lambda n: cloud.call("POST", "/flavors", flavor, as_="admin"))
    assert sorted(found) == [200] + [409] * (CALLERS - 1)
    body = {"aggregate": {"name": "same"}}
    found = at_once(lambda n: cloud.call("POST", "/os-aggregates", body, as_="admin"))
    assert sorted(found) == [200] + [409] * (CALLERS - 1)
