"""/snapshots, volumes made of them, and reverts."""

import uuid

import pytest

from tests.functional.volume.conftest import Client
from tests.whole import until


def take(api: Client, volume: str, **more: object) -> str:
    """Make a snapshot and wait until it is available."""
    got = api.call("POST", "/snapshots", {"snapshot": {"volume_id": volume, **more}})
    assert got.status == 202, got
    snapshot = str(got.json["snapshot"]["id"])
    path = f"/snapshots/{snapshot}"
    until(lambda: api.call("GET", path).json["snapshot"]["status"] == "available" or None)
    return snapshot


def drop(api: Client, snapshot: str) -> None:
    """Delete a snapshot and wait until it is gone."""
    path = f"/snapshots/{snapshot}"
    assert api.call("DELETE", path).status == 202
    until(lambda: api.call("GET", path).status == 404 or None)


def test_a_snapshot_and_what_is_made_of_it(api: Client) -> None:
    """The volume cannot go while it has snapshots; what is made of one is where it is, and at least as large."""
    volume = api.make(2)
    snapshot = take(api, volume, name="before", metadata={"k": "v"})
    got = api.call("GET", f"/snapshots/{snapshot}").json["snapshot"]
    assert (got["name"], got["size"], got["metadata"], got["volume_id"]) == (
        "before",
        2,
        {"k": "v"},
        volume,
    )
    got = api.call("DELETE", f"/volumes/{volume}")
    assert got.status == 400 and "1 dependent snapshots" in got.json["badRequest"]["message"]
    small = {"volume": {"size": 1, "snapshot_id": snapshot}}
    assert api.call("POST", "/volumes", small).status == 400
    copy = api.make(3, snapshot_id=snapshot)
    where = "os-vol-host-attr:host"
    assert api.show(copy)[where] == api.show(volume)[where]
    same = api.call("POST", "/volumes", {"volume": {"snapshot_id": snapshot}})
    assert same.status == 202 and same.json["volume"]["size"] == 2
    api.becomes(same.json["volume"]["id"], "available")
    got = api.call("PUT", f"/snapshots/{snapshot}", {"snapshot": {"name": "renamed"}})
    assert got.json["snapshot"]["name"] == "renamed"
    drop(api, snapshot)
    for volume_id in (copy, same.json["volume"]["id"], volume):
        api.delete(volume_id)


def test_a_copy_of_a_volume(api: Client) -> None:
    """Of an available one; its bootable flag and image come along."""
    volume = api.make()
    act = f"/volumes/{volume}/action"
    assert api.call("POST", act, {"os-set_bootable": {"bootable": True}}).status == 200
    copy = api.make(2, source_volid=volume)
    assert (api.show(copy)["bootable"], api.show(copy)["source_volid"]) == ("true", volume)
    api.delete(copy)
    api.delete(volume)


def test_of_an_image(api: Client) -> None:
    """Bootable, with the image's metadata; too small is refused."""
    image = api.whole.image()
    volume = api.make(1, imageRef=image)
    shown = api.show(volume)
    assert shown["bootable"] == "true" and shown["volume_image_metadata"]["image_id"] == image
    api.delete(volume)


@pytest.mark.parametrize(
    ("version", "force", "status"),
    [("3.0", None, 400), ("3.65", True, 202), ("3.66", None, 202), ("3.66", False, 400)],
)
def test_of_a_volume_in_use(api: Client, version: str, force: bool | None, status: int) -> None:
    """Before 3.66 it has to be forced."""
    volume = api.make()
    service = api.whole.cloud.volumes
    held = service.ensure_attachment(
        (str(uuid.uuid4()), "x"), volume_id=volume, server_id=str(uuid.uuid4())
    )
    body: dict[str, object] = {"volume_id": volume}
    if force is not None:
        body["force"] = force
    project = api.whole.project("demo")
    got = api.call("POST", f"/{project}/snapshots", {"snapshot": body}, version=version)
    assert got.status == status, got
    if status == 202:
        path = f"/snapshots/{got.json['snapshot']['id']}"
        until(lambda: api.call("GET", path).json["snapshot"]["status"] == "available" or None)
        drop(api, got.json["snapshot"]["id"])
    service.remove_attachment(attachment_id=held.id)
    api.delete(volume)


