"""Volume attachments over HTTP: each microversion's fields, every state that allows them, every refusal."""

from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.db import servers
from kilonova.operations import server_disks
from tests.functional.volumes_kit import Kit, S
from tests.whole import Whole, running, until

MISSING = "99999999-9999-4999-8999-999999999999"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


@pytest.fixture(scope="module")
def server(kit: Kit) -> str:
    return kit.server(imageRef=kit.image)


FIELDS = {
    "2.1": {"id", "volumeId", "serverId", "device"},
    "2.69": {"id", "volumeId", "serverId", "device"},
    "2.70": {"id", "volumeId", "serverId", "device", "tag"},
    "2.79": {"id", "volumeId", "serverId", "device", "tag", "delete_on_termination"},
    "2.88": {"id", "volumeId", "serverId", "device", "tag", "delete_on_termination"},
    "2.89": {
        *("volumeId", "serverId", "device", "tag", "delete_on_termination"),
        *("attachment_id", "bdm_uuid"),
    },
}
POSTED = {**FIELDS, "2.89": FIELDS["2.88"]}


@pytest.mark.parametrize("version", FIELDS)
def test_fields_of_each_microversion(version: str, kit: Kit, server: str) -> None:
    volume = kit.volume()
    minor = int(version[2:])
    more: dict[str, Any] = {"tag": "data"} if minor >= 49 else {}
    if minor >= 79:
        more["delete_on_termination"] = True
    got = kit.attach(server, volume, version=version, device="/dev/vdb", **more)
    assert got.status == 200, got
    posted = got.json["volumeAttachment"]
    assert set(posted) == POSTED[version]
    assert (posted["device"], posted["volumeId"], posted["serverId"]) == (
        "/dev/vdb",
        volume,
        server,
    )
    kit.becomes(volume, "in-use")
    path = f"{S}/{server}/os-volume_attachments"
    one = kit.whole.call("GET", f"{path}/{volume}", version=version).json["volumeAttachment"]
    assert set(one) == FIELDS[version]
    assert kit.attachments(server, version) == [one]
    if minor >= 70:
        assert one["tag"] == "data"
    if minor >= 79:
        assert one["delete_on_termination"] is True
    held = kit.show_volume(volume)["attachments"][0]
    if minor >= 89:
        assert one["attachment_id"] == held["attachment_id"]
    assert held["server_id"] == server
    assert kit.detach(server, volume, version=version).status == 202
    kit.becomes(volume, "available")
    kit.holds_nothing(server)


def test_from_2_101_the_answer_is_empty(kit: Kit, server: str) -> None:
    volume = kit.volume()
    got = kit.attach(server, volume, version="2.101")
    assert (got.status, got.raw) == (202, b"")
    kit.becomes(volume, "in-use")
    shown = kit.show(server, "2.104")["os-extended-volumes:volumes_attached"]
    assert shown == [{"id": volume, "delete_on_termination": False}]
    assert kit.show(server, "2.2")["os-extended-volumes:volumes_attached"] == [{"id": volume}]
    kit.detach(server, volume)
    kit.becomes(volume, "available")


def test_pages_of_attachments(kit: Kit, server: str) -> None:
    volumes = [kit.volume() for _ in range(3)]
    for volume in volumes:
        kit.attached(server, volume)
    path = f"{S}/{server}/os-volume_attachments?limit=1&offset=1"
    got = kit.whole.call("GET", path).json["volumeAttachments"]
    assert [a["volumeId"] for a in got] == volumes[1:2]
    for volume in volumes:
        kit.detach(server, volume)
        kit.becomes(volume, "available")


def test_several_at_once_are_all_taken(kit: Kit, server: str) -> None:
    volumes = [kit.volume() for _ in range(3)]
    devices = set()
    for volume in volumes:
        got = kit.attach(server, volume)
        assert got.status == 200, got
        devices.add(got.json["volumeAttachment"]["device"])
    assert devices == {"/dev/vdb", "/dev/vdc", "/dev/vdd"}
    for volume in volumes:
        kit.becomes(volume, "in-use")
    assert set(kit.guest(server).volumes) == set(volumes)
    for volume in volumes:
        assert kit.detach(server, volume).status == 202
    for volume in volumes:
        kit.becomes(volume, "available")
    assert kit.guest(server).volumes == ()


