"""Hypervisors, compute services and hosts at the microversions where they change."""

import pytest

from kilonova.common.ids import is_uuid, new_uuid
from tests.functional.compute.conftest import Cloud

BRIEF = {"id", "hypervisor_hostname", "state", "status"}
NAMED = BRIEF | {"hypervisor_type", "hypervisor_version", "host_ip", "service"}
AMOUNTS = {
    "vcpus",
    "memory_mb",
    "local_gb",
    "vcpus_used",
    "memory_mb_used",
    "local_gb_used",
    "free_ram_mb",
    "free_disk_gb",
    "current_workload",
    "running_vms",
    "disk_available_least",
}
CPU = {"cpu_info"}
PATH = "/os-hypervisors"


@pytest.mark.parametrize(
    ("at", "keys"),
    [
        (1, NAMED | AMOUNTS | CPU),
        (28, NAMED | AMOUNTS | CPU),
        (53, NAMED | AMOUNTS | CPU),
        (87, NAMED | AMOUNTS | CPU),
        (88, NAMED | {"uptime"}),
        (104, NAMED | {"uptime"}),
    ],
)
def test_hypervisor_fields(cloud: Cloud, at: int, keys: set[str]) -> None:
    cloud.server("cell1-host1")
    rows = cloud.get(PATH + "/detail", as_="admin", at=at)["hypervisors"]
    assert len(rows) == 4 and all(set(r) == keys for r in rows)
    first = rows[0]
    assert is_uuid(first["id"]) == (at >= 53) == is_uuid(first["service"]["id"])
    if at < 88:
        assert isinstance(first["cpu_info"], dict if at >= 28 else str)
        assert first["running_vms"] == 1 and first["free_ram_mb"] <= first["memory_mb"]
    assert all(set(r) == BRIEF for r in cloud.get(PATH, as_="admin", at=at)["hypervisors"])
    unique = rows[0]["id"] if at >= 53 else None
    if unique:
        one = cloud.get(f"{PATH}/{unique}", as_="admin", at=at)["hypervisor"]
        assert set(one) == keys
    cloud.get(PATH, at=at, status=403)


def test_numbers_are_of_one_cell(cloud: Cloud) -> None:
    say = cloud.message("GET", PATH + "/1", as_="admin", at=52, status=400)
    assert say == "Hypervisor id 1 refers to multiple hypervisors."
    cloud.get(PATH + "/77", as_="admin", at=52, status=404)
    cloud.get(PATH + "/x", as_="admin", at=52, status=404)
    say = cloud.message("GET", PATH + "/1", as_="admin", at=53, status=400)
    assert say == "Invalid uuid 1"
    missing = new_uuid()
    say = cloud.message("GET", f"{PATH}/{missing}", as_="admin", at=53, status=404)
    assert say == f"Hypervisor with ID '{missing}' could not be found."


def test_hypervisor_lists(cloud: Cloud) -> None:
    server = cloud.server("cell2-host1")
    assert len(cloud.get(PATH + "?limit=1", as_="admin", at=32)["hypervisors"]) == 4
    first = cloud.get(PATH + "?limit=3", as_="admin", at=53)
    tail = first["hypervisors_links"][0]["href"].partition("?")[2]
    rest = cloud.get(f"{PATH}?{tail}", as_="admin", at=53)
    assert len(first["hypervisors"]) == 3 and len(rest["hypervisors"]) == 1
    found = cloud.get(
        PATH + "?hypervisor_hostname_pattern=cell2&with_servers=true", as_="admin", at=53
    )
    assert [h.get("servers") for h in found["hypervisors"]] == [
        [{"name": f"instance-{server[:8]}", "uuid": server}],
        None,
    ]
    found = cloud.get(PATH + "?with_servers=1", as_="admin", at=75)["hypervisors"]
    assert all("servers" in h for h in found)
    say = cloud.message("GET", PATH + "?hypervisor_hostname_pattern=zz", as_="admin", status=404)
    assert say == "No hypervisor matching 'zz' could be found."
    cloud.get(PATH + "?hypervisor_hostname_pattern=c&limit=1", as_="admin", status=400)
    cloud.get(PATH + "?with_servers=perhaps", as_="admin", status=400)
    cloud.get(PATH + "?x=1", as_="admin", at=53, status=400)


def test_old_hypervisor_calls(cloud: Cloud) -> None:
    cloud.server("cell1-host1")
    found = cloud.get(PATH + "/cell1/servers", as_="admin", at=52)["hypervisors"]
    assert len(found) == 2 and "servers" in found[0] and "servers" not in found[1]
    assert set(cloud.get(PATH + "/cell1/search", as_="admin", at=52)["hypervisors"][0]) == BRIEF
    cloud.get(PATH + "/cell1/search", as_="admin", at=53, status=404)
    total = cloud.get(PATH + "/statistics", as_="admin", at=87)["hypervisor_statistics"]
    assert set(total) == AMOUNTS | {"count"} and total["count"] == 4 and total["running_vms"] == 1
    cloud.get(PATH + "/statistics", as_="admin", at=88, status=404)
    uuid = cloud.get(PATH, as_="admin")["hypervisors"][0]["id"]
    shown = cloud.get(f"{PATH}/{uuid}/uptime", as_="admin", at=53)["hypervisor"]
    assert " up " in shown["uptime"]
    cloud.get(f"{PATH}/{uuid}/uptime", as_="admin", at=88, status=404)
    cloud.services.hosts.set_service("cell1-host1", forced_down=True)
    cloud.get(f"{PATH}/{uuid}/uptime", as_="admin", at=87, status=400)
    assert cloud.get(f"{PATH}/{uuid}", as_="admin")["hypervisor"]["uptime"] is None


