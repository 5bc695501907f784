"""Nonsense through HTTP: each piece gets a clear answer that names what is wrong; never a 500, and nothing is left.

The table of everything that a user, an operator or an attacker gets wrong most often. One cloud serves all rows.
"""

import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kilonova.common.errors import Conflict
from kilonova.server.cloud import Cloud
from tests.functional.bad_input_table import ADMIN, TABLE, UNKNOWN, Bad, V, servers
from tests.ledger import changed
from tests.whole import Answer, Client, Whole, running

EMOJI = "\N{CRAB} сервер 服务器 e\N{COMBINING ACUTE ACCENT}"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with running(tmp_path_factory.mktemp("bad") / "state") as x:
        yield x


@pytest.fixture(scope="module")
def stranger(cloud: Whole) -> Client:
    """A member of another project."""
    admin = cloud.admin
    project = admin.post("/identity/v3/projects", {"project": {"name": "other"}})["project"]["id"]
    user = {"user": {"name": "mallory", "password": "pw", "domain_id": "default"}}
    uid = admin.post("/identity/v3/users", user)["user"]["id"]
    roles = admin.get("/identity/v3/roles?name=member")["roles"]
    admin.put(f"/identity/v3/projects/{project}/users/{uid}/roles/{roles[0]['id']}")
    return cloud.client("mallory", "pw", "other")


def check(bad: Bad, c: Client) -> None:
    reply = bad.send(c)
    assert reply.status in bad.status, f"{bad.what}: {reply.status} {reply.message}"
    assert bad.says.lower() in reply.raw.decode(errors="replace").lower(), (
        f"{bad.what}: {reply.message}"
    )
    for word in (b"Traceback", b"sqlite", b"kilonova/", b'File \\"'):
        assert word not in reply.raw, f"{bad.what} shows our insides"


@pytest.fixture(scope="module")
def before(cloud: Whole) -> Any:
    """What stood before the whole table; what one row leaves fails the last test."""
    return cloud.ledger()


@pytest.mark.parametrize("bad", TABLE, ids=lambda b: b.what)
def test_bad_input(bad: Bad, cloud: Whole, before: Any) -> None:
    check(bad, cloud.demo)


@pytest.mark.parametrize("bad", ADMIN, ids=lambda b: b.what)
def test_bad_input_of_an_admin(bad: Bad, cloud: Whole, before: Any) -> None:
    check(bad, cloud.admin)


def test_nothing_of_all_that_was_left(cloud: Whole, before: Any) -> None:
    after = cloud.ledger()
    made = [i for i in cloud.demo.get("/image/v2/images")["images"] if i["name"] != "tiny-linux"]
    assert changed(before, after) == {} and made == []


# -- who asks, at length


def test_a_wrong_password_and_an_unknown_user_look_alike(cloud: Whole) -> None:
    """S19"""

    def ask(name: str, password: str) -> Answer:
        user = {"name": name, "domain": {"id": "default"}, "password": password}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        return Client(cloud.url, None, None).call("POST", "/identity/v3/auth/tokens", body)

    wrong, unknown = ask("demo", "wrong"), ask("nobody-at-all", "wrong")
    assert wrong.status == unknown.status == 401
    assert wrong.message == unknown.message


def test_a_revoked_token(cloud: Whole) -> None:
    """S24"""
    c = cloud.client("demo", cloud.passwords["demo"], "demo")
    c.get(f"{V}/servers")
    c.delete("/identity/v3/auth/tokens", headers={"X-Subject-Token": str(c.token)})
    assert c.call("GET", f"{V}/servers").status == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "", {"server": {"name": "mine"}}),
        ("DELETE", "", None),
        ("POST", "/action", {"os-stop": None}),
        ("POST", "/action", {"reboot": {"type": "HARD"}}),
        ("GET", "/metadata", None),
        ("GET", "/tags", None),
        ("GET", "/os-instance-actions", None),
        ("GET", "/os-interface", None),
        ("POST", "/action", {"os-getConsoleOutput": {}}),
    ],
)
def test_another_projects_server_is_missing(
    method: str, path: str, body: Any, cloud: Whole, stranger: Client, theirs: str
) -> None:
    """S19: 404, in the same words as for one that is not there."""
    real = stranger.call(method, f"{V}/servers/{theirs}{path}", body)
    none = stranger.call(method, f"{V}/servers/{UNKNOWN}{path}", body)
    assert (real.status, real.message.replace(theirs, UNKNOWN)) == (404, none.message)