@pytest.mark.parametrize(
    ("action", "status", "back"),
    [
        ("os-stop", "SHUTOFF", "os-start"),
        ("pause", "PAUSED", "unpause"),
        ("suspend", "SUSPENDED", "resume"),
    ],
)
def test_states_that_allow_it(action: str, status: str, back: str, kit: Kit, server: str) -> None:
    first, second = kit.volume(), kit.volume()
    kit.attached(server, first)
    kit.act(server, action, status)
    kit.attached(server, second)
    assert kit.detach(server, first).status == 202
    kit.becomes(first, "available")
    kit.act(server, back, "ACTIVE")
    assert kit.guest(server).volumes == (second,)
    kit.detach(server, second)
    kit.becomes(second, "available")


def test_what_is_refused(kit: Kit, server: str) -> None:
    volume, foreign = kit.volume(), kit.volume(who="admin")
    other = kit.server(imageRef=kit.image)
    assert kit.attach(server, MISSING).status == 404
    assert kit.attach(server, foreign).status == 404
    assert kit.attach(MISSING, volume).status == 404
    assert kit.attach(server, volume, who="other").status == 404
    assert kit.attach(server, volume, who="reader").status == 403
    assert kit.attach(server, volume, device="/tmp/x").status == 400
    assert kit.attach(server, volume, version="2.48", tag="t").status == 400
    kit.attached(server, volume)
    again = kit.attach(other, volume)
    assert again.status == 400 and "status must be" in again.json["badRequest"]["message"]
    assert kit.attach(server, volume).status == 400
    gone = kit.detach(other, volume)
    assert gone.status == 404
    assert (
        gone.json["itemNotFound"]["message"]
        == f"Instance {other} is not attached to volume {volume}"
    )
    assert kit.detach(server, MISSING).status == 404
    kit.whole.call("POST", f"{S}/{server}/action", {"lock": None})
    assert kit.detach(server, volume).status == 409
    kit.whole.call("POST", f"{S}/{server}/action", {"unlock": None})
    kit.detach(server, volume)
    kit.becomes(volume, "available")
    kit.delete(other)


def test_a_root_volume_stays(kit: Kit) -> None:
    server = kit.backed()
    (root,) = kit.attachments(server)
    got = kit.detach(server, root["volumeId"])
    assert got.status == 400
    assert got.json["badRequest"]["message"] == "Cannot detach a root device volume"
    kit.delete(server)
    kit.becomes(root["volumeId"], None)


def test_what_ends_with_the_server(kit: Kit) -> None:
    """2.79, 2.85"""
    server = kit.server(imageRef=kit.image)
    goes, stays = kit.volume(), kit.volume()
    kit.attached(server, goes)
    kit.attached(server, stays, delete_on_termination=True)
    path = f"{S}/{server}/os-volume_attachments"

    def put(volume: str, version: str = "2.85", who: str = "demo", **body: Any) -> int:
        wanted = {"volumeAttachment": {"volumeId": volume, **body}}
        return kit.whole.call("PUT", f"{path}/{volume}", wanted, version=version, who=who).status

    assert put(goes, delete_on_termination=True) == 202
    assert put(stays, delete_on_termination=False, device="/dev/vdc", id=stays) == 202
    assert put(goes, "2.84", delete_on_termination=True) == 400
    assert put(goes, device="/dev/vdz") == put(goes, tag="x") == put(goes, id=stays) == 400
    assert put(MISSING, delete_on_termination=True) == 404
    assert put(goes, "2.84") == 403
    shown = {a["volumeId"]: a["delete_on_termination"] for a in kit.attachments(server)}
    assert shown == {goes: True, stays: False}
    kit.delete(server)
    kit.becomes(goes, None)
    kit.becomes(stays, "available")


