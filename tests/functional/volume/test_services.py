"""/os-services, pools, capabilities, version documents, small lists."""

from tests.functional.volume.conftest import Client


def test_services_and_pools(api: Client) -> None:
    """For administrators; a disabled host gets no new volumes."""
    assert api.call("GET", "/os-services").status == 403
    found = api.call("GET", "/os-services?binary=cinder-volume", who="admin").json["services"]
    assert [f["host"] for f in found] == [f"cell1-host{n}@qcow2" for n in (1, 2, 3)]
    assert {(f["state"], f["status"]) for f in found} == {("up", "enabled")}
    for host in ("cell1-host1@qcow2", "cell1-host2@qcow2"):
        body = {"host": host, "binary": "cinder-volume", "disabled_reason": "broken fan"}
        assert api.call("PUT", "/os-services/disable-log-reason", body, who="admin").status == 200
    volume = api.make()
    assert api.show(volume)["os-vol-host-attr:host"] == "cell1-host3@qcow2#pool"
    pools = api.call("GET", "/scheduler-stats/get_pools?detail=True", who="admin").json["pools"]
    [mine] = [p for p in pools if p["name"] == "cell1-host3@qcow2#pool"]
    assert mine["capabilities"]["allocated_capacity_gb"] == 1
    for host in ("cell1-host1@qcow2", "cell1-host2@qcow2"):
        assert api.call("PUT", "/os-services/enable", {"host": host}, who="admin").status == 200
    assert api.call("PUT", "/os-services/disable", {"host": "nowhere"}, who="admin").status == 404
    assert api.call("GET", "/capabilities/cell1-host3@qcow2", who="admin").status == 200
    api.delete(volume)


def test_version_documents(api: Client) -> None:
    """Public; the range that is spoken."""
    got = api.whole.call("GET", "/volume/", who=None)
    assert got.status == 300
    [one] = got.json["versions"]
    assert (one["id"], one["min_version"], one["version"]) == ("v3.0", "3.0", "3.70")
    assert api.whole.call("GET", "/volume/v3", who=None).json["versions"] == [one]
    assert api.call("GET", "/volumes", version="3.71").status == 406
    assert (
        api.call("GET", "/volumes", version="latest").headers["openstack-api-version"]
        == "volume 3.70"
    )


def test_small_lists(api: Client) -> None:
    """What clients ask for although there is nothing of it."""
    for path, name in (
        ("/messages", "messages"),
        ("/groups/detail", "groups"),
        ("/os-availability-zone", "availabilityZoneInfo"),
        ("/extensions", "extensions"),
        ("/resource_filters", "resource_filters"),
    ):
        assert name in api.call("GET", path).json
    assert api.call("GET", "/qos-specs", who="admin").json == {"qos_specs": []}
