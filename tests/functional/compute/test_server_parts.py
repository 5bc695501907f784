"""Metadata, tags, actions, addresses, interfaces, groups, console, diagnostics and the like of one server."""

from typing import Any

import pytest

from kilonova.common.context import Context
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, servers
from kilonova.objects.guest import PowerState
from tests.functional.compute.conftest import DEMO, Cloud

CTX = Context(request_id="req-a", user_id="u-demo", project_id=DEMO)


def test_metadata(cloud: Cloud) -> None:
    server = cloud.server()
    path = f"/servers/{server}/metadata"
    assert cloud.get(path) == {"metadata": {}}
    seen = cloud.call("POST", path, {"metadata": {"a": "1", "b": "2"}}, status=200)
    assert seen == {"metadata": {"a": "1", "b": "2"}}
    assert cloud.get(path + "/a") == {"meta": {"a": "1"}}
    body = {"meta": {"a": "3"}}
    assert cloud.call("PUT", path + "/a", body, status=200) == body
    say = cloud.message("PUT", path + "/b", body, status=400)
    assert say == "Request body and URI mismatch"
    assert cloud.call("PUT", path, {"metadata": {"c": "4"}}, status=200) == {"metadata": {"c": "4"}}
    row = cloud.services.cell("cell1").read(lambda tx: servers.find(tx, server))
    assert row["metadata_generation"] == 4
    cloud.call("DELETE", path + "/c", status=204)
    say = cloud.message("DELETE", path + "/c", status=404)
    assert say == "Metadata item was not found"
    cloud.get(path + "/c", status=404)
    for wrong in (
        {"metadata": {"a" * 256: "x"}},
        {"metadata": {"a": "x" * 256}},
        {"metadata": 1},
        {},
    ):
        cloud.call("POST", path, wrong, status=400)
    cloud.get(path, as_="other", status=404)
    cloud.call("POST", path, {"metadata": {"a": "1"}}, as_="reader", status=403)
    cloud.get(path + "?x=1", at=101)
    cloud.get(path + "?x=1", at=102, status=400)


def test_metadata_states_and_quota(cloud: Cloud) -> None:
    body = {"metadata": {"a": "1", "b": "2"}}
    waiting = cloud.server(host=None)
    say = cloud.message("POST", f"/servers/{waiting}/metadata", body, status=409)
    assert say == (f"Cannot 'update metadata' instance {waiting} while it is in vm_state building")
    busy = cloud.server(task_state="pausing")
    cloud.call("POST", f"/servers/{busy}/metadata", body, status=409)
    broken = cloud.server(vm_state="error")
    cloud.call("POST", f"/servers/{broken}/metadata", body, status=409)
    locked = cloud.server(locked_by="admin")
    say = cloud.message("POST", f"/servers/{locked}/metadata", body, status=409)
    assert say == f"Instance {locked} is locked"
    cloud.call("POST", f"/servers/{locked}/metadata", body, as_="admin", status=200)
    limit = {"quota_set": {"metadata_items": 1}}
    cloud.call("PUT", f"/os-quota-sets/{DEMO}", limit, as_="admin", status=200)
    say = cloud.message("POST", f"/servers/{cloud.server()}/metadata", body, status=403)
    assert say == "Maximum number of metadata items exceeds 1"


def test_tags(cloud: Cloud) -> None:
    server = cloud.server()
    path = f"/servers/{server}/tags"
    cloud.get(path, at=25, status=404)
    assert cloud.get(path, at=26) == {"tags": []}
    made = cloud.call("PUT", path + "/red")
    assert made.status_code == 201 and made.headers["Location"].endswith(f"{path}/red")
    cloud.call("PUT", path + "/red", status=204)
    cloud.call("GET", path + "/red", status=204)
    say = cloud.message("GET", path + "/blue", status=404)
    assert say == f"Server {server} has no tag 'blue'"
    cloud.call("PUT", path + "/" + "x" * 61, status=400)
    cloud.call("PUT", path + "/a,b", status=400)
    seen = cloud.call("PUT", path, {"tags": ["b", "a", "b"]}, status=200)
    assert seen == {"tags": ["a", "b"]} == cloud.get(path)
    assert [s["id"] for s in cloud.get("/servers?tags=a,b")["servers"]] == [server]
    cloud.call("PUT", path, {"tags": ["x" * 61]}, status=400)
    cloud.call("DELETE", path + "/a", status=204)
    say = cloud.message("DELETE", path + "/a", status=404)
    assert say == f"Instance {server} has no tag 'a'"
    cloud.call("PUT", path, {"tags": [f"t{n}" for n in range(50)]}, status=200)
    say = cloud.message("PUT", path + "/more", status=400)
    assert say == "The number of tags exceeded the per-server limit 50"
    cloud.call("DELETE", path, status=204)
    assert cloud.get(path) == {"tags": []}
    cloud.call("PUT", path + "/red", as_="reader", status=403)
    cloud.call("PUT", path + "/red", as_="other", status=404)
    broken = cloud.server(vm_state="error")
    cloud.call("PUT", f"/servers/{broken}/tags/a", status=409)