def test_revert(api: Client) -> None:
    """To the latest snapshot alone, of the same size."""
    volume = api.make()
    first, second = take(api, volume), take(api, volume)
    act = f"/volumes/{volume}/action"
    assert api.call("POST", act, {"revert": {"snapshot_id": first}}).status == 400
    assert api.call("POST", act, {"revert": {"snapshot_id": str(uuid.uuid4())}}).status == 404
    assert api.call("POST", act, {"revert": {"snapshot_id": second}}).status == 202
    api.becomes(volume, "available")
    for snapshot in (first, second):
        drop(api, snapshot)
    api.delete(volume)


def test_metadata_and_others(api: Client) -> None:
    """Pairs one by one; another project sees nothing; an administrator resets."""
    volume = api.make()
    snapshot = take(api, volume)
    path = f"/snapshots/{snapshot}"
    assert api.call("PUT", f"{path}/metadata", {"metadata": {"a": "1"}}).json == {
        "metadata": {"a": "1"}
    }
    assert api.call("POST", f"{path}/metadata", {"metadata": {"b": "2"}}).json["metadata"] == {
        "a": "1",
        "b": "2",
    }
    assert api.call("PUT", f"{path}/metadata/a", {"meta": {"a": "3"}}).status == 200
    assert api.call("PUT", f"{path}/metadata/a", {"meta": {"z": "3"}}).status == 400
    assert api.call("GET", f"{path}/metadata/a").json == {"meta": {"a": "3"}}
    assert api.call("DELETE", f"{path}/metadata/a").status == 200
    assert api.call("GET", f"{path}/metadata/a").status == 404
    assert api.call("GET", path, who="other").status == 404
    assert api.call("DELETE", path, who="other").status == 404
    reset = {"os-reset_status": {"status": "error"}}
    assert api.call("POST", f"{path}/action", reset).status == 403
    assert api.call("POST", f"{path}/action", reset, who="admin").status == 202
    assert api.call("GET", path).json["snapshot"]["status"] == "error"
    drop(api, snapshot)
    api.delete(volume)


def test_what_compute_asks(api: Client) -> None:
    """ensure and remove by key; a volume with snapshots is left alone."""
    service, volume = api.whole.cloud.volumes, api.make()
    key = (str(uuid.uuid4()), "snapshot0")
    made = service.ensure_snapshot(key, volume_id=volume, name="of a server", metadata={"a": "b"})
    assert service.ensure_snapshot(key, volume_id=volume, name="again").id == made.id
    until(lambda: service.find_snapshot(made.id).status == "available" or None)
    assert service.remove_volume(volume_id=volume) == 0
    assert ("snapshot", made.id) in {(c.kind, c.id) for c in service.claims(0.0)}
    assert service.sweep([key]) == 1
    until(lambda: service.find_snapshot(made.id) is None or None)
    assert service.remove_volume(volume_id=volume) == 1
    api.gone(volume)


def test_cascade(api: Client) -> None:
    """A volume goes with its snapshots, in order."""
    volume = api.make()
    snapshots = [take(api, volume) for _ in range(2)]
    assert api.call("DELETE", f"/volumes/{volume}?cascade=true&force=true").status == 400
    assert api.call("DELETE", f"/volumes/{volume}?cascade=true").status == 202
    api.gone(volume)
    assert {api.call("GET", f"/snapshots/{s}").status for s in snapshots} == {404}


def test_a_status_that_somebody_wrote_stops_no_delete(api: Client) -> None:
    """ "deleting" without an operation behind it: the delete goes all the same."""
    volume = api.make()
    snapshot = take(api, volume)
    path = f"/snapshots/{snapshot}"
    reset = {"os-reset_status": {"status": "deleting"}}
    assert api.call("POST", f"{path}/action", reset, who="admin").status == 202
    assert api.call("POST", f"{path}/action", {"os-force_delete": {}}, who="admin").status == 202
    until(lambda: api.call("GET", path).status == 404 or None)
    api.delete(volume)
