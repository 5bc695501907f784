"""Usage of projects in a period."""

from datetime import UTC, datetime

import pytest

from tests.functional.compute.conftest import DEMO, OTHER, Cloud

PATH = "/os-simple-tenant-usage"
SUM = {
    "tenant_id",
    "total_local_gb_usage",
    "total_vcpus_usage",
    "total_memory_mb_usage",
    "total_hours",
    "start",
    "stop",
}
ONE = {
    "hours",
    "flavor",
    "instance_id",
    "name",
    "tenant_id",
    "memory_mb",
    "local_gb",
    "vcpus",
    "started_at",
    "ended_at",
    "state",
    "uptime",
}


def text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def period(cloud: Cloud) -> str:
    now = cloud.clock.now()
    return f"start={text(now - 7200)}&end={text(now + 7200)}"


@pytest.mark.parametrize("at", [1, 40, 104])
def test_fields_and_sums(cloud: Cloud, at: int) -> None:
    now = cloud.clock.now()
    cloud.server(launched_at=now - 3600)
    cloud.server("cell2-host1", launched_at=now - 9000, terminated_at=now - 3600, deleted=1)
    cloud.server(project_id=OTHER, launched_at=now - 60)
    mine = cloud.get(f"{PATH}/{DEMO}?{period(cloud)}", at=at)["tenant_usage"]
    assert set(mine) == SUM | {"server_usages"}
    assert mine["total_hours"] == pytest.approx(2.0)
    assert mine["total_memory_mb_usage"] == pytest.approx(1024.0)
    assert all(set(u) == ONE for u in mine["server_usages"])
    assert [u["state"] for u in mine["server_usages"]] == ["terminated", "active"]
    everyone = cloud.get(f"{PATH}?{period(cloud)}", as_="admin", at=at)["tenant_usages"]
    assert {u["tenant_id"] for u in everyone} == {DEMO, OTHER}
    assert all(set(u) == SUM for u in everyone)
    detailed = cloud.get(f"{PATH}?{period(cloud)}&detailed=1", as_="admin", at=at)
    assert "server_usages" in detailed["tenant_usages"][0]


def test_pages_from_2_40(cloud: Cloud) -> None:
    now = cloud.clock.now()
    for n in range(3):
        cloud.server(launched_at=now - 100 + n)
    path = f"{PATH}/{DEMO}"
    assert (
        len(cloud.get(f"{path}?{period(cloud)}&limit=1", at=39)["tenant_usage"]["server_usages"])
        == 3
    )
    first = cloud.get(f"{path}?{period(cloud)}&limit=2", at=40)
    assert len(first["tenant_usage"]["server_usages"]) == 2
    tail = first["tenant_usage_links"][0]["href"].partition("?")[2]
    rest = cloud.get(f"{path}?{tail}", at=40)
    assert len(rest["tenant_usage"]["server_usages"]) == 1 and "tenant_usage_links" not in rest
    say = cloud.message("GET", f"{path}?{period(cloud)}&marker=x", at=40, status=400)
    assert say == "Marker x could not be found."


def test_refusals(cloud: Cloud) -> None:
    assert cloud.get(f"{PATH}/{DEMO}?{period(cloud)}") == {"tenant_usage": {}}
    cloud.get(PATH, status=403)
    cloud.get(f"{PATH}/{DEMO}", as_="other", status=403)
    say = cloud.message("GET", f"{PATH}/{DEMO}?start=yesterday", status=400)
    assert say == "Invalid datetime string: Datetime is in invalid format"
    now = text(cloud.clock.now())
    cloud.get(f"{PATH}/{DEMO}?start={now}&end={now}", status=400)
    cloud.get(f"{PATH}/{DEMO}?{period(cloud)}&x=1", at=74)
    cloud.get(f"{PATH}/{DEMO}?{period(cloud)}&x=1", at=75, status=400)
