"""Events: what happens to servers and services, as a stream that can be taken up again, and as pages of JSON."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.client import Client, until
from tests.whole import Whole, running

EVENTS = "/kilonova/v1/events"


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with running(tmp_path_factory.mktemp("events"), hosts=2) as whole:
        yield whole


def page(client: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"{EVENTS}{query}")["events"]
    return found


def names(events: list[dict[str, Any]]) -> list[str]:
    return [e["event_type"] for e in events]


class Listener:
    """Reads one stream in a thread; ``events``: (id, event, data)."""

    def __init__(self, client: Client, query: str = "", last: str | None = None) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        where = urlsplit(client.url)
        self._conn = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        headers = {"X-Auth-Token": client.token or "", "Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = last
        self._conn.request("GET", EVENTS + query, headers=headers)
        assert self._conn.sock is not None
        self._sock: socket.socket = self._conn.sock
        self.answer = self._conn.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self.answer.status == 200:
            self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for raw in self.answer:
                line = raw.decode().rstrip("\n")
                if line:
                    key, _, value = line.partition(": ")
                    fields[key] = value
                    continue
                if "data" in fields:
                    self.events.append((fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}
        except (OSError, ValueError, http.client.HTTPException):
            return

    def of(self, server: str) -> list[str]:
        return [n for _, n, data in self.events if _uuid(data) == server]

    def close(self) -> None:
        """Hang up, as a client that goes away does."""
        sock = self._sock
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._conn.close()


def _uuid(event: dict[str, Any]) -> str | None:
    found: str | None = event["payload"]["nova_object.data"].get("uuid")
    return found


def test_a_server_s_life_is_told_in_order(x: Whole) -> None:
    """NOTE-1: Nova's names; state and task state of each moment."""
    server = x.demo.boot("told", metadata={"k": "v"})
    x.demo.wait(server, "ACTIVE")
    x.demo.act(server, {"os-stop": None})
    x.demo.wait(server, "SHUTOFF")
    x.demo.act(server, {"lock": None})
    x.demo.act(server, {"unlock": None})
    x.demo.put(f"/compute/v2.1/servers/{server}", {"server": {"name": "told-2"}})
    x.demo.delete(f"/compute/v2.1/servers/{server}")
    x.demo.gone(server)
    told = page(x.demo, f"?server={server}")
    assert names(told) == [
        "instance.create.start",
        "instance.create.end",
        "instance.power_off.start",
        "instance.power_off.end",
        "instance.lock",
        "instance.unlock",
        "instance.update",
        "instance.delete.start",
        "instance.delete.end",
    ]
    data = [e["payload"]["nova_object.data"] for e in told]
    assert [d["state"] for d in data[:4]] == ["building", "active", "active", "stopped"]
    assert data[2]["task_state"] == "powering-off" and data[3]["task_state"] is None
    assert (data[1]["power_state"], data[3]["power_state"]) == ("running", "shutdown")
    assert data[8]["state"] == "deleted" and data[8]["terminated_at"] is not None
    assert data[0]["metadata"] == {"k": "v"} or data[0]["metadata"] == {}
    assert told[0]["payload"]["nova_object.name"] == "InstanceCreatePayload"
    assert data[1]["flavor"]["nova_object.data"]["vcpus"] >= 1
    assert all(d["request_id"].startswith("req-") for d in data)


def test_volumes_are_told_of(x: Whole) -> None:
    """NOTE-1: block_devices are the disks that are volumes."""
    disk = {"boot_index": 0, "source_type": "image", "destination_type": "volume"}
    disk |= {"uuid": x.image(), "volume_size": 1, "tag": "system", "delete_on_termination": True}
    server = x.demo.boot("backed", block_device_mapping_v2=[disk], imageRef="")
    x.demo.wait(server, "ACTIVE")
    (last,) = page(x.demo, f"?server={server}&event=instance.create.end")
    (told,) = last["payload"]["nova_object.data"]["block_devices"]
    assert told["nova_object.name"] == "BlockDevicePayload"
    data = told["nova_object.data"]
    shown = x.demo.get(f"/compute/v2.1/servers/{server}")["server"]
    (volume,) = shown["os-extended-volumes:volumes_attached"]
    assert data["volume_id"] == volume["id"] and data["device_name"].startswith("/dev/")
    assert (data["boot_index"], data["tag"]) == (0, "system")
    assert data["delete_on_termination"] is True
    x.demo.delete(f"/compute/v2.1/servers/{server}")


def test_a_failed_create_is_an_error_that_names_no_host(x: Whole) -> None:
    """NOTE-2: priority ERROR, with the fault that the tenant may read."""
    server = x.demo.boot("bad", metadata={"kilonova:fault": "build_fail_everywhere"})
    x.demo.wait(server, "ERROR")
    last = page(x.demo, f"?server={server}")[-1]
    assert (last["event_type"], last["priority"]) == ("instance.create.error", "ERROR")
    data = last["payload"]["nova_object.data"]
    assert data["fault"]["nova_object.data"]["exception_message"]
    assert data["state"] == "error"
    assert data["host"] is None and "host" not in last["publisher_id"]
    x.demo.delete(f"/compute/v2.1/servers/{server}")


