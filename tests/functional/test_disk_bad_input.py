"""What cannot work with disks, as one table: refused or ended clearly, nothing lost, nothing left."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.volumes_kit import Kit, S
from tests.whole import running, until

Case = Callable[[Kit], None]


@pytest.fixture(scope="module")
def kit() -> Iterator[Kit]:
    with running(hosts=1) as cloud:
        yield Kit(cloud)


def _limits(kit: Kit, **limits: int) -> None:
    path = f"/os-quota-sets/{kit.whole.project('demo')}"
    assert kit.block("PUT", path, {"quota_set": limits}, who="admin").status == 200


def _root(kit: Kit, **more: Any) -> dict[str, Any]:
    disk = {"boot_index": 0, "uuid": kit.image, "source_type": "image", "volume_size": 1}
    return {**disk, "destination_type": "volume", "delete_on_termination": True, **more}


def no_quota_for_a_volume(kit: Kit) -> None:
    """Block storage says 413, compute 403, before anything is made."""
    for limits in ({"volumes": 0}, {"gigabytes": 0}, {"per_volume_gigabytes": 1}):
        _limits(kit, **{"volumes": -1, "gigabytes": -1, "per_volume_gigabytes": -1, **limits})
        got = kit.block("POST", "/volumes", {"volume": {"size": 2}})
        assert got.status in (400, 413), got
        kit.refused(403, block_device_mapping_v2=[_root(kit, volume_size=2)])
    _limits(kit, volumes=-1, gigabytes=-1, per_volume_gigabytes=-1)


def no_quota_for_the_snapshots_of_an_image(kit: Kit) -> None:
    """createImage of a server on volumes: the server goes on, the image and what was made of it are gone."""
    server = kit.backed()
    _limits(kit, snapshots=0)
    body = {"createImage": {"name": "never"}}
    got = kit.whole.call("POST", f"{S}/{server}/action", body, version="2.45")
    assert got.status in (202, 403), got
    kit.whole.settled(server)
    _limits(kit, snapshots=-1)
    assert kit.show(server)["status"] == "ACTIVE"
    until(lambda: not _named(kit, "never") or None)
    kit.delete(server)


def _named(kit: Kit, name: str) -> list[Any]:
    return list(kit.whole.call("GET", f"/image/v2/images?name={name}").json["images"])


def a_snapshot_of_a_volume_that_goes_away(kit: Kit) -> None:
    """Whichever comes first wins; the other is refused, or ends with it."""
    volume = kit.volume()
    assert kit.block("DELETE", f"/volumes/{volume}").status == 202
    body = {"snapshot": {"volume_id": volume, "force": True}}
    assert kit.block("POST", "/snapshots", body).status in (400, 404)
    kit.becomes(volume, None)
    volume = kit.volume()
    made = kit.block("POST", "/snapshots", {"snapshot": {"volume_id": volume, "force": True}})
    assert kit.block("DELETE", f"/volumes/{volume}").status == 400
    snapshot = made.json["snapshot"]["id"]
    path = f"/snapshots/{snapshot}"
    until(lambda: kit.block("GET", path).json["snapshot"]["status"] == "available" or None)
    assert kit.block("DELETE", path).status == 202
    until(lambda: kit.block("GET", path).status == 404 or None)
    assert kit.block("DELETE", f"/volumes/{volume}").status == 202
    kit.becomes(volume, None)


def an_attach_to_a_server_that_is_deleted(kit: Kit) -> None:
    """Before, meanwhile and after: the volume is free in the end."""
    volume, server = kit.volume(), kit.server(imageRef=kit.image)
    assert kit.attach(server, volume).status == 200
    assert kit.whole.call("DELETE", f"{S}/{server}").status == 204
    assert kit.attach(server, volume).status in (400, 404, 409)
    kit.whole.gone(server)
    assert kit.attach(server, volume).status == 404
    kit.becomes(volume, "available")
    assert kit.block("DELETE", f"/volumes/{volume}").status == 202
    kit.becomes(volume, None)


def a_full_disk_in_the_middle_of_an_image(kit: Kit) -> None:
    """The image is gone, the server goes on, its owner is told why."""
    server = kit.server(imageRef=kit.image)
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("snapshot_no_room", server=server)
    body = {"createImage": {"name": "never"}}
    got = kit.whole.call("POST", f"{S}/{server}/action", body, version="2.45")
    assert got.status == 202, got
    kit.whole.settled(server)
    assert faults.hits["snapshot_no_room"] >= 1
    assert kit.show(server)["status"] == "ACTIVE"
    until(lambda: not _named(kit, "never") or None)
    path = f"{S}/{server}/os-instance-actions"
    newest = kit.whole.call("GET", path).json["instanceActions"][0]
    assert (newest["action"], newest["message"]) == ("createImage", "Error")
    kit.delete(server)


def a_full_disk_in_the_middle_of_a_snapshot(kit: Kit) -> None:
    """Of a volume: the snapshot is in error and can be deleted; the volume rests."""
    volume = kit.volume()
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("snapshot_fail", server=volume)
    body = {"snapshot": {"volume_id": volume}}
    snapshot = kit.block("POST", "/snapshots", body).json["snapshot"]["id"]
    path = f"/snapshots/{snapshot}"
    until(lambda: kit.block("GET", path).json["snapshot"]["status"] == "error" or None)
    assert faults.hits["snapshot_fail"] >= 1
    faults.set("snapshot_fail", server=volume, times=0)
    kit.becomes(volume, "available")
    assert kit.block("DELETE", path).status == 202
    until(lambda: kit.block("GET", path).status == 404 or None)
    assert kit.block("DELETE", f"/volumes/{volume}").status == 202
    kit.becomes(volume, None)


def a_rebuild_of_a_root_volume_that_is_too_small(kit: Kit) -> None:
    """2.93: refused before the guest is touched; so is a volume that somebody holds otherwise."""
    server = kit.backed()
    boots = kit.guest(server).boots
    large = kit.another_image(min_disk=2)
    body = {"rebuild": {"imageRef": large}}
    got = kit.whole.call("POST", f"{S}/{server}/action", body, version="2.93")
    assert got.status == 400 and "smaller" in got.raw.decode(), got
    assert kit.guest(server).boots == boots
    kit.delete(server)


CASES: tuple[Case, ...] = (
    no_quota_for_a_volume,
    no_quota_for_the_snapshots_of_an_image,
    a_snapshot_of_a_volume_that_goes_away,
    an_attach_to_a_server_that_is_deleted,
    a_full_disk_in_the_middle_of_an_image,
    a_full_disk_in_the_middle_of_a_snapshot,
    a_rebuild_of_a_root_volume_that_is_too_small,
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_bad_input(case: Case, kit: Kit) -> None:
    """Nothing of it is left: no server, no volume, no snapshot, and the audit has nothing to say."""
    case(kit)
    assert kit.whole.call("GET", S).json["servers"] == []
    for noun in ("volumes", "snapshots"):
        until(lambda noun=noun: not kit.block("GET", f"/{noun}").json[noun] or None, noun)  # type: ignore[misc]
    assert kit.whole.call("GET", "/kilonova/v1/audit", who="admin").json["findings"] == []
