"""POST /volumes/{id}/action."""

import contextlib
import uuid

from kilonova.objects.volume import Connector, VolumeEvent
from kilonova.volume.interface import NotReady
from tests.functional.volume.conftest import Client
from tests.whole import until


def act(api: Client, volume: str, body: dict[str, object], **how: str) -> int:
    """Do something to a volume; return the status."""
    return api.call("POST", f"/volumes/{volume}/action", body, **how).status


def test_extend(api: Client) -> None:
    """Only larger; quota counts at once; an old microversion cannot extend what is in use."""
    volume = api.make()
    assert act(api, volume, {"os-extend": {"new_size": 1}}) == 400
    assert act(api, volume, {"os-extend": {"new_size": 0}}) == 400
    assert act(api, volume, {"os-extend": {"new_size": "3"}}) == 202
    assert api.becomes(volume, "available")["size"] == 3
    api.delete(volume)


def test_extend_in_use(api: Client) -> None:
    """On the volume's own host, and over NBD from another, it works, and compute hears of it; for two it is refused."""
    service, volume, server = api.whole.cloud.volumes, api.make(), str(uuid.uuid4())
    host = api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    held = service.ensure_attachment((str(uuid.uuid4()), "v"), volume_id=volume, server_id=server)
    service.connect(held.id, Connector(host=host))
    service.complete(held.id)
    heard: list[VolumeEvent] = []
    service.on_event(heard.append)
    old = f"/{api.whole.project('demo')}/volumes/{volume}/action"
    assert api.call("POST", old, {"os-extend": {"new_size": 2}}, version="3.41").status == 400
    assert act(api, volume, {"os-extend": {"new_size": 2}}) == 202
    assert api.becomes(volume, "in-use")["size"] == 2
    until(lambda: [e.server_id for e in heard] == [server] or None)
    other = "cell1-host1" if host != "cell1-host1" else "cell1-host2"
    with contextlib.suppress(NotReady):
        service.connect(held.id, Connector(host=other))
    assert act(api, volume, {"os-extend": {"new_size": 3}}) == 202
    assert api.becomes(volume, "in-use")["size"] == 3
    until(lambda: [e.server_id for e in heard] == [server] * 2 or None)
    second = service.ensure_attachment((str(uuid.uuid4()), "w"), volume_id=volume, server_id=server)
    assert act(api, volume, {"os-extend": {"new_size": 4}}) == 400
    for one in (second, held):
        service.remove_attachment(attachment_id=one.id)
    api.delete(volume)


def test_flags_and_image_metadata(api: Client) -> None:
    """Bootable, readonly, what is kept of an image."""
    volume = api.make()
    assert act(api, volume, {"os-set_bootable": {"bootable": "true"}}) == 200
    assert act(api, volume, {"os-update_readonly_flag": {"readonly": True}}) == 202
    assert (
        act(api, volume, {"os-set_image_metadata": {"metadata": {"hw_disk_bus": "virtio"}}}) == 200
    )
    shown = api.show(volume)
    assert (shown["bootable"], shown["metadata"], shown["volume_image_metadata"]) == (
        "true",
        {"readonly": "True"},
        {"hw_disk_bus": "virtio"},
    )
    got = api.call("POST", f"/volumes/{volume}/action", {"os-show_image_metadata": None})
    assert got.json == {"metadata": {"hw_disk_bus": "virtio"}}
    assert act(api, volume, {"os-unset_image_metadata": {"key": "hw_disk_bus"}}) == 200
    assert act(api, volume, {"os-unset_image_metadata": {"key": "hw_disk_bus"}}) == 404
    assert act(api, volume, {"os-set_bootable": {"bootable": "perhaps"}}) == 400
    asked = {"attachment": {"volume_uuid": volume, "mode": "rw"}}
    assert api.call("POST", "/attachments", asked).status == 400
    api.delete(volume)


def test_metadata(api: Client) -> None:
    """Pairs of a volume."""
    volume = api.make(metadata={"a": "1"})
    path = f"/volumes/{volume}/metadata"
    assert api.call("GET", path).json == {"metadata": {"a": "1"}}
    assert api.call("POST", path, {"metadata": {"b": "2"}}).json == {
        "metadata": {"a": "1", "b": "2"}
    }
    assert api.call("PUT", path, {"metadata": {"c": "3"}}).json == {"metadata": {"c": "3"}}
    assert api.call("DELETE", f"{path}/c").status == 200
    assert api.call("POST", path, {"metadata": {"x" * 256: "1"}}).status == 400
    api.delete(volume)


