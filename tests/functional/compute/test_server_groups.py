"""Server groups at the microversions where they change."""

from typing import Any

import pytest

from tests.functional.compute.conftest import Cloud

OLD = {"id", "name", "members", "policies", "metadata"}
OWNED = {"project_id", "user_id"}
NEW = {"id", "name", "members", "policy", "rules"}


def body(at: int, policy: str = "affinity", **more: Any) -> Any:
    chosen = {"policy": policy} if at >= 64 else {"policies": [policy]}
    return {"server_group": {"name": "g", **chosen, **more}}


@pytest.mark.parametrize(
    ("at", "keys"), [(1, OLD), (13, OLD | OWNED), (63, OLD | OWNED), (64, NEW | OWNED)]
)
def test_fields(cloud: Cloud, at: int, keys: set[str]) -> None:
    made = cloud.call("POST", "/os-server-groups", body(at), at=at, status=200)["server_group"]
    assert set(made) == keys
    member = cloud.server(server_group=made["id"])
    one = f"/os-server-groups/{made['id']}"
    seen = cloud.get(one, at=at)["server_group"]
    assert set(seen) == keys and seen["members"] == [member]
    assert set(cloud.get("/os-server-groups", at=at)["server_groups"][0]) == keys
    cloud.get(one, at=at, as_="other", status=404)
    cloud.call("DELETE", one, at=at, as_="reader", status=403)
    cloud.call("DELETE", one, at=at, as_="other", status=404)
    cloud.call("DELETE", one, at=at, status=204)
    say = cloud.message("GET", one, at=at, status=404)
    assert say == f"Instance group {made['id']} could not be found."


@pytest.mark.parametrize(("at", "status"), [(14, 400), (15, 200), (63, 200), (64, 200)])
def test_soft_policies(cloud: Cloud, at: int, status: int) -> None:
    cloud.call("POST", "/os-server-groups", body(at, "soft-affinity"), at=at, status=status)


def test_rules(cloud: Cloud) -> None:
    rules = {"max_server_per_host": 2}
    cloud.call(
        "POST", "/os-server-groups", body(63, "anti-affinity", rules=rules), at=63, status=400
    )
    made = cloud.call(
        "POST", "/os-server-groups", body(64, "anti-affinity", rules=rules), status=200
    )
    assert made["server_group"]["rules"] == rules
    say = cloud.message("POST", "/os-server-groups", body(64, rules=rules), status=400)
    assert say == "Only anti-affinity policy supports rules."
    for wrong in ({"max_server_per_host": 0}, {"max_server_per_host": "0"}, {"x": 1}):
        cloud.call("POST", "/os-server-groups", body(64, "anti-affinity", rules=wrong), status=400)
    cloud.call("POST", "/os-server-groups", body(63), at=64, status=400)
    cloud.call("POST", "/os-server-groups", body(64), at=63, status=400)


def test_lists_and_quota(cloud: Cloud) -> None:
    cloud.call(
        "PUT",
        "/os-quota-sets/demo0000",
        {"quota_set": {"server_groups": 3}},
        as_="admin",
        status=200,
    )
    ids = []
    for _ in range(3):
        made = cloud.call("POST", "/os-server-groups", body(64), status=200)
        ids.append(made["server_group"]["id"])
        cloud.clock.advance(1)
    say = cloud.message("POST", "/os-server-groups", body(64), status=403)
    assert say == "Quota exceeded, too many server groups."
    found = cloud.get("/os-server-groups?limit=1&offset=1")["server_groups"]
    assert [g["id"] for g in found] == ids[1:2]
    assert cloud.get("/os-server-groups", as_="other")["server_groups"] == []
    assert cloud.get("/os-server-groups?all_projects=1", as_="other")["server_groups"] == []
    assert len(cloud.get("/os-server-groups?all_projects=1", as_="admin")["server_groups"]) == 3
    cloud.get("/os-server-groups?x=1", at=74)
    cloud.get("/os-server-groups?x=1", at=75, status=400)