@pytest.fixture(scope="module")
def theirs(cloud: Whole) -> Iterator[str]:
    """A server of demo's."""
    server = cloud.demo.boot("theirs")
    cloud.demo.wait(server, "ACTIVE")
    yield server
    cloud.demo.delete(f"{V}/servers/{server}")
    cloud.demo.gone(server)


def test_a_port_in_use(cloud: Whole, theirs: str) -> None:
    ports = cloud.demo.get(f"/network/v2.0/ports?device_id={theirs}")["ports"]
    reply = servers(networks=[{"port": ports[0]["id"]}])(cloud.demo)
    assert reply.status == 409 and ports[0]["id"] in reply.message


def test_an_address_in_use(cloud: Whole, theirs: str) -> None:
    port = cloud.demo.get(f"/network/v2.0/ports?device_id={theirs}")["ports"][0]
    address = port["fixed_ips"][0]["ip_address"]
    reply = servers(networks=[{"uuid": port["network_id"], "fixed_ip": address}])(cloud.demo)
    assert reply.status == 400 and address in reply.message


def test_another_projects_port(cloud: Whole, stranger: Client, theirs: str) -> None:
    """S19"""
    port = cloud.demo.get(f"/network/v2.0/ports?device_id={theirs}")["ports"][0]["id"]
    body = cloud.demo.server_body(networks=[{"port": port}])
    reply = stranger.call("POST", f"{V}/servers", body)
    assert reply.status in (400, 404) and "could not be found" in reply.message


@pytest.mark.parametrize(
    "action",
    [
        {"os-start": None},
        {"unpause": None},
        {"resume": None},
        {"reboot": {"type": "WARM"}},
        {"fly": None},
        {},
        {"pause": None, "os-stop": None},
    ],
    ids=lambda a: "+".join(a) or "none",
)
def test_actions_that_do_not_fit(action: dict[str, Any], cloud: Whole, theirs: str) -> None:
    reply = cloud.demo.act(theirs, action)
    assert reply.status in (400, 409)
    if reply.status == 409:
        assert "vm_state active" in reply.message and theirs in reply.message
    assert cloud.demo.show(theirs)["status"] == "ACTIVE"


# -- names that are fine


@pytest.mark.parametrize(
    "name",
    [EMOJI, "<script>alert(1)</script>", "'; DROP TABLE server; --", "x" * 255, "a/../b", "%s%n"],
)
def test_strange_names_are_only_names(name: str, cloud: Whole) -> None:
    before = cloud.ledger()
    server = cloud.demo.boot(name)
    assert cloud.demo.wait(server, "ACTIVE")["name"] == name
    assert [s["id"] for s in cloud.demo.get(f"{V}/servers")["servers"] if s["name"] == name] == [
        server
    ]
    cloud.demo.delete(f"{V}/servers/{server}")
    cloud.demo.gone(server)
    history = ("deleted:", "action:", "event:", "operation:")
    assert not [k for k in changed(before, cloud.ledger()) if not k.startswith(history)]


# -- big bodies


def _raw(cloud: Whole, head: bytes, pieces: Iterator[bytes]) -> bytes:
    """Send bytes until the other side has had enough; return the first line of the answer."""
    at = urlsplit(cloud.url)
    with socket.create_connection((at.hostname, at.port), timeout=30) as s:
        s.sendall(head)
        try:
            for piece in pieces:
                s.sendall(piece)
        except OSError:
            pass
        try:
            return s.recv(4096).partition(b"\r\n")[0]
        except OSError:
            return b""


def test_a_body_of_one_gibibyte(cloud: Whole) -> None:
    """Refused by its announced length, before it is read."""
    head = (
        f"POST {V}/servers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"X-Auth-Token: {cloud.demo.token}\r\nContent-Length: {1 << 30}\r\n\r\n"
    )
    line = _raw(cloud, head.encode(), iter([b"x" * 65536]))
    assert line.split()[1] == b"413"