def test_swapping_is_only_for_a_migration(kit: Kit, server: str) -> None:
    old, new = kit.volume(), kit.volume()
    kit.attached(server, old)
    path = f"{S}/{server}/os-volume_attachments/{old}"
    for version in ("2.1", "2.85"):
        got = kit.whole.call(
            "PUT", path, {"volumeAttachment": {"volumeId": new}}, version=version, who="admin"
        )
        assert got.status == 409, got
        assert "is not migrating" in got.json["conflictingRequest"]["message"]
    kit.detach(server, old)
    kit.becomes(old, "available")


def test_a_guest_that_does_not_let_go(kit: Kit) -> None:
    """The volume shows as detaching until the guest obeys; what comes after waits for its turn."""
    server, volume = kit.server(imageRef=kit.image), kit.volume()
    kit.attached(server, volume)
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("detach_disk_busy", server=server)
    assert kit.detach(server, volume).status == 202
    kit.becomes(volume, "detaching")
    until(lambda: faults.hits.get("detach_disk_busy", 0) > 2 or None)
    again = kit.detach(server, volume)
    assert again.status == 400, again
    faults.clear()
    kit.becomes(volume, "available")
    kit.delete(server)


def test_a_server_that_is_deleted_meanwhile(kit: Kit) -> None:
    """R17: the attach unwinds, or ends, then the delete; the volume is free again."""
    server, volume = kit.server(imageRef=kit.image), kit.volume()
    assert kit.attach(server, volume).status == 200
    kit.delete(server)
    kit.becomes(volume, "available")


def test_several_servers_share_a_volume(kit: Kit) -> None:
    """2.60"""
    made = kit.block(
        "POST",
        "/types",
        {"volume_type": {"name": "shared", "extra_specs": {"multiattach": "<is> True"}}},
        who="admin",
    )
    assert made.status == 200, made
    volume = kit.volume(volume_type="shared")
    first, second = kit.server(imageRef=kit.image), kit.server(imageRef=kit.image)
    assert kit.attach(first, volume, version="2.59").status == 400
    kit.attached(first, volume)
    assert kit.attach(second, volume).status == 200
    until(lambda: len(kit.show_volume(volume)["attachments"]) == 2 or None)
    assert {a["server_id"] for a in kit.show_volume(volume)["attachments"]} == {first, second}
    assert kit.guest(first).volumes == kit.guest(second).volumes == (volume,)
    assert kit.detach(first, volume).status == 202
    until(lambda: len(kit.show_volume(volume)["attachments"]) == 1 or None)
    kit.delete(first)
    kit.delete(second)
    kit.becomes(volume, "available")


def _recorded(kit: Kit, server: str) -> int:
    """Return the size of a server's only volume by its record, GiB."""
    services = kit.whole.cloud.services
    row = services.cell("cell1").read(lambda tx: servers.find(tx, server))
    assert row is not None
    return server_disks.of_row(row)[0].size_gib


def test_a_volume_that_grows_under_a_guest(kit: Kit) -> None:
    """The record follows, by the service's own event and by the one that a service of its own would send."""
    server, volume = kit.server(imageRef=kit.image), kit.volume()
    host = kit.show_volume(volume)["os-vol-host-attr:host"].partition("@")[0]
    if kit.show(server)["OS-EXT-SRV-ATTR:host"] != host:
        kit.whole.gone(server)
        zone = {"availability_zone": f"nova:{host}"}
        body = {"name": "there", "flavorRef": "42", "imageRef": kit.image, "networks": "none"}
        got = kit.whole.call("POST", S, {"server": body | zone}, who="admin", version="2.90")
        server = got.json["server"]["id"]
        kit.whole.settled(server)
    kit.attached(server, volume, who="admin")
    got = kit.block("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 3}})
    assert got.status == 202, got
    until(lambda: kit.show_volume(volume)["size"] == 3 or None)
    until(lambda: _recorded(kit, server) == 3 or None)
    event = {"name": "volume-extended", "server_uuid": server, "tag": volume}
    path = "/compute/v2.1/os-server-external-events"
    told = kit.whole.call("POST", path, {"events": [event]}, who="admin", version="2.51")
    assert (told.status, told.json["events"][0]["code"]) == (200, 200)
    assert _recorded(kit, server) == 3
    kit.whole.gone(server)
    kit.becomes(volume, "available")