SERVICE = {"binary", "host", "id", "zone", "status", "state", "updated_at", "disabled_reason"}


@pytest.mark.parametrize(
    ("at", "keys"), [(1, SERVICE), (10, SERVICE), (11, SERVICE | {"forced_down"})]
)
def test_service_fields(cloud: Cloud, at: int, keys: set[str]) -> None:
    rows = cloud.get("/os-services", as_="admin", at=at)["services"]
    assert len(rows) == 4 and all(set(r) == keys for r in rows)
    one = cloud.get("/os-services?host=cell1-host2&binary=nova-compute", as_="admin", at=at)
    assert [r["host"] for r in one["services"]] == ["cell1-host2"]
    assert cloud.get("/os-services?binary=nova-api", as_="admin", at=at) == {"services": []}
    cloud.get("/os-services", at=at, status=403)


def test_service_actions_by_name(cloud: Cloud) -> None:
    who = {"host": "cell1-host1", "binary": "nova-compute"}

    def put(name: str, at: int = 52, status: int = 200, **more: object) -> dict[str, object]:
        path = "/os-services/" + name
        found = cloud.call("PUT", path, {**who, **more}, as_="admin", at=at, status=status)
        return found.get("service", {})

    reason = {"disabled_reason": "broken fan"}
    assert put("disable-log-reason", **reason) == {**who, "status": "disabled", **reason}
    assert cloud.services.hosts.find("cell1-host1").disabled_reason == "broken fan"
    assert put("enable") == {**who, "status": "enabled"}
    assert put("disable") == {**who, "status": "disabled"}
    put("disable-log-reason", status=400)
    assert put("force-down", forced_down=True) == {**who, "forced_down": True}
    put("force-down", at=10, status=404)
    put("bogus", status=404)
    put("enable", status=404, host="nowhere")
    put("enable", status=400, binary="nova-conductor")


def test_service_by_uuid(cloud: Cloud) -> None:
    row = cloud.get("/os-services?host=cell1-host1", as_="admin", at=53)["services"][0]
    path = "/os-services/" + row["id"]

    def put(status: int = 200, **body: object) -> dict[str, object]:
        return cloud.call("PUT", path, body, as_="admin", at=53, status=status).get("service", {})

    seen = put(status=200, forced_down=True)
    assert set(seen) == SERVICE | {"forced_down"} and seen["state"] == "down"
    assert put(forced_down="false")["state"] == "up"
    put(400)
    assert (
        cloud.call(
            "PUT", path, {"status": "disabled", "disabled_reason": "r"}, as_="admin", status=200
        )["service"]["disabled_reason"]
        == "r"
    )
    cloud.call("PUT", path, {"status": "enabled", "disabled_reason": "r"}, as_="admin", status=400)
    cloud.call("PUT", "/os-services/1", {"status": "enabled"}, as_="admin", status=400)
    cloud.call("PUT", f"/os-services/{new_uuid()}", {"status": "enabled"}, as_="admin", status=404)


def test_delete_a_service(cloud: Cloud) -> None:
    cloud.server("cell1-host1")
    rows = cloud.get("/os-services", as_="admin", at=53)["services"]
    ids = {r["host"]: r["id"] for r in rows}
    say = cloud.message("DELETE", "/os-services/" + ids["cell1-host1"], as_="admin", status=409)
    assert say.startswith("Unable to delete compute service that is hosting instances.")
    made = cloud.call(
        "POST", "/os-aggregates", {"aggregate": {"name": "a"}}, as_="admin", status=200
    )["aggregate"]
    act = {"add_host": {"host": "cell1-host2"}}
    cloud.call("POST", f"/os-aggregates/{made['id']}/action", act, as_="admin", status=200)
    path = "/os-services/" + ids["cell1-host2"]
    cloud.call("DELETE", path, as_="admin", status=204)
    cloud.call("DELETE", path, as_="admin", status=404)
    assert len(cloud.get(PATH, as_="admin")["hypervisors"]) == 3
    assert cloud.get("/os-aggregates", as_="admin")["aggregates"][0]["hosts"] == []
    cloud.call("DELETE", "/os-services/1", as_="admin", at=52, status=400)


def test_old_hosts(cloud: Cloud) -> None:
    cloud.server("cell1-host1")
    rows = cloud.get("/os-hosts", as_="admin", at=42)["hosts"]
    assert rows[0] == {"host_name": "cell1-host1", "service": "compute", "zone": "nova"}
    assert cloud.get("/os-hosts?zone=x", as_="admin", at=42) == {"hosts": []}
    parts = cloud.get("/os-hosts/cell1-host1", as_="admin", at=42)["host"]
    assert [p["resource"]["project"] for p in parts] == [
        "(total)",
        "(used_now)",
        "(used_max)",
        "demo0000",
    ]
    assert parts[2]["resource"]["memory_mb"] == 512
    body = {"status": "disable"}
    seen = cloud.call("PUT", "/os-hosts/cell1-host1", body, as_="admin", at=42, status=200)
    assert seen == {"host": "cell1-host1", "status": "disabled"}
    body = {"maintenance_mode": "enable"}
    cloud.call("PUT", "/os-hosts/cell1-host1", body, as_="admin", at=42, status=501)
    cloud.get("/os-hosts/cell1-host1/reboot", as_="admin", at=42, status=501)
    cloud.get("/os-hosts/nowhere", as_="admin", at=42, status=404)
    cloud.get("/os-hosts", as_="admin", at=43, status=404)