def test_a_chunked_body_without_end(cloud: Whole) -> None:
    head = (
        f"POST {V}/servers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"X-Auth-Token: {cloud.demo.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    line = _raw(cloud, head.encode(), (chunk for _ in range(4096)))
    assert line == b"" or line.split()[1] in (b"413", b"400")
    assert cloud.demo.call("GET", f"{V}/servers").status == 200


def test_garbage_instead_of_http(cloud: Whole) -> None:
    line = _raw(cloud, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", iter(()))
    assert line == b"" or line.split()[1].startswith(b"4")
    assert cloud.demo.call("GET", f"{V}/servers").status == 200


# -- images that lie

BACKED = b"QFI\xfb\0\0\0\x03" + (64).to_bytes(8, "big") + (11).to_bytes(4, "big") + b"\0" * 84
BACKED += b"/etc/passwd" + b"\0" * 4096


@pytest.mark.parametrize(
    ("what", "disk_format", "content"),
    [
        ("not qcow2 at all", "qcow2", b"MZ" + b"\0" * 4096),
        ("a qcow2 with a backing file", "qcow2", BACKED),
        ("a qcow2 called raw", "raw", b"QFI\xfb\0\0\0\x03" + b"\0" * 4096),
    ],
)
def test_an_image_that_lies(what: str, disk_format: str, content: bytes, cloud: Whole) -> None:
    """S1, S4: refused with the reason; no bytes stay."""
    body = {"name": "liar", "disk_format": disk_format, "container_format": "bare"}
    uuid = cloud.demo.post("/image/v2/images", body)["id"]
    headers = {"Content-Type": "application/octet-stream"}
    reply = cloud.demo.call("PUT", f"/image/v2/images/{uuid}/file", body=content, headers=headers)
    assert 400 <= reply.status < 500, what
    assert cloud.demo.get(f"/image/v2/images/{uuid}")["status"] != "active"
    assert servers(imageRef=uuid)(cloud.demo).status == 400
    cloud.demo.delete(f"/image/v2/images/{uuid}")


def test_an_unknown_image_property_is_named(cloud: Whole) -> None:
    uuid = cloud.demo.first("/image/v2/images", "tiny-linux")
    patch = [{"op": "add", "path": "/hw_warp_drive", "value": "on"}]
    headers = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    cloud.admin._good(
        cloud.admin.call(
            "PATCH", f"/image/v2/images/{uuid}", body=json.dumps(patch).encode(), headers=headers
        )
    )
    reply = servers()(cloud.demo)
    undo = [{"op": "remove", "path": "/hw_warp_drive"}]
    cloud.admin._good(
        cloud.admin.call(
            "PATCH", f"/image/v2/images/{uuid}", body=json.dumps(undo).encode(), headers=headers
        )
    )
    assert reply.status == 400 and "hw_warp_drive" in reply.message


# -- nothing fits


def test_a_quota_that_is_full(cloud: Whole) -> None:
    quota = f"{V}/os-quota-sets/{cloud.demo.project}"
    used = cloud.demo.get(f"{V}/limits")["limits"]["absolute"]["totalInstancesUsed"]
    cloud.admin.put(quota, {"quota_set": {"instances": used}})
    try:
        reply = servers()(cloud.demo)
    finally:
        cloud.admin.put(quota, {"quota_set": {"instances": 10}})
    assert reply.status == 403 and "Quota exceeded for instances" in reply.message


def test_no_host_fits(cloud: Whole) -> None:
    flavor = {"flavor": {"name": "whale", "vcpus": 1, "ram": 1 << 30, "disk": 1, "id": "whale"}}
    cloud.admin.post(f"{V}/flavors", flavor)
    cloud.admin.put(f"{V}/os-quota-sets/{cloud.demo.project}", {"quota_set": {"ram": -1}})
    server = cloud.demo.boot("whale", flavorRef="whale")
    shown = cloud.demo.wait(server, "ERROR")
    assert "No valid host was found" in shown["fault"]["message"]
    assert "cell1-host" not in json.dumps(shown["fault"])
    cloud.demo.delete(f"{V}/servers/{server}")
    cloud.demo.gone(server)
    cloud.admin.delete(f"{V}/flavors/whale")


def test_a_disk_that_is_full_on_every_host(cloud: Whole) -> None:
    server = cloud.demo.boot("full", metadata={"kilonova:fault": "build_fail_everywhere"})
    shown = cloud.demo.wait(server, "ERROR")
    assert shown["fault"]["code"] == 500 and "cell1-host" not in json.dumps(shown["fault"])
    cloud.demo.delete(f"{V}/servers/{server}")
    cloud.demo.gone(server)


# -- state directories


def test_a_state_directory_of_a_newer_version(tmp_path: Path) -> None:
    """Refused with both versions named; nothing in it is changed."""
    with running(tmp_path / "state", hosts=1) as x:
        plan = x.plan
    path = plan.state_dir / "db" / "global.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=77")
    db.close()
    with pytest.raises(Conflict, match="version 77; this release knows"):
        Cloud(plan).start()


def test_a_state_directory_in_use(tmp_path: Path) -> None:
    with (
        running(tmp_path / "state", hosts=1) as x,
        pytest.raises(Conflict, match="in use by process"),
    ):
        Cloud(x.plan).start()
