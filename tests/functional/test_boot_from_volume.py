"""block_device_mapping in both forms over HTTP: what it makes, what it shows, and every refusal in Nova's words."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.volumes_kit import Kit
from tests.whole import Whole, running

MISSING = "99999999-9999-4999-8999-999999999999"
INVALID = "Block Device Mapping is Invalid: "


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


def disk(source: str, to: str = "volume", **more: Any) -> dict[str, Any]:
    return {"source_type": source, "destination_type": to, **more}


def held(whole: Whole, server: str) -> dict[str, int]:
    """Return what a server holds of its host."""
    path = f"/placement/allocations/{server}"
    got = whole.call("GET", path, who="admin").json["allocations"]
    (one,) = got.values()
    return dict(one["resources"])


def test_image_to_volume(kit: Kit) -> None:
    server = kit.backed()
    shown = kit.show(server)
    assert (shown["status"], shown["image"]) == ("ACTIVE", "")
    assert shown["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda"
    (root,) = kit.attachments(server)
    assert (root["device"], root["delete_on_termination"]) == ("/dev/vda", True)
    volume = kit.show_volume(root["volumeId"])
    assert (volume["status"], volume["size"], volume["bootable"]) == ("in-use", 1, "true")
    assert volume["volume_image_metadata"]["image_id"] == kit.image
    assert "DISK_GB" not in held(kit.whole, server)
    guest = kit.guest(server)
    assert (guest.disks, guest.volumes) == ((), (root["volumeId"],))
    kit.delete(server)
    kit.becomes(root["volumeId"], None)


def test_volume_snapshot_and_blank(kit: Kit) -> None:
    """A root volume of the user's, a copy of a snapshot, an empty volume, swap and ephemeral as the flavor allows."""
    flavor = {"name": "all", "vcpus": 1, "ram": 512, "disk": 0, "swap": 64}
    flavor["OS-FLV-EXT-DATA:ephemeral"] = 2
    made = kit.whole.call("POST", "/compute/v2.1/flavors", {"flavor": flavor}, who="admin")
    root = kit.volume(imageRef=kit.image)
    snapshot = kit.snapshot(root)
    server = kit.server(
        flavorRef=made.json["flavor"]["id"],
        block_device_mapping_v2=[
            disk("volume", uuid=root, boot_index=0, tag="system"),
            disk("snapshot", uuid=snapshot, boot_index=1, delete_on_termination=True),
            disk("blank", volume_size=3, device_name="/dev/vdf", delete_on_termination=True),
            disk("blank", "local", volume_size=1, guest_format="ext4"),
            disk("blank", "local", volume_size=32, guest_format="swap"),
        ],
    )
    shown = kit.show(server)
    assert (shown["status"], shown["image"]) == ("ACTIVE", ""), shown
    found = kit.attachments(server)
    assert [(a["device"], a["tag"]) for a in found] == [
        ("/dev/vda", "system"),
        ("/dev/vdb", None),
        ("/dev/vdf", None),
    ]
    assert found[0]["volumeId"] == root
    sizes = [kit.show_volume(a["volumeId"])["size"] for a in found]
    assert sizes == [1, 1, 3]
    assert kit.show_volume(found[1]["volumeId"])["snapshot_id"] == snapshot
    assert kit.guest(server).disks == ("ephemeral0", "swap")
    assert held(kit.whole, server)["DISK_GB"] == 2 + 1
    kit.delete(server)
    kit.becomes(root, "available")
    for a in found[1:]:
        kit.becomes(a["volumeId"], None)


def test_the_first_form(kit: Kit) -> None:
    root, data = kit.volume(imageRef=kit.image), kit.volume()
    server = kit.server(
        block_device_mapping=[
            {"device_name": "vda", "volume_id": root},
            {"device_name": "vdb", "volume_id": data, "delete_on_termination": True},
        ]
    )
    assert kit.show(server)["image"] == ""
    devices = {a["volumeId"]: a["device"] for a in kit.attachments(server)}
    assert devices == {root: "/dev/vda", data: "/dev/vdb"}
    kit.delete(server)
    kit.becomes(root, "available")
    kit.becomes(data, None)


def test_an_image_beside_volumes(kit: Kit) -> None:
    """What ``openstack server create --image … --block-device-mapping vdb=…`` sends."""
    data = kit.volume()
    image = disk("image", "local", uuid=kit.image, boot_index=0, delete_on_termination=True)
    server = kit.server(
        imageRef=kit.image,
        block_device_mapping_v2=[image, disk("volume", uuid=data, device_name="vdb")],
    )
    assert kit.show(server)["image"]["id"] == kit.image
    assert [a["device"] for a in kit.attachments(server)] == ["/dev/vdb"]
    assert kit.guest(server).disks == ("root",)
    kit.delete(server)
    kit.becomes(data, "available")