ACTION = {
    "action",
    "instance_uuid",
    "request_id",
    "user_id",
    "project_id",
    "start_time",
    "message",
}
EVENT = {"event", "start_time", "finish_time", "result"}


def act(cloud: Cloud, server: str, request: str, name: str = "start") -> None:
    ctx, now, operation = CTX.replace(request_id=request), cloud.clock.now(), new_uuid()

    def put(tx: Any) -> None:
        actions.begin(tx, operation=operation, server=server, action=name, ctx=ctx, now=now)
        actions.event(
            tx,
            operation=operation,
            step="s",
            name="compute_start_instance",
            started=now,
            finished=now + 1,
            ok=True,
            host="cell1-host1",
            details="d",
        )
        actions.finish(tx, operation, now + 1)

    cloud.services.cell("cell1").write(put)
    cloud.clock.advance(10)


@pytest.mark.parametrize(
    ("at", "keys", "admin", "owner"),
    [
        (1, ACTION, EVENT | {"traceback"}, None),
        (50, ACTION, EVENT | {"traceback"}, None),
        (51, ACTION, EVENT | {"traceback"}, EVENT),
        (58, ACTION | {"updated_at"}, EVENT | {"traceback"}, EVENT),
        (62, ACTION | {"updated_at"}, EVENT | {"traceback", "host", "hostId"}, EVENT | {"hostId"}),
        (
            84,
            ACTION | {"updated_at"},
            EVENT | {"traceback", "host", "hostId", "details"},
            EVENT | {"hostId"},
        ),
    ],
)
def test_action_fields(
    cloud: Cloud, at: int, keys: set[str], admin: set[str], owner: set[str] | None
) -> None:
    server = cloud.server()
    act(cloud, server, "req-a")
    path = f"/servers/{server}/os-instance-actions"
    (listed,) = cloud.get(path, at=at)["instanceActions"]
    assert set(listed) == keys
    for who, events in (("admin", admin), ("demo", owner)):
        one = cloud.get(path + "/req-a", at=at, as_=who)["instanceAction"]
        assert set(one) == keys | (set() if events is None else {"events"})
        if events is not None:
            assert set(one["events"][0]) == events
    say = cloud.message("GET", path + "/req-z", at=at, status=404)
    assert say == "Action req-z not found"
    cloud.get(path, at=at, as_="other", status=404)


def test_action_pages_and_times(cloud: Cloud) -> None:
    server = cloud.server()
    for n in range(3):
        act(cloud, server, f"req-{n}")
    path = f"/servers/{server}/os-instance-actions"
    first = cloud.get(path + "?limit=2", at=58)
    assert [a["request_id"] for a in first["instanceActions"]] == ["req-2", "req-1"]
    tail = first["links"][0]["href"].partition("?")[2]
    rest = cloud.get(f"{path}?{tail}", at=58)
    assert [a["request_id"] for a in rest["instanceActions"]] == ["req-0"] and "links" not in rest
    assert len(cloud.get(path + "?limit=1", at=57)["instanceActions"]) == 3
    moment = first["instanceActions"][1]["updated_at"]
    since = cloud.get(f"{path}?changes-since={moment}", at=58)["instanceActions"]
    assert [a["request_id"] for a in since] == ["req-2", "req-1"]
    before = cloud.get(f"{path}?changes-before={moment}", at=66)["instanceActions"]
    assert [a["request_id"] for a in before] == ["req-1", "req-0"]
    cloud.get(f"{path}?changes-before={moment}", at=65, status=400)
    both = f"{path}?changes-since={moment}&changes-before=2001-01-01T00:00:00Z"
    cloud.get(both, at=66, status=400)
    cloud.get(path + "?marker=no", at=58, status=400)
    cloud.get(path + "?changes-since=soon", at=58, status=400)