def test_the_stream_tells_at_once_and_goes_on_where_it_was(x: Whole) -> None:
    """NOTE-3: Last-Event-ID; nothing twice, nothing left out."""
    listener = Listener(x.demo)
    assert listener.answer.getheader("content-type") == "text/event-stream"
    server = x.demo.boot("streamed")
    x.demo.wait(server, "ACTIVE")
    until(lambda: listener.of(server)[-1:] == ["instance.create.end"], "the create is told")
    last = listener.events[-1][0]
    listener.close()
    x.demo.act(server, {"os-stop": None})
    x.demo.wait(server, "SHUTOFF")
    again = Listener(x.demo, last=last)
    until(lambda: again.of(server)[-1:] == ["instance.power_off.end"], "the stop is told")
    assert again.of(server) == ["instance.power_off.start", "instance.power_off.end"]
    again.close()
    x.demo.delete(f"/compute/v2.1/servers/{server}")


def test_filters_and_who_hears_what(x: Whole) -> None:
    """NOTE-4: another project hears nothing; an administrator of all projects sees hosts and services."""
    server = x.demo.boot("mine")
    x.demo.wait(server, "ACTIVE")
    others = x.call("GET", f"{EVENTS}?server={server}", who="other")
    assert others.json["events"] == []
    assert names(page(x.demo, f"?server={server}&event=instance.*.end")) == ["instance.create.end"]
    seen = page(x.admin, f"?all_projects=1&server={server}")
    assert seen[-1]["payload"]["nova_object.data"]["host"].startswith("cell1-host")
    assert x.demo.call("GET", f"{EVENTS}?all_projects=1").status == 403
    services = page(x.admin, "?all_projects=1&event=service.*")
    assert names(services)[:2] == ["service.create", "service.create"]
    assert page(x.demo, "?event=service.*") == []
    for bad in ("?server=x", "?after=x", "?after=a:b", "?after=cell1:-1"):
        assert x.demo.call("GET", f"{EVENTS}{bad}").status == 400
    x.demo.delete(f"/compute/v2.1/servers/{server}")


def test_other_things_are_told_too(x: Whole) -> None:
    """NOTE-11: key pairs and groups to their project, flavors and aggregates to administrators."""
    v = "/compute/v2.1"
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJZ17TKJlJrjfkjmgL9jxjES5x6/9N0M8G/5evO4Xvln a"
    x.demo.post(f"{v}/os-keypairs", {"keypair": {"name": "k", "public_key": key, "type": "ssh"}})
    x.demo.delete(f"{v}/os-keypairs/k")
    body = {"server_group": {"name": "g", "policy": "affinity"}}
    group = x.demo.post(f"{v}/os-server-groups", body)["server_group"]["id"]
    x.demo.delete(f"{v}/os-server-groups/{group}")
    told = [n for n in names(page(x.demo)) if not n.startswith("instance.")]
    assert told == [
        "keypair.import.end",
        "keypair.delete.end",
        "server_group.create",
        "server_group.delete",
    ]
    flavor = {"name": "f", "ram": 64, "vcpus": 1, "disk": 1, "id": "f"}
    x.admin.post(f"{v}/flavors", {"flavor": flavor})
    x.admin.put(f"{v}/flavors/f", {"flavor": {"description": "d"}})
    x.admin.delete(f"{v}/flavors/f")
    made = x.admin.post(f"{v}/os-aggregates", {"aggregate": {"name": "a"}})["aggregate"]["id"]
    host = {"add_host": {"host": "cell1-host1"}}
    x.admin.post(f"{v}/os-aggregates/{made}/action", host)
    seen = page(x.admin, "?all_projects=1&event=flavor.*,aggregate.*")
    assert names(seen) == [
        "flavor.create",
        "flavor.update",
        "flavor.delete",
        "aggregate.create.end",
        "aggregate.add_host.end",
    ]
    data = [e["payload"]["nova_object.data"] for e in seen]
    assert (data[1]["description"], data[4]["hosts"]) == ("d", ["cell1-host1"])


def test_more_streams_than_threads_leave_the_api_free(x: Whole) -> None:
    """NOTE-5: a stream takes no thread from requests; what is too much is refused in words."""
    listeners = [Listener(x.demo) for _ in range(12)]
    assert {one.answer.status for one in listeners} == {200}
    server = x.demo.boot("heard")
    x.demo.wait(server, "ACTIVE")
    for one in listeners:
        until(lambda one=one: one.of(server)[-1:] == ["instance.create.end"], "all hear it")  # type: ignore[misc]
        one.close()
    x.demo.delete(f"/compute/v2.1/servers/{server}")


def test_an_open_stream_does_not_hold_a_stop_up(tmp_path: Path) -> None:
    """NOTE-6: the cloud ends, and the stream with it."""
    with running(tmp_path, hosts=1) as whole:
        listener = Listener(whole.demo)
        assert listener.answer.status == 200
    until(lambda: not listener._thread.is_alive(), "the stream ended")
    listener.close()
