"""What is done to a guest that a cloud dies over: each move of it, what holds afterwards, and where it may be killed.

A move brings the guest from ACTIVE to ACTIVE. ``first`` and ``then``: the points at which the cloud dies in its first
and in its second half ("" for none); what the guest wrote is looked at after each.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.cloud import COMPUTE, RealCloud, Server, running_cloud
from tests.real.killed import IMAGES, World, prepared
from tests.real.outside import build_image, until


@dataclass
class Story(World):
    """A world, and what must be true of its guest. marker: on its root disk. root: the volume that this is, or "".

    bigger: a flavor. rescuer: an image for a stable rescue (2.87). own: the guest's own flavor.
    """

    marker: str = "none"
    root: str = ""
    own: str = ""
    bigger: str = ""
    rescuer: str = ""

    @property
    def attachments(self) -> str:
        return f"{self.guest.path}/os-volume_attachments"

    def ask(self, at: str, action: str, value: Any = None) -> None:
        """Ask for an action; the cloud dies at one of these points, if any is given."""
        if at:
            self.act(at, action, value)
        else:
            self.guest.act(action, value)

    def call(self, at: str, method: str, path: str, body: Any = None) -> None:
        """Call the API, likewise."""
        client = self.cloud.client()
        if at:
            self.dies(at, lambda: client.call(method, path, body))
        else:
            client.call(method, path, body)

    def writes(self, text: str) -> None:
        """Mark the root disk."""
        self.guest.tell(f"echo {text} > /root/marker; sync")
        self.marker = text

    def sound(self) -> None:
        """The guest answers with what was written; its root volume is the same one, its own and nobody else's."""
        self.holds(self.marker)
        if self.root:
            found = self.cloud.client().get(self.attachments)["volumeAttachments"]
            assert {self.root, self.kept} == {a["volumeId"] for a in found}
            shown = self.volumes("GET", f"/volumes/{self.root}")["volume"]
            assert shown["status"] == "in-use", shown
            assert [a["server_id"] for a in shown["attachments"]] == [self.guest.id], shown
        self.cloud.check_audit()


def attach_and_detach(s: Story, first: str, then: str) -> None:
    """What was written into a volume is in it, and the guest let it go."""
    body = {"volumeAttachment": {"volumeId": s.spare}}
    s.call(first, "POST", s.attachments, body)
    s.becomes(s.spare, "in-use")
    until(lambda: s.disk(s.spare), "the guest sees the volume")
    s.write(s.spare, s.marker)
    assert s.read(s.spare) == s.marker
    s.call(then, "DELETE", f"{s.attachments}/{s.spare}")
    s.becomes(s.spare, "available")
    assert s.disk(s.spare) == ""
    s.sound()


def snapshot(s: Story, first: str, then: str) -> None:
    """One image, whole: of the disk's bytes, or of snapshots of the volumes."""
    pid = s.guest.qemu()
    for n, at in enumerate(filter(None, (first, then))):
        name = f"copy-{n}"
        s.ask(at, "createImage", {"name": name})

        def made(name: str = name) -> Any:
            found = s.cloud.client().get(IMAGES, name=name)["images"]
            assert len(found) == 1, found
            return found[0] if found[0]["status"] == "active" else None

        image = until(made, f"the image {name} is whole", 90)
        s.guest.status("ACTIVE")
        kept = s.volumes("GET", "/snapshots")["snapshots"]
        if s.root:
            assert {k["volume_id"] for k in kept} == {s.root, s.kept}
            assert s.root in {k["volume_id"] for k in kept if k["id"] in str(image)}
        else:
            assert image["disk_format"] == "qcow2" and image["size"] > 1 << 20
        s.cloud.client().call("DELETE", f"{IMAGES}/{image['id']}")
        for one in kept:
            s.volumes("DELETE", f"/snapshots/{one['id']}")
        until(lambda: not s.volumes("GET", "/snapshots")["snapshots"], "no snapshot is left")
    assert s.guest.qemu() == pid
    assert list((s.cloud.directory / "agent" / "copies").iterdir()) == []
    s.sound()


