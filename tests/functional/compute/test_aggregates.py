"""Aggregates and availability zones: fields, refusals, and that scheduler and placement follow."""

from typing import Any

import pytest

from kilonova.placement import aggregates as placement
from tests.functional.compute.conftest import Cloud

BASE = {"id", "name", "availability_zone", "created_at", "updated_at", "deleted", "deleted_at"}
HOST = "cell1-host1"


def make(cloud: Cloud, name: str, zone: str | None = None, at: int = 104) -> Any:
    body = {"aggregate": {"name": name, "availability_zone": zone}}
    path = "/os-aggregates"
    return cloud.call("POST", path, body, as_="admin", at=at, status=200)["aggregate"]


def act(cloud: Cloud, id_: int, name: str, value: Any, status: int = 200) -> Any:
    path = f"/os-aggregates/{id_}/action"
    return cloud.call("POST", path, {name: value}, as_="admin", status=status)


@pytest.mark.parametrize(("at", "more"), [(1, set()), (40, set()), (41, {"uuid"})])
def test_fields(cloud: Cloud, at: int, more: set[str]) -> None:
    made = make(cloud, "a", at=at)
    assert set(made) == BASE | more
    whole = BASE | more | {"hosts", "metadata"}
    one = f"/os-aggregates/{made['id']}"
    assert set(cloud.get(one, as_="admin", at=at)["aggregate"]) == whole
    assert set(cloud.get("/os-aggregates", as_="admin", at=at)["aggregates"][0]) == whole
    put = {"aggregate": {"name": "b"}}
    seen = cloud.call("PUT", one, put, as_="admin", at=at, status=200)["aggregate"]
    assert set(seen) == whole and seen["name"] == "b" and seen["updated_at"]
    cloud.call("DELETE", one, as_="admin", at=at, status=200)
    say = cloud.message("GET", one, as_="admin", at=at, status=404)
    assert say == f"Aggregate {made['id']} could not be found."


def test_hosts_are_followed(cloud: Cloud) -> None:
    made = make(cloud, "z", "zone-1")
    seen = act(cloud, made["id"], "add_host", {"host": HOST})["aggregate"]
    assert seen["hosts"] == [HOST] and seen["metadata"] == {"availability_zone": "zone-1"}
    assert cloud.services.scheduling.zone_of(HOST) == "zone-1"
    uuid = cloud.services.hosts.find(HOST).uuid

    def mirrored(tx: Any) -> frozenset[str]:
        from kilonova.placement import providers

        return placement.of(tx, providers.get(tx, uuid).id)

    assert cloud.services.world.read(mirrored) == {made["uuid"]}
    act(cloud, made["id"], "add_host", {"host": HOST}, 409)
    cloud.call("DELETE", f"/os-aggregates/{made['id']}", as_="admin", status=400)
    act(cloud, made["id"], "remove_host", {"host": HOST})
    assert cloud.services.scheduling.zone_of(HOST) == "nova"
    assert cloud.services.world.read(mirrored) == frozenset()
    act(cloud, made["id"], "remove_host", {"host": HOST}, 404)
    act(cloud, made["id"], "add_host", {"host": "nowhere"}, 404)
    act(cloud, 99, "add_host", {"host": HOST}, 404)


def test_zones_never_move_servers(cloud: Cloud) -> None:
    made, other = make(cloud, "a", "one"), make(cloud, "b", "two")
    act(cloud, made["id"], "add_host", {"host": HOST})
    act(cloud, other["id"], "add_host", {"host": HOST}, 409)
    cloud.server(HOST)
    act(cloud, made["id"], "remove_host", {"host": HOST}, 409)
    act(cloud, made["id"], "set_metadata", {"metadata": {"availability_zone": "three"}}, 400)
    act(cloud, made["id"], "set_metadata", {"metadata": {"availability_zone": None}}, 400)
    cloud.server("cell2-host1")
    act(cloud, other["id"], "add_host", {"host": "cell2-host1"}, 409)


def test_metadata(cloud: Cloud) -> None:
    made = make(cloud, "a")
    seen = act(cloud, made["id"], "set_metadata", {"metadata": {"ssd": "true", "x": "1"}})
    assert seen["aggregate"]["metadata"] == {"ssd": "true", "x": "1"}
    seen = act(cloud, made["id"], "set_metadata", {"metadata": {"x": None}})
    assert seen["aggregate"]["metadata"] == {"ssd": "true"}


def test_refusals(cloud: Cloud) -> None:
    made = make(cloud, "a")
    body = {"aggregate": {"name": "a"}}
    say = cloud.message("POST", "/os-aggregates", body, as_="admin", status=409)
    assert say == "Aggregate a already exists."
    cloud.call("POST", "/os-aggregates", body, status=403)
    cloud.get("/os-aggregates/x", as_="admin", status=400)
    cloud.call("PUT", f"/os-aggregates/{made['id']}", {"aggregate": {}}, as_="admin", status=400)
    zone = {"aggregate": {"name": "b", "availability_zone": "a:b"}}
    cloud.call("POST", "/os-aggregates", zone, as_="admin", status=400)
    images = {"cache": [{"id": "70a599e0-31e7-49b7-b260-868f441e862b"}]}
    path = f"/os-aggregates/{made['id']}/images"
    cloud.call("POST", path, images, as_="admin", at=80, status=404)
    cloud.call("POST", path, images, as_="admin", at=81, status=501)


def test_availability_zones(cloud: Cloud) -> None:
    made = make(cloud, "z", "zone-1")
    act(cloud, made["id"], "add_host", {"host": HOST})
    cloud.services.hosts.set_service(HOST, disabled=True)
    zones = cloud.get("/os-availability-zone")["availabilityZoneInfo"]
    assert zones == [
        {"zoneName": "nova", "zoneState": {"available": True}, "hosts": None},
        {"zoneName": "zone-1", "zoneState": {"available": False}, "hosts": None},
    ]
    cloud.get("/os-availability-zone/detail", status=403)
    first, second = cloud.get("/os-availability-zone/detail", as_="admin")["availabilityZoneInfo"]
    assert second["hosts"] is None and HOST not in first["hosts"]
    assert set(first["hosts"]["cell1-host2"]["nova-compute"]) == {
        "available",
        "active",
        "updated_at",
    }
    cloud.get("/os-availability-zone?x=1", at=101)
    cloud.get("/os-availability-zone?x=1", at=102, status=400)
