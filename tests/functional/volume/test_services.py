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


def test_messages(api: Client) -> None:
    """A type that asks for another back end: no host, and the owner reads why."""
    specs = {"storage_protocol": "ceph"}
    kind = {"name": "elsewhere", "extra_specs": specs}
    made = api.call("POST", "/types", {"volume_type": kind}, who="admin").json["volume_type"]["id"]
    got = api.call("POST", "/volumes", {"volume": {"size": 1, "volume_type": made}})
    volume = got.json["volume"]["id"]
    api.becomes(volume, "error")
    [message] = api.call("GET", f"/messages?resource_uuid={volume}").json["messages"]
    assert "No valid backend" in message["user_message"]
    path = f"/messages/{message['id']}"
    assert api.call("GET", path).json["message"] == message
    assert api.call("GET", path, who="other").status == 404
    assert api.call("DELETE", path, who="reader").status == 403
    assert api.call("DELETE", path).status == 204
    assert api.call("GET", path).status == 404
    api.delete(volume)
    assert api.call("DELETE", f"/types/{made}", who="admin").status == 202


def test_hosts(api: Client) -> None:
    """The older list of services, and what one host keeps."""
    volume = api.make(2)
    host = api.show(volume)["os-vol-host-attr:host"].partition("#")[0]
    names = {h["host_name"] for h in api.call("GET", "/os-hosts", who="admin").json["hosts"]}
    assert host in names
    found = api.call("GET", f"/os-hosts/{host}", who="admin").json["host"]
    assert found[0]["resource"]["total_volume_gb"] == "2"
    assert api.call("GET", "/os-hosts/nowhere", who="admin").status == 404
    assert api.call("PUT", "/os-services/freeze", {"host": host}, who="admin").status == 400
    api.delete(volume)
