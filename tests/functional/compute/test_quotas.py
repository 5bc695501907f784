"""Quotas, quota classes and limits at the microversions where they change."""

import pytest

from tests.functional.compute.conftest import DEMO, OTHER, Cloud

OWN = {
    "cores",
    "instances",
    "key_pairs",
    "metadata_items",
    "ram",
    "server_groups",
    "server_group_members",
}
FILES = {"injected_files", "injected_file_content_bytes", "injected_file_path_bytes"}
NETWORK = {"fixed_ips", "floating_ips", "security_group_rules", "security_groups"}
AT = [(1, OWN | FILES | NETWORK), (35, OWN | FILES | NETWORK), (36, OWN | FILES), (57, OWN)]
PATH = f"/os-quota-sets/{DEMO}"


@pytest.mark.parametrize(("at", "names"), AT)
def test_quota_set_fields(cloud: Cloud, at: int, names: set[str]) -> None:
    for tail in ("", "/defaults"):
        assert set(cloud.get(PATH + tail, at=at)["quota_set"]) == names | {"id"}
    detail = cloud.get(PATH + "/detail", at=at)["quota_set"]
    assert set(detail) == names | {"id"}
    assert set(detail["cores"]) == {"in_use", "limit", "reserved"}
    body = {"quota_set": {"cores": 30}}
    put = cloud.call("PUT", PATH, body, at=at, as_="admin", status=200)["quota_set"]
    assert set(put) == names and put["cores"] == 30
    for name in (FILES | NETWORK) - names:
        cloud.call("PUT", PATH, {"quota_set": {name: 1}}, at=at, as_="admin", status=400)


@pytest.mark.parametrize(
    ("at", "names"),
    [
        (1, (OWN | FILES | NETWORK) - {"server_groups", "server_group_members"}),
        (49, (OWN | FILES | NETWORK) - {"server_groups", "server_group_members"}),
        (50, OWN | FILES),
        (57, OWN),
    ],
)
def test_quota_class_fields(cloud: Cloud, at: int, names: set[str]) -> None:
    path = "/os-quota-class-sets/default"
    assert set(cloud.get(path, at=at, as_="admin")["quota_class_set"]) == names | {"id"}
    body = {"quota_class_set": {"instances": 7}}
    put = cloud.call("PUT", path, body, at=at, as_="admin", status=200)
    assert set(put["quota_class_set"]) == names
    assert cloud.get(PATH, at=at)["quota_set"]["instances"] == 7
    assert cloud.get(PATH + "/defaults", at=at)["quota_set"]["instances"] == 7
    cloud.get(path, at=at, status=403)


def test_who_may(cloud: Cloud) -> None:
    cloud.get(PATH, as_="other", status=403)
    cloud.get(PATH, as_="reader")
    cloud.get("/os-quota-sets/nobody", as_="admin", status=400)
    cloud.call("PUT", PATH, {"quota_set": {"cores": 1}}, status=403)
    cloud.call("DELETE", PATH, status=403)
    cloud.get(PATH + "?x=1", at=74)
    cloud.get(PATH + "?x=1", at=75, status=400)


def test_update_rules(cloud: Cloud) -> None:
    cloud.server()
    low = {"quota_set": {"instances": 0}}
    say = cloud.message("PUT", PATH, low, as_="admin", status=400)
    assert say == (
        "Quota limit 0 for instances must be greater than or equal to already used and reserved 1."
    )
    low["quota_set"]["force"] = True
    cloud.call("PUT", PATH, low, as_="admin", status=200)
    for wrong in (-2, "x", 2**31, "9" * 25, None):
        cloud.call("PUT", PATH, {"quota_set": {"cores": wrong}}, as_="admin", status=400)
    user = PATH + "?user_id=u-demo"
    say = cloud.message("PUT", user, {"quota_set": {"cores": 50}}, as_="admin", status=400)
    assert say == "Quota limit 50 for cores must be less than or equal to 20."
    cloud.call("PUT", user, {"quota_set": {"cores": "5"}}, as_="admin", status=200)
    assert cloud.get(user)["quota_set"]["cores"] == 5
    assert cloud.get(PATH)["quota_set"]["cores"] == 20
    used = cloud.get(PATH + "/detail")["quota_set"]
    assert used["cores"]["in_use"] == 1 and used["ram"]["in_use"] == 512
    cloud.call("DELETE", PATH, as_="admin", status=202)
    assert cloud.get(user)["quota_set"]["cores"] == 20
    assert cloud.get(PATH)["quota_set"]["instances"] == 10


USED = {"totalRAMUsed", "totalCoresUsed", "totalInstancesUsed", "totalServerGroupsUsed"}
MAX = {
    "maxTotalRAMSize",
    "maxTotalInstances",
    "maxTotalCores",
    "maxTotalKeypairs",
    "maxServerMeta",
    "maxServerGroups",
    "maxServerGroupMembers",
}
PERSONALITY = {"maxPersonality", "maxPersonalitySize"}
OLD_NET = {
    "maxTotalFloatingIps",
    "maxSecurityGroups",
    "maxSecurityGroupRules",
    "totalFloatingIpsUsed",
    "totalSecurityGroupsUsed",
}


@pytest.mark.parametrize(
    ("at", "names"),
    [
        (1, MAX | USED | PERSONALITY | OLD_NET | {"maxImageMeta"}),
        (36, MAX | USED | PERSONALITY | {"maxImageMeta"}),
        (39, MAX | USED | PERSONALITY),
        (57, MAX | USED),
        (104, MAX | USED),
    ],
)
def test_limits(cloud: Cloud, at: int, names: set[str]) -> None:
    out = cloud.get("/limits", at=at)["limits"]
    assert set(out) == {"rate", "absolute"} and set(out["absolute"]) == names


def test_limits_count(cloud: Cloud) -> None:
    cloud.server()
    cloud.server(host=None)
    cloud.server(project_id=OTHER)
    mine = cloud.get("/limits")["limits"]["absolute"]
    assert mine["totalInstancesUsed"] == 2 and mine["totalRAMUsed"] == 1024
    theirs = cloud.get(f"/limits?tenant_id={OTHER}", as_="admin")["limits"]["absolute"]
    assert theirs["totalInstancesUsed"] == 1
    cloud.get(f"/limits?tenant_id={OTHER}", status=403)
    cloud.get("/limits?x=1", at=74)
    cloud.get("/limits?x=1", at=75, status=400)
