"""kill -9 of the cloud at journaled steps of what is done to the disks of a real guest: the next process ends it (R2).

Each kill proves that its step was reached. What the guest wrote is there afterwards, in its root disk and in a volume
that it keeps all the way, and nothing is left on the host. The tests build on each other; run the file as a whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import COMPUTE
from tests.real.killed import IMAGES, World, by_password, running_world
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("key")) as made:
        yield made


def test_attach(world: World) -> None:
    """The first dies before the host is asked, the second when it has answered; the guest goes on all the while."""
    pid = world.guest.qemu()
    with timed("a killed attach → the guest has the volume"):
        world.dies("connect:do:after", lambda: world.attach(world.kept))
        world.becomes(world.kept, "in-use")
        until(lambda: world.disk(world.kept), "the guest sees the volume")
    world.write(world.kept, "kept-data")
    world.dies("guest:do:after", lambda: world.attach(world.spare))
    world.becomes(world.spare, "in-use")
    world.write(world.spare, "spare-data")
    world.guest.tell("echo first > /root/marker; sync")
    assert world.guest.qemu() == pid
    world.cloud.check_audit()


def test_detach(world: World) -> None:
    """The guest let go, nobody wrote it down: it is out of the record too afterwards, with what was written in it."""
    guest, client = world.guest, world.cloud.client()
    path = f"{guest.path}/os-volume_attachments/{world.spare}"
    world.dies("guest:do:after", lambda: client.call("DELETE", path))
    world.becomes(world.spare, "available")
    assert world.disk(world.spare) == ""
    world.attach(world.spare)
    world.becomes(world.spare, "in-use")
    until(lambda: world.disk(world.spare), "the guest sees the volume again")
    assert world.read(world.spare) == "spare-data"
    world.cloud.client().call("DELETE", path)
    world.becomes(world.spare, "available")
    assert world.read(world.kept) == "kept-data"
    world.cloud.check_audit()


def test_snapshot(world: World) -> None:
    """Once when the copy is made, once when its bytes are up: one image, whole; the guest runs on."""
    pid = world.guest.qemu()
    for step in ("snapshot:do:after", "upload:do:after"):
        name = f"copy-{step.partition(':')[0]}"
        world.act(step, "createImage", {"name": name})

        def made(name: str = name) -> Any:
            found = world.cloud.client().get(IMAGES, name=name)["images"]
            assert len(found) == 1, found
            return found[0] if found[0]["status"] == "active" else None

        image = until(made, f"the image {name} is whole", 90)
        assert image["disk_format"] == "qcow2" and image["size"] > 1 << 20
        world.guest.status("ACTIVE")
        world.cloud.client().call("DELETE", f"{IMAGES}/{image['id']}")
    assert world.guest.qemu() == pid
    assert list((world.cloud.directory / "agent" / "copies").iterdir()) == []
    world.holds("first")
    world.cloud.check_audit()


def test_rescue_and_unrescue(world: World, tmp_path: Path) -> None:
    """Rescued with the password that was asked for; then it boots from its own disk again, which nobody touched."""
    guest, directory = world.guest, world.cloud.instances / world.guest.id
    image = world.cloud.one(IMAGES, "images", name="tiny-linux")["id"]
    asked = {"rescue_image_ref": image, "adminPass": "resc-4711"}
    world.act("guest:do:after", "rescue", asked)
    guest.status("RESCUE")
    assert world.answers("cat /root/marker 2>/dev/null || echo none") == "none"
    assert by_password(guest, "resc-4711", tmp_path) == "unlucky"
    assert world.disk("rescue") == "vda"
    assert world.read(world.kept) == "kept-data"
    assert (directory / "rescue.iso").exists()
    world.act("guest:do:after", "unrescue")
    guest.status("ACTIVE")
    world.holds("first")
    assert not list(directory.glob("rescue*"))
    world.cloud.check_audit()


def test_resize_revert_and_confirm(world: World) -> None:
    """A revert brings back what was written before the resize, a confirm keeps what was written since."""
    guest, cloud = world.guest, world.cloud
    kept = cloud.instances / guest.id / "kept-disks"
    body = {"name": "bigger", "vcpus": 1, "ram": 256, "disk": 2}
    flavor = cloud.client("admin").call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]
    world.act("guest:do:after", "resize", {"flavorRef": flavor["id"]})
    guest.status("VERIFY_RESIZE")
    world.holds("first")
    guest.tell("echo lost > /root/marker; sync")
    world.act("guest:do:after", "revertResize")
    guest.status("ACTIVE")
    world.holds("first")
    guest.act("resize", {"flavorRef": flavor["id"]})
    guest.status("VERIFY_RESIZE")
    world.holds("first")
    guest.tell("echo second > /root/marker; sync")
    world.act("guest:do:after", "confirmResize")
    assert guest.status("ACTIVE")["flavor"]["original_name"] == "bigger"
    world.holds("second")
    assert not kept.exists()
    cloud.check_audit()


def test_shelve_and_unshelve(world: World) -> None:
    """Its disk went into an image and came back out of it; the volume stayed reserved for it."""
    guest, cloud = world.guest, world.cloud
    world.act("upload:do:after", "shelve")
    guest.status("SHELVED_OFFLOADED")
    assert not (cloud.instances / guest.id).exists()
    assert guest.qemu() is None
    world.act("guest:do:after", "unshelve")
    guest.status("ACTIVE")
    world.holds("second")
    names = [i["name"] for i in cloud.client().get(IMAGES)["images"]]
    assert names == ["tiny-linux"]
    cloud.check_audit()


def test_rebuild(world: World) -> None:
    """A new root disk; address and volume are the same."""
    guest, cloud = world.guest, world.cloud
    fixed = guest.fixed()
    image = cloud.one(IMAGES, "images", name="tiny-linux")["id"]
    world.act("guest:do:after", "rebuild", {"imageRef": image, "name": "anew"})
    assert guest.status("ACTIVE")["name"] == "anew"
    world.holds("none")
    assert guest.fixed() == fixed
    cloud.check_audit()


def test_delete(world: World) -> None:
    """Killed when the host has done it: the volumes are free, the host is as it was."""
    client = world.cloud.client()
    for address in client.get("/network/v2.0/floatingips")["floatingips"]:
        client.call("DELETE", f"/network/v2.0/floatingips/{address['id']}")
    world.dies("guest:do:after remove:do:after", world.guest.delete)
    world.guest.gone()
    for volume in (world.kept, world.spare):
        world.becomes(volume, "available")
        world.volumes("DELETE", f"/volumes/{volume}")
    until(lambda: not world.volumes("GET", "/volumes")["volumes"], "no volume is left")
    world.cloud.check_audit()
    world.cloud.check_ledger(world.idle)
