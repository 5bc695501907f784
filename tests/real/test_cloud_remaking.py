"""Images of running guests, rescue and rebuild on real guests: what was written is found again, addresses stay.

The tests build on each other in their order (a guest by software emulation is dear); run the file as a whole.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.real.cloud import RealCloud, Server, running_cloud
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@dataclass
class World:
    """What the tests share."""

    cloud: RealCloud
    origin: Server
    image: str = ""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_cloud() as (cloud, _):
        yield World(cloud, cloud.boot("origin"))


def image_of(world: World, image_id: str) -> Any:
    """Wait until an image has its bytes; return it."""
    client = world.cloud.client()

    def look() -> Any:
        found = client.get(f"/image/v2/images/{image_id}")
        return found if found["status"] == "active" else None

    return until(look, "the image is active")


def test_an_image_of_a_running_guest_boots(world: World) -> None:
    """What was written before the moment is on the disk of the copy (its count of boots); the guest went on."""
    origin, cloud = world.origin, world.cloud
    origin.status("ACTIVE")
    origin.ready()
    with timed("createImage of a running guest → active"):
        client = cloud.client()
        before = {i["id"] for i in client.get("/image/v2/images")["images"]}
        origin.act("createImage", {"name": "gold"})
        made = [i for i in client.get("/image/v2/images")["images"] if i["id"] not in before]
        shown = image_of(world, made[0]["id"])
    world.image = shown["id"]
    assert (shown["disk_format"], shown["virtual_size"]) == ("qcow2", 1 << 30)
    assert origin.status("ACTIVE")["status"] == "ACTIVE"
    assert origin.boots() == 1
    copy = cloud.boot("copy", image="gold")
    copy.status("ACTIVE")
    copy.ready(2)
    copy.delete()
    copy.gone()
    assert list((cloud.directory / "agent" / "copies").iterdir()) == []


def test_rescue_sees_both_disks(world: World) -> None:
    """It boots from the rescue disk; its own disk is there, untouched; afterwards it boots from that again."""
    origin = world.origin
    own = re.findall(r"GUEST DISK name=(\S+) .*serial=(\S+)", origin.console())
    with timed("rescue → RESCUE"):
        origin.act("rescue", {"rescue_image_ref": world.cloud.one(
            "/image/v2/images", "images", name="tiny-linux")["id"]})  # fmt: skip
        origin.status("RESCUE")
    origin.says("GUEST READY(?s:.*)GUEST READY .*boots=1 ")
    rescued = origin.console().rpartition("GUEST START")[2]
    seen = dict(re.findall(r"GUEST DISK name=(\S+) .*serial=(\S+)", rescued))
    assert seen == {"vda": "rescue", "vdb": own[0][1]}
    with timed("unrescue → ACTIVE"):
        origin.act("unrescue")
        origin.status("ACTIVE")
    origin.ready(2)
    assert not (world.cloud.instances / origin.id / "rescue.qcow2").exists()


def test_rebuild_keeps_the_address_and_takes_the_image(world: World) -> None:
    origin = world.origin
    fixed = origin.fixed()
    with timed("rebuild → ACTIVE"):
        origin.act("rebuild", {"imageRef": world.image, "name": "anew"})
        shown = origin.status("ACTIVE")
    assert (shown["name"], shown["image"]["id"]) == ("anew", world.image)
    origin.says("(?s:(GUEST READY.*){3})GUEST READY .*boots=2 ")
    assert origin.fixed() == fixed
    files = sorted(p.name for p in (world.cloud.instances / origin.id).glob("*.qcow2*"))
    assert len(files) == 2 and files[-1] == "root.qcow2", files
    origin.delete()
    origin.gone()
    world.cloud.check_audit()


def test_a_guest_with_an_agent(world: World) -> None:
    """Its file systems are held while an image is made of it, and its agent sets a password."""
    cloud = world.cloud
    client = cloud.client()
    asked = {
        "name": "with-agent",
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "public",
        "hw_qemu_guest_agent": "yes",
        "os_require_quiesce": "yes",
    }
    image = cloud.client("admin").call("POST", "/image/v2/images", asked)["id"]
    cloud.upload(image, cloud.image)
    guest = cloud.boot("agent", image="with-agent")
    guest.status("ACTIVE")
    guest.ready()
    before = {i["id"] for i in client.get("/image/v2/images")["images"]}
    guest.act("createImage", {"name": "held"})
    (made,) = [i for i in client.get("/image/v2/images")["images"] if i["id"] not in before]
    image_of(world, made["id"])
    guest.status("ACTIVE")
    guest.act("changePassword", {"adminPass": "n3w-pass-1"})
    guest.status("ACTIVE")
    actions = client.get(f"{guest.path}/os-instance-actions")["instanceActions"]
    assert [(a["action"], a["message"]) for a in actions[:2]] == [
        ("changePassword", None),
        ("createImage", None),
    ]
    guest.delete()
    guest.gone()