def test_an_image_that_brings_its_mapping(kit: Kit) -> None:
    """The image of a volume-backed server: no bytes, a snapshot to boot from."""
    snapshot = kit.snapshot(kit.volume(imageRef=kit.image))
    mapping = [
        {
            **disk("snapshot", snapshot_id=snapshot, boot_index=0, device_name="/dev/vda"),
            **{"volume_size": 2, "delete_on_termination": True, "no_device": None, "tag": None},
        }
    ]
    image = {
        "name": "of a server",
        "disk_format": "qcow2",
        "container_format": "bare",
        "bdm_v2": "True",
        "root_device_name": "/dev/vda",
        "block_device_mapping": json.dumps(mapping),
    }
    made = kit.whole.call("POST", "/image/v2/images", image)
    assert made.status == 201, made
    image_id = made.json["id"]
    kit.whole.call(
        "PUT",
        f"/image/v2/images/{image_id}/file",
        b"",
        headers={"Content-Type": "application/octet-stream"},
    )
    client = disk("image", "local", uuid=image_id, boot_index=0)
    for more in ({}, {"block_device_mapping_v2": [client]}):
        server = kit.server(imageRef=image_id, **more)
        shown = kit.show(server)
        assert (shown["status"], shown["image"]["id"]) == ("ACTIVE", image_id), shown
        (root,) = kit.attachments(server)
        assert kit.show_volume(root["volumeId"])["size"] == 2
        assert "DISK_GB" not in held(kit.whole, server)
        kit.delete(server)
        kit.becomes(root["volumeId"], None)


def test_several_servers_from_one_request(kit: Kit) -> None:
    got = kit.create(
        min_count=2,
        max_count=2,
        return_reservation_id=True,
        block_device_mapping_v2=[
            disk("image", uuid=kit.image, boot_index=0, volume_size=1, delete_on_termination=True)
        ],
    )
    assert got.status == 202, got
    found = kit.whole.call("GET", "/compute/v2.1/servers?name=one-").json["servers"]
    assert len(found) == 2
    roots = set()
    for server in found:
        kit.whole.settled(server["id"])
        (root,) = kit.attachments(server["id"])
        roots.add((root["volumeId"], root["bdm_uuid"]))
        kit.delete(server["id"])
    assert len({v for v, _ in roots}) == len({b for _, b in roots}) == 2


def test_a_flavor_without_a_disk(kit: Kit) -> None:
    flavor = {"name": "no disk", "vcpus": 1, "ram": 512, "disk": 0}
    made = kit.whole.call("POST", "/compute/v2.1/flavors", {"flavor": flavor}, who="admin")
    small = made.json["flavor"]["id"]
    why = kit.refused(403, imageRef=kit.image, flavorRef=small)
    assert why == "Only volume-backed servers are allowed for flavors with zero disk."
    root = disk("image", uuid=kit.image, boot_index=0, volume_size=1, delete_on_termination=True)
    server = kit.server(flavorRef=small, block_device_mapping_v2=[root])
    assert kit.show(server)["status"] == "ACTIVE"
    kit.delete(server)


def test_a_volume_that_cannot_be_made(kit: Kit) -> None:
    """The create unwinds: ERROR, a fault that says why, no volume left, the user's own free again."""
    data = kit.volume()
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("volume_make_fail")
    before = len(kit.block("GET", "/volumes").json["volumes"])
    server = kit.server(
        block_device_mapping_v2=[
            disk("image", uuid=kit.image, boot_index=0, volume_size=1),
            disk("volume", uuid=data),
        ]
    )
    faults.clear()
    shown = kit.show(server)
    assert (
        shown["status"] == "ERROR" and "did not finish being created" in shown["fault"]["message"]
    )
    kit.becomes(data, "available")
    kit.delete(server)
    kit.becomes(data, "available")
    assert len(kit.block("GET", "/volumes").json["volumes"]) == before