def test_actions_of_deleted_and_waiting_servers(cloud: Cloud) -> None:
    server = cloud.server()
    act(cloud, server, "req-a", "delete")
    cloud.services.cell("cell1").write(lambda tx: servers.mark_deleted(tx, server, 1.0))
    cloud.services.world.write(lambda tx: mappings.remove(tx, server))
    path = f"/servers/{server}/os-instance-actions"
    cloud.get(path, at=20, status=404)
    assert len(cloud.get(path, at=21)["instanceActions"]) == 1
    cloud.get(path, at=21, as_="other", status=404)
    waiting = cloud.server(host=None)
    assert cloud.get(f"/servers/{waiting}/os-instance-actions") == {"instanceActions": []}


def test_addresses_and_interfaces(cloud: Cloud) -> None:
    server = cloud.server()
    port = cloud.port(server)
    add = {"addFloatingIp": {"address": "172.24.4.9"}}
    path = f"/servers/{server}"
    cloud.call("POST", path + "/action", add, at=44, status=404)
    cloud.call("POST", path + "/action", add, at=43, status=202)
    private = [{"version": 4, "addr": "10.0.0.5"}, {"version": 4, "addr": "172.24.4.9"}]
    assert cloud.get(path + "/ips") == {"addresses": {"private": private}}
    assert cloud.get(path + "/ips/private") == {"private": private}
    say = cloud.message("GET", path + "/ips/public", status=404)
    assert say == "Instance is not a member of specified network"
    gone = {"removeFloatingIp": {"address": "172.24.4.9"}}
    cloud.call("POST", path + "/action", gone, at=43, status=202)
    cloud.call("POST", path + "/action", gone, at=43, status=409)
    base = {"net_id", "port_id", "mac_addr", "port_state", "fixed_ips"}
    for at, keys in ((1, base), (69, base), (70, base | {"tag"})):
        (nic,) = cloud.get(path + "/os-interface", at=at)["interfaceAttachments"]
        assert set(nic) == keys and nic["port_id"] == port.port_id
        one = cloud.get(f"{path}/os-interface/{port.port_id}", at=at)
        assert one == {"interfaceAttachment": nic}
    missing = new_uuid()
    say = cloud.message("GET", f"{path}/os-interface/{missing}", status=404)
    assert say == f"Instance {server} does not have a port with id {missing}"
    body = {"interfaceAttachment": {"net_id": missing, "tag": "t"}}
    cloud.call("POST", path + "/os-interface", body, at=48, status=400)
    cloud.call("DELETE", f"{path}/os-interface/{port.port_id}", as_="other", status=404)


def test_security_groups(cloud: Cloud) -> None:
    server = cloud.server()
    path = f"/servers/{server}"
    add = {"addSecurityGroup": {"name": "web"}}
    cloud.call("POST", path + "/action", add, status=400)
    cloud.port(server)
    cloud.call("POST", path + "/action", add, status=202)
    assert cloud.get(path)["server"]["security_groups"] == [{"name": "web"}]
    (group,) = cloud.get(path + "/os-security-groups")["security_groups"]
    assert set(group) == {"id", "name", "description", "tenant_id", "rules"}
    ssh, ping = group["rules"]
    assert (ssh["ip_protocol"], ssh["from_port"], ssh["ip_range"]) == (
        "TCP",
        22,
        {"cidr": "0.0.0.0/0"},
    )
    assert (ping["from_port"], ping["group"]["name"], ping["ip_range"]) == (-1, "default", {})
    gone = {"removeSecurityGroup": {"name": "web"}}
    cloud.call("POST", path + "/action", gone, status=202)
    cloud.call("POST", path + "/action", gone, status=404)
    assert "security_groups" not in cloud.get(path)["server"]
    cloud.call("POST", path + "/action", {"addSecurityGroup": {"name": "none"}}, status=404)
    cloud.call("POST", path + "/action", {"addSecurityGroup": {}}, status=400)
    cloud.call("POST", path + "/action", add, as_="reader", status=403)
    cloud.get(path + "/os-security-groups", as_="other", status=404)


def console(cloud: Cloud, server: str, status: int = 200, **kw: Any) -> Any:
    length = kw.pop("length", None)
    body = {"os-getConsoleOutput": {} if length is None else {"length": length}}
    return cloud.call("POST", f"/servers/{server}/action", body, status=status, **kw)