def test_the_older_way_to_attach(api: Client) -> None:
    """reserve, initialize_connection, attach, begin_detaching, detach: only a service lets go of a server's."""
    volume, server = api.make(), str(uuid.uuid4())
    host = api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    assert act(api, volume, {"os-reserve": None}) == 202
    assert act(api, volume, {"os-reserve": None}) == 400
    assert act(api, volume, {"os-unreserve": None}) == 202
    assert api.show(volume)["status"] == "available"
    assert act(api, volume, {"os-reserve": None}) == 202
    got = api.call(
        "POST",
        f"/volumes/{volume}/action",
        {"os-initialize_connection": {"connector": {"host": host}}},
    )
    assert got.json["connection_info"]["driver_volume_type"] == "kilonova-file", got
    attach = {"os-attach": {"instance_uuid": server, "mountpoint": "/dev/vdb", "mode": "rw"}}
    assert act(api, volume, attach) == 202
    [one] = api.becomes(volume, "in-use")["attachments"]
    assert (one["server_id"], one["device"]) == (server, "/dev/vdb")
    assert act(api, volume, {"os-begin_detaching": None}) == 202
    assert act(api, volume, {"os-roll_detaching": None}) == 202
    for body in ({"os-detach": {}}, {"os-terminate_connection": {"connector": {"host": host}}}):
        assert act(api, volume, body) == 409
    assert act(api, volume, {"os-force_detach": {}}, who="admin") == 409
    assert act(api, volume, {"os-reset_status": {"attach_status": "detached"}}, who="admin") == 400
    assert act(api, volume, {"os-force_delete": {}}, who="admin") == 400
    [held] = api.whole.cloud.volumes.attachments_of([server])[server]
    assert api.call("DELETE", f"/attachments/{held.id}", who="service").status == 200
    api.delete(volume)


def test_upload(api: Client) -> None:
    """An image of a volume, active in the end; the volume rests again."""
    volume = api.make(1, imageRef=api.whole.image())
    got = api.call(
        "POST",
        f"/volumes/{volume}/action",
        {"os-volume_upload_image": {"image_name": "copy", "disk_format": "qcow2", "force": False}},
    )
    assert got.status == 202, got
    shown = got.json["os-volume_upload_image"]
    assert shown["status"] == "uploading"
    path = f"/image/v2/images/{shown['image_id']}"
    until(lambda: api.whole.call("GET", path).json["status"] == "active" or None)
    api.becomes(volume, "available")
    assert api.whole.call("GET", path).json["min_disk"] == 1
    bad = {"os-volume_upload_image": {"image_name": "copy", "disk_format": "vmdk"}}
    assert act(api, volume, bad) == 400
    public = {"os-volume_upload_image": {"image_name": "copy", "visibility": "public"}}
    assert act(api, volume, public) == 403
    assert api.whole.call("DELETE", path).status == 204
    api.delete(volume)


def test_reset_and_force_delete(api: Client) -> None:
    """An administrator writes a status; force deletes whatever it is."""
    volume = api.make()
    assert act(api, volume, {"os-reset_status": {"status": "error_extending"}}) == 403
    assert act(api, volume, {"os-reset_status": {"status": "maintenance"}}, who="admin") == 202
    assert api.call("DELETE", f"/volumes/{volume}").status == 400
    assert act(api, volume, {"os-reset_status": {}}, who="admin") == 400
    assert act(api, volume, {"os-force_delete": {}}, who="admin") == 202
    api.gone(volume)
    volume = api.make()
    act(api, volume, {"os-reset_status": {"status": "maintenance"}}, who="admin")
    assert api.call("DELETE", f"/volumes/{volume}?force=true").status == 403
    assert api.call("DELETE", f"/volumes/{volume}?force=true", who="admin").status == 202
    api.gone(volume)


def test_unknown_actions(api: Client) -> None:
    """What is not built is not there."""
    volume = api.make()
    assert act(api, volume, {"os-migrate_volume": {"host": "x"}}, who="admin") in (400, 404)
    assert act(api, volume, {}) == 400
    api.delete(volume)


def test_reimage(api: Client) -> None:
    """3.68: the volume is written from an image; a reserved one only if that is said, one in use never."""
    volume, server, image = api.make(), str(uuid.uuid4()), api.whole.image()
    path, body = f"/volumes/{volume}/action", {"os-reimage": {"image_id": image}}
    assert api.call("POST", path, body, version="3.67").status in (400, 404)
    assert act(api, volume, {"os-reimage": {"image_id": str(uuid.uuid4())}}) == 400
    assert act(api, volume, {"os-reimage": {"image_id": "no"}}) == 400
    assert act(api, volume, body, who="reader") == 403
    assert act(api, volume, body, who="other") == 404
    assert act(api, volume, body) == 202
    shown = api.becomes(volume, "available")
    assert (shown["bootable"], shown["volume_image_metadata"]["image_id"]) == ("true", image)
    service = api.whole.cloud.volumes
    held = service.ensure_attachment((str(uuid.uuid4()), "v"), volume_id=volume, server_id=server)
    assert act(api, volume, body) == 400
    heard: list[VolumeEvent] = []
    service.on_event(heard.append)
    said = {"os-reimage": {"image_id": image, "reimage_reserved": True}}
    assert act(api, volume, said) == 202
    api.becomes(volume, "reserved")
    until(
        lambda: [(e.server_id, str(e.kind)) for e in heard] == [(server, "volume-reimaged")] or None
    )
    service.connect(held.id, Connector(host=shown["os-vol-host-attr:host"].partition("@")[0]))
    assert act(api, volume, said) == 400
    service.remove_attachment(attachment_id=held.id)
    api.delete(volume)