def _refusals(kit: Kit) -> list[tuple[str, int, str, dict[str, Any]]]:
    image = kit.image
    root = disk("image", "local", uuid=image, boot_index=0)
    from_image = {"imageRef": image}

    def v2(*disks: dict[str, Any]) -> dict[str, Any]:
        return {"block_device_mapping_v2": list(disks)}

    return [
        ("nothing to boot from", 400, "Invalid imageRef provided.", {}),
        ("no boot order", 400, "Boot sequence", v2(disk("blank", volume_size=1))),
        (
            "a gap in the boot order",
            400,
            "Boot sequence",
            from_image | v2(root, disk("blank", volume_size=1, boot_index=2)),
        ),
        (
            "two that boot first",
            400,
            "Boot sequence",
            from_image | v2(root, disk("blank", volume_size=1, boot_index=0)),
        ),
        ("no source", 400, "Invalid source_type field.", v2({"boot_index": 0})),
        ("no id", 400, "Missing device UUID.", v2(disk("volume", boot_index=0))),
        ("an id for nothing", 400, "Invalid device UUID.", v2(disk("blank", uuid=image))),
        (
            "a volume that is not there",
            400,
            f"{INVALID}failed to get volume {MISSING}.",
            v2(disk("volume", uuid=MISSING, boot_index=0)),
        ),
        (
            "a snapshot that is not there",
            400,
            f"{INVALID}failed to get snapshot {MISSING}.",
            v2(disk("snapshot", uuid=MISSING, boot_index=0)),
        ),
        (
            "an image that is not there",
            400,
            f"{INVALID}failed to get image {MISSING}.",
            v2(disk("image", uuid=MISSING, boot_index=0, volume_size=1)),
        ),
        (
            "an image without a size",
            400,
            "need to have a non-zero size specified",
            v2(disk("image", uuid=image, boot_index=0)),
        ),
        (
            "an empty volume without a size",
            400,
            "need to have non-zero size",
            from_image | v2(root, disk("blank")),
        ),
        (
            "an image to a local disk",
            400,
            "Mapping image to local is not supported.",
            v2(disk("image", "local", uuid=image, boot_index=0)),
        ),
        (
            "a volume that does not boot",
            400,
            "is not bootable",
            v2(disk("volume", uuid=kit.volume(), boot_index=0)),
        ),
        (
            "both forms",
            400,
            "different block_device_mapping syntaxes",
            from_image | v2(root) | {"block_device_mapping": [{"volume_id": MISSING}]},
        ),
        (
            "a bus that is none",
            400,
            "disk bus",
            from_image | v2({**root, "disk_bus": "teleport"}),
        ),
        (
            "a type for a local disk",
            400,
            "volume_type with destination_type=local",
            from_image | v2(root, disk("blank", "local", volume_size=1, volume_type="x")),
        ),
        (
            "a type that is not there",
            400,
            "nowhere",
            v2(disk("image", uuid=image, boot_index=0, volume_size=1, volume_type="nowhere")),
        ),
        (
            "more ephemeral than the flavor has",
            400,
            "Ephemeral disks requested are larger",
            from_image | v2(root, disk("blank", "local", volume_size=9)),
        ),
        (
            "more swap than the flavor has",
            400,
            "Swap drive requested is larger",
            from_image | v2(root, disk("blank", "local", volume_size=9, guest_format="swap")),
        ),
        (
            "one volume for two servers",
            400,
            "Cannot attach one or more volumes to multiple instances",
            v2(disk("volume", uuid=MISSING, boot_index=0)) | {"max_count": 2},
        ),
        (
            "the root device's name",
            400,
            "same device name as the root device vda",
            from_image | v2(root, disk("volume", uuid=MISSING, device_name="/dev/vda")),
        ),
        (
            "a first form of nothing",
            400,
            "Unrecognized legacy format.",
            from_image | {"block_device_mapping": [{"device_name": "vdb"}]},
        ),
        (
            "a device name with a space",
            400,
            "device_name",
            from_image | v2(root, disk("blank", volume_size=1, device_name="/dev/v b")),
        ),
    ]


def test_refusals(kit: Kit) -> None:
    """Everything is refused before anything is made."""
    before = kit.block("GET", "/volumes").json["volumes"]
    cases = _refusals(kit)
    wrong = []
    for what, status, words, body in cases:
        got = kit.create(**body)
        message = str(next(iter((got.json or {"": {}}).values())))
        if got.status != status or words not in message:
            wrong.append((what, got.status, message[:200]))
    assert wrong == []
    assert kit.whole.call("GET", "/compute/v2.1/servers").json["servers"] == []
    assert len(kit.block("GET", "/volumes").json["volumes"]) == len(before) + 1


def test_quota_of_volumes(kit: Kit) -> None:
    project = kit.whole.project("demo")
    path = f"/os-quota-sets/{project}"
    used = len(kit.block("GET", "/volumes").json["volumes"])

    def limit(n: int) -> None:
        body = {"quota_set": {"volumes": n}}
        assert kit.block("PUT", path, body, who="admin").status == 200

    limit(used + 1)
    root = disk("image", uuid=kit.image, boot_index=0, volume_size=1)
    why = kit.refused(403, max_count=2, min_count=2, block_device_mapping_v2=[root])
    assert "Maximum number of volumes allowed" in why
    limit(-1)