def rescue(s: Story, first: str, then: str) -> None:
    """It boots from the rescue disk with its own beside it, and then from its own again, which nobody touched."""
    s.ask(first, "rescue", {"rescue_image_ref": s.rescuer, "adminPass": "resc-4711"})
    s.guest.status("RESCUE")
    assert s.answers("cat /root/marker 2>/dev/null || echo none") == "none"
    assert s.disk("rescue")
    if s.root:
        assert s.disk(s.root)
    assert s.read(s.kept) == "kept-data"
    s.ask(then, "unrescue")
    s.guest.status("ACTIVE")
    s.sound()
    assert not list((s.cloud.instances / s.guest.id).glob("rescue*"))


def resize_and_revert(s: Story, first: str, then: str) -> None:
    """A local disk is what it was before; a volume, which both sizes share, has what was written since."""
    s.ask(first, "resize", {"flavorRef": s.bigger})
    s.guest.status("VERIFY_RESIZE")
    s.holds(s.marker)
    before = s.marker
    s.writes("written-while-bigger")
    if not s.root:
        s.marker = before
    s.ask(then, "revertResize")
    s.guest.status("ACTIVE")
    s.sound()


def resize_and_confirm(s: Story, first: str, then: str) -> None:
    """It keeps its data and has its new size; then it is given its first one again."""
    s.ask(first, "resize", {"flavorRef": s.bigger})
    s.guest.status("VERIFY_RESIZE")
    s.holds(s.marker)
    s.ask(then, "confirmResize")
    assert s.guest.status("ACTIVE")["flavor"]["original_name"] == "bigger"
    s.sound()
    assert not (s.cloud.instances / s.guest.id / "kept-disks").exists()
    s.guest.act("resize", {"flavorRef": s.own})
    s.guest.status("VERIFY_RESIZE")
    s.guest.act("confirmResize")
    s.guest.status("ACTIVE")
    s.sound()


def shelve_and_unshelve(s: Story, first: str, then: str) -> None:
    """Nothing of it is on the host meanwhile; it comes back with all that it had."""
    s.ask(first, "shelve")
    s.guest.status("SHELVED_OFFLOADED")
    assert not (s.cloud.instances / s.guest.id).exists()
    assert s.guest.qemu() is None
    s.ask(then, "unshelve")
    s.guest.status("ACTIVE")
    s.sound()


def rebuild(s: Story, first: str, then: str) -> None:
    """Its root is the image's again, the same volume if it is one; address and other volumes stay."""
    image = s.cloud.one(IMAGES, "images", name="tiny-linux")["id"]
    for at in filter(None, (first, then)):
        fixed = s.guest.fixed()
        s.ask(at, "rebuild", {"imageRef": image})
        s.guest.status("ACTIVE")
        s.marker = "none"
        s.sound()
        assert s.guest.fixed() == fixed
        s.writes("written-after")


def reboot(s: Story, first: str, then: str) -> None:
    """It starts again from what it had."""
    for at in filter(None, (first, then)):
        s.ask(at, "reboot", {"type": "HARD"})
        s.guest.status("ACTIVE")
        s.sound()