def test_console_output(cloud: Cloud) -> None:
    server = cloud.server()
    console(cloud, server, 404)
    cloud.guest(server)
    assert console(cloud, server) == {"output": "one\ntwo\nthree\n"}
    assert console(cloud, server, length=2) == {"output": "three\n"}
    assert console(cloud, server, length="3") == {"output": "two\nthree\n"}
    assert console(cloud, server, length=-1) == {"output": "one\ntwo\nthree\n"}
    for wrong in (-2, "x", 1.5, "9" * 30):
        console(cloud, server, 400, length=wrong)
    console(cloud, server, 403, as_="reader")
    console(cloud, server, 404, as_="other")
    waiting = cloud.server(host=None)
    body = {"os-getConsoleOutput": {}}
    say = cloud.message("POST", f"/servers/{waiting}/action", body, status=409)
    assert say == f"Instance {waiting} is not ready"
    cloud.services.hosts.set_service("cell1-host1", forced_down=True)
    say = cloud.message("POST", f"/servers/{server}/action", body, status=503)
    assert "cell1" not in say


NEW_DIAGNOSTICS = {
    "state",
    "driver",
    "hypervisor",
    "hypervisor_os",
    "uptime",
    "config_drive",
    "num_cpus",
    "num_nics",
    "num_disks",
    "disk_details",
    "cpu_details",
    "nic_details",
    "memory_details",
}


def test_diagnostics(cloud: Cloud) -> None:
    server = cloud.server()
    cloud.guest(server)
    path = f"/servers/{server}/diagnostics"
    cloud.get(path, status=403)
    new = cloud.get(path, as_="admin", at=48)
    assert set(new) == NEW_DIAGNOSTICS and set(new["memory_details"]) == {"maximum", "used"}
    old = cloud.get(path, as_="admin", at=47)
    assert old["memory"] == 512 * 1024 and old["cpu0_time"] == 0 and "vda_read_req" in old
    cloud.guest(server, power=PowerState.SHUTDOWN)
    cloud.get(path, as_="admin", status=409)
    waiting = cloud.server(host=None)
    cloud.get(f"/servers/{waiting}/diagnostics", as_="admin", status=409)


def test_volumes_topology_migrations(cloud: Cloud) -> None:
    path = f"/servers/{cloud.server()}"
    volume = new_uuid()
    assert cloud.get(path + "/os-volume_attachments") == {"volumeAttachments": []}
    cloud.get(f"{path}/os-volume_attachments/{volume}", status=404)
    body: Any = {"volumeAttachment": {"volumeId": volume}}
    cloud.call("POST", path + "/os-volume_attachments", body, status=503)
    body["volumeAttachment"]["tag"] = "t"
    cloud.call("POST", path + "/os-volume_attachments", body, at=48, status=400)
    cloud.call("POST", path + "/os-volume_attachments", body, at=49, status=503)
    cloud.call("DELETE", f"{path}/os-volume_attachments/{volume}", status=503)
    cloud.get(path + "/os-volume_attachments", as_="other", status=404)
    cloud.get(path + "/topology", at=77, status=404)
    assert cloud.get(path + "/topology", at=78) == {"nodes": [], "pagesize_kb": None}
    assert cloud.get("/os-migrations", as_="admin", at=1) == {"migrations": []}
    cloud.get("/os-migrations", status=403)
    cloud.get("/os-migrations?x=1", as_="admin", at=58)
    cloud.get("/os-migrations?x=1", as_="admin", at=59, status=400)
    cloud.get("/os-migrations?changes-before=2001-01-01T00:00:00Z", as_="admin", at=65, status=400)
    cloud.get(path + "/migrations", as_="admin", at=22, status=404)
    assert cloud.get(path + "/migrations", as_="admin", at=23) == {"migrations": []}
    cloud.get(path + "/migrations/1", as_="admin", status=404)
    force = {"force_complete": None}
    cloud.call("POST", path + "/migrations/1/action", force, as_="admin", status=404)
    cloud.call("DELETE", path + "/migrations/1", as_="admin", status=404)


def test_reset_state(cloud: Cloud) -> None:
    server, busy, waiting = cloud.server(), cloud.server(task_state="pausing"), cloud.server(None)

    def reset(target: str, state: str, status: int, as_: str = "admin") -> None:
        body = {"os-resetState": {"state": state}}
        cloud.call("POST", f"/servers/{target}/action", body, as_=as_, status=status)

    reset(server, "error", 403, "demo")
    reset(server, "error", 202)
    assert cloud.get(f"/servers/{server}")["server"]["status"] == "ERROR"
    reset(server, "active", 202)
    assert cloud.get(f"/servers/{server}")["server"]["status"] == "ACTIVE"
    reset(server, "paused", 400)
    reset(busy, "active", 409)
    reset(waiting, "active", 409)