@dataclass(frozen=True)
class Move:
    """One move. first, then: the steps of its halves, where they are those of local disks and of volumes alike.

    backed: those of its first half for a server that boots from a volume, where they are others.
    """

    do: Callable[[Story, str, str], None]
    first: tuple[str, ...]
    then: tuple[str, ...]
    backed: tuple[str, ...] = ()

    def halves(self, on_a_volume: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the steps of both halves; of a move that is done twice, they are the same."""
        first = self.backed if on_a_volume and self.backed else self.first
        return first, self.then or first


_REIMAGE = ("check", "off", "root", "reimage", "look", "fill", "record", "tell", "guest", "in_use")
MOVES: dict[str, Move] = {
    "attach": Move(
        attach_and_detach,
        ("reserve", "connect", "guest", "in_use"),
        ("begin", "guest", "release"),
    ),
    "snapshot": Move(
        snapshot,
        ("snapshot", "describe", "upload", "finish"),
        (),
        ("snapshots", "ready", "image"),
    ),
    "rescue": Move(rescue, ("guest",), ("guest", "forget")),
    "revert": Move(resize_and_revert, ("claim", "guest"), ("guest", "claim", "drop")),
    "confirm": Move(resize_and_confirm, ("claim", "guest"), ("guest", "claim")),
    "shelve": Move(
        shelve_and_unshelve,
        ("stop", "snapshot", "describe", "upload", "shelved", "remove", "release"),
        ("begin", "place", "ports", "guest", "active", "image"),
        ("stop", "shelved", "remove", "release"),
    ),
    "rebuild": Move(rebuild, ("check", "guest", "forget"), (), (*_REIMAGE, "forget")),
    "reboot": Move(reboot, ("guest",), ()),
}


@contextlib.contextmanager
def running_story(keys: Path, *, backed: bool) -> Iterator[Story]:
    """Give a cloud that dies on demand; there is no guest yet (``guest`` names one that was never made)."""
    with running_cloud(program="tests.real.dying") as (cloud, _):
        key, idle = prepared(keys, cloud)
        story = Story(cloud, Server(cloud, "", "unlucky", "demo", key=key), idle)
        body = {"name": "bigger", "vcpus": 1, "ram": 256, "disk": 1}
        admin = cloud.client("admin")
        story.bigger = str(
            admin.call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]["id"]
        )
        story.rescuer = rescue_image(cloud) if backed else cloud_image(cloud)
        yield story


def begin(s: Story, *, backed: bool, at: str = "") -> None:
    """Make the guest, on a volume or on a local disk; the cloud dies at one of these points."""
    key, cloud = s.guest.key, s.cloud
    more: dict[str, Any] = {"key_name": "test"}
    if backed:
        root = {"boot_index": 0, "uuid": cloud_image(cloud), "source_type": "image"}
        root |= {"destination_type": "volume", "volume_size": 1, "delete_on_termination": True}
        more["block_device_mapping_v2"] = [root]
    if at:
        s.dies(at, lambda: cloud.boot("unlucky", **more))
        found = cloud.client().get(f"{COMPUTE}/servers", name="unlucky")["servers"]
        assert len(found) == 1, found
        s.guest = Server(cloud, found[0]["id"], "unlucky", "demo")
    else:
        s.guest = cloud.boot("unlucky", **more)
    s.guest.status("ACTIVE")
    assert key is not None
    s.guest.attach_floating(key)
    s.answers()
    if backed:
        (root_volume,) = cloud.client().get(s.attachments)["volumeAttachments"]
        s.root = str(root_volume["volumeId"])
    flavors = cloud.client("admin").get(f"{COMPUTE}/flavors")["flavors"]
    s.own = next(str(f["id"]) for f in flavors if f["name"] == "t192")


def give_volumes(s: Story) -> None:
    """Give the guest a volume that it keeps, with data, and have another one beside it."""
    s.kept, s.spare = s.volume(), s.volume()
    s.attach(s.kept)
    s.becomes(s.kept, "in-use")
    until(lambda: s.disk(s.kept), "the guest sees the volume")
    s.write(s.kept, "kept-data")
    s.writes("first")


def cloud_image(cloud: RealCloud) -> str:
    """Return the image that guests are made of."""
    return str(cloud.one(IMAGES, "images", name="tiny-linux")["id"])


def rescue_image(cloud: RealCloud) -> str:
    """Upload an image for a stable rescue, whose root file system has a name of its own."""
    path = build_image("build", "tiny-rescue.qcow2", "--label", "rescueroot")
    asked = {
        "name": "rescuer",
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "public",
        "hw_rescue_device": "disk",
        "hw_rescue_bus": "virtio",
    }
    image = str(cloud.client("admin").call("POST", IMAGES, asked)["id"])
    cloud.upload(image, path)
    return image


def end(s: Story, at: str) -> None:
    """Delete the guest, the cloud dying over it: its root volume goes too, other volumes are free, the host at rest."""
    client = s.cloud.client()
    for address in client.get("/network/v2.0/floatingips")["floatingips"]:
        client.call("DELETE", f"/network/v2.0/floatingips/{address['id']}")
    s.dies(at, s.guest.delete)
    s.guest.gone()
    for volume in (s.kept, s.spare):
        s.becomes(volume, "available")
        assert s.volumes("DELETE", f"/volumes/{volume}") is None
    until(lambda: not s.volumes("GET", "/volumes")["volumes"], "no volume is left")
    s.cloud.check_audit()
    s.cloud.check_ledger(s.idle)
