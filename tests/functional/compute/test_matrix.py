"""Feature × {local disk, volume-backed} × {running, stopped}: every server feature for every kind of server (SM-27).

A feature is a row of FEATURES: a function that takes a settled server, does it, and says what must hold. Add yours;
what it says of volumes follows from ``root_kept``: the root volume is the same one, attached, in use.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.functional.volumes_kit import Kit
from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"


@dataclass
class Subject:
    """One server. root: its root volume's id, None when the disk is the host's."""

    kit: Kit
    id: str
    root: str | None
    running: bool

    @property
    def status(self) -> str:
        return str(self.kit.show(self.id)["status"])

    def is_what_it_was(self) -> None:
        """It runs or not, as before, with its root disk."""
        assert self.status == ("ACTIVE" if self.running else "SHUTOFF")
        self.root_kept()

    def root_kept(self) -> None:
        """Record, volume service and guest agree on the root disk."""
        guest = self.kit.guest(self.id)
        if self.root is None:
            assert guest.disks == ("root",)
            return
        assert guest.disks == () and self.root in guest.volumes
        assert self.root in {a["volumeId"] for a in self.kit.attachments(self.id)}
        assert self.kit.show_volume(self.root)["status"] == "in-use"


Feature = Callable[[Subject], None]


def create(s: Subject) -> None:
    """What the fixture made."""
    s.is_what_it_was()


def delete(s: Subject) -> None:
    s.kit.delete(s.id)
    if s.root is not None:
        s.kit.becomes(s.root, None)


def start_and_stop(s: Subject) -> None:
    there, back = ("os-stop", "os-start") if s.running else ("os-start", "os-stop")
    s.kit.act(s.id, there, "SHUTOFF" if s.running else "ACTIVE")
    s.root_kept()
    s.kit.act(s.id, back, "ACTIVE" if s.running else "SHUTOFF")
    s.is_what_it_was()


def reboot_hard(s: Subject) -> None:
    s.kit.act(s.id, "reboot", "ACTIVE", {"type": "HARD"})
    s.root_kept()


def pause(s: Subject) -> None:
    if s.running:
        s.kit.act(s.id, "pause", "PAUSED")
        s.kit.act(s.id, "unpause", "ACTIVE")
    s.is_what_it_was()


def suspend(s: Subject) -> None:
    if s.running:
        s.kit.act(s.id, "suspend", "SUSPENDED")
        s.kit.act(s.id, "resume", "ACTIVE")
    s.is_what_it_was()


def attach(s: Subject) -> None:
    volume = s.kit.volume()
    s.kit.attached(s.id, volume)
    assert volume in s.kit.guest(s.id).volumes
    s.is_what_it_was()
    s.kit.delete(s.id)
    s.kit.becomes(volume, "available")


def detach(s: Subject) -> None:
    volume = s.kit.volume()
    s.kit.attached(s.id, volume)
    assert s.kit.detach(s.id, volume).status == 202
    s.kit.becomes(volume, "available")
    assert volume not in s.kit.guest(s.id).volumes
    s.is_what_it_was()


def create_image(s: Subject) -> None:
    """Local: a disk of its own. Volume-backed: volumes made of the snapshots that the image names."""
    copy = s.kit.whole.call(
        "POST", f"{S}/{s.id}/action", {"createImage": {"name": "copy"}}, version="2.45"
    )
    s.kit.whole.settled(s.id)
    s.is_what_it_was()
    image = s.kit.whole.call("GET", f"/image/v2/images/{copy.json['image_id']}").json
    assert image["status"] == "active"
    assert ("block_device_mapping" in image) == (s.root is not None)
    other = s.kit.server(imageRef=image["id"])
    assert s.kit.show(other)["status"] == "ACTIVE"
    assert len(s.kit.attachments(other)) == (0 if s.root is None else 1)
    s.kit.delete(other)
    s.is_what_it_was()


def create_backup(s: Subject) -> None:
    """Volume-backed: refused, as in Nova."""
    body = {"createBackup": {"name": "b", "backup_type": "daily", "rotation": 1}}
    got = s.kit.whole.call("POST", f"{S}/{s.id}/action", body)
    assert got.status == (202 if s.root is None else 400)
    s.kit.whole.settled(s.id)
    s.is_what_it_was()


def rebuild(s: Subject) -> None:
    """Before 2.93 a root volume stays as it is, and only the image that it was made from is taken."""
    body = {"rebuild": {"imageRef": s.kit.image, "name": "anew"}}
    got = s.kit.whole.call("POST", f"{S}/{s.id}/action", body, version="2.92")
    same = s.root is None or s.kit.show_volume(s.root).get("volume_image_metadata")
    assert got.status == (202 if same else 400)
    s.kit.whole.settled(s.id)
    s.is_what_it_was()


def rebuild_of_another_image(s: Subject) -> None:
    """Volume-backed: the root volume is written anew, from 2.93 on; its size and id stay."""
    other = s.kit.another_image()
    body = {"rebuild": {"imageRef": other, "name": "anew"}}
    path = f"{S}/{s.id}/action"
    if s.root is not None:
        assert s.kit.whole.call("POST", path, body, version="2.92").status == 400
    got = s.kit.whole.call("POST", path, body, version="2.93")
    assert got.status == 202, got
    s.kit.whole.settled(s.id)
    s.is_what_it_was()
    assert s.kit.show(s.id)["name"] == "anew"
    if s.root is not None:
        assert s.kit.show_volume(s.root)["volume_image_metadata"]["image_id"] == other


def rescue(s: Subject) -> None:
    """Volume-backed: from 2.87 on, with an image for a stable rescue."""
    path, body = f"{S}/{s.id}/action", {"rescue": {"rescue_image_ref": s.kit.image}}
    got = s.kit.whole.call("POST", path, body, version="2.87")
    if s.root is not None:
        assert got.status == 400
        props = [{"op": "add", "path": "/hw_rescue_device", "value": "disk"}]
        head = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        where = f"/image/v2/images/{s.kit.image}"
        data = json.dumps(props).encode()
        patched = s.kit.whole.call("PATCH", where, data, who="admin", headers=head)
        assert patched.status == 200, patched
        assert s.kit.whole.call("POST", path, body, version="2.86").status == 400
        got = s.kit.whole.call("POST", path, body, version="2.87")
        props[0] = {"op": "remove", "path": "/hw_rescue_device"}
        data = json.dumps(props).encode()
        s.kit.whole.call("PATCH", where, data, who="admin", headers=head)
    assert got.status == 200, got
    s.kit.whole.settled(s.id)
    assert s.status == "RESCUE"
    guest = s.kit.guest(s.id)
    assert "rescue" in guest.disks and (s.root is None or s.root in guest.volumes)
    s.kit.act(s.id, "unrescue", "ACTIVE")
    s.root_kept()


def shelve(s: Subject) -> None:
    """Local: the image keeps the root disk. Volume-backed: the volume does."""
    s.kit.act(s.id, "shelve", "SHELVED_OFFLOADED")
    if s.root is not None:
        assert s.kit.show_volume(s.root)["status"] == "in-use"
    s.kit.act(s.id, "unshelve", "ACTIVE")
    s.root_kept()


def crash_dump(s: Subject) -> None:
    got = s.kit.whole.call(
        "POST", f"{S}/{s.id}/action", {"trigger_crash_dump": None}, version="2.17"
    )
    assert got.status == (202 if s.running else 409)
    s.kit.whole.settled(s.id)
    s.is_what_it_was()


def attach_while_shelved(s: Subject) -> None:
    """On and off the host, with a volume that comes while it is away."""
    volume = s.kit.volume()
    s.kit.act(s.id, "shelve", "SHELVED_OFFLOADED")
    assert s.kit.attach(s.id, volume).status == 200
    until(lambda: s.kit.show_volume(volume)["status"] == "reserved" or None)
    s.kit.act(s.id, "unshelve", "ACTIVE")
    s.kit.becomes(volume, "in-use")
    s.root_kept()
    assert volume in s.kit.guest(s.id).volumes
    s.kit.delete(s.id)
    s.kit.becomes(volume, "available")


def resize(s: Subject) -> None:
    """To another flavor, and to stay there."""
    flavors = s.kit.whole.call("GET", "/compute/v2.1/flavors").json["flavors"]
    bigger = next(f["id"] for f in flavors if f["name"] == "m1.small")
    s.kit.act(s.id, "resize", "VERIFY_RESIZE", {"flavorRef": bigger})
    s.root_kept()
    s.kit.act(s.id, "confirmResize", "ACTIVE" if s.running else "SHUTOFF")
    s.is_what_it_was()


def resize_reverted(s: Subject) -> None:
    flavors = s.kit.whole.call("GET", "/compute/v2.1/flavors").json["flavors"]
    bigger = next(f["id"] for f in flavors if f["name"] == "m1.small")
    s.kit.act(s.id, "resize", "VERIFY_RESIZE", {"flavorRef": bigger})
    s.kit.act(s.id, "revertResize", "ACTIVE" if s.running else "SHUTOFF")
    s.is_what_it_was()


def _migrate(s: Subject) -> str:
    """Get a server to another host; return where it was."""
    path = f"{S}/{s.id}"
    shown = s.kit.whole.call("GET", path, who="admin").json["server"]
    before = str(shown["OS-EXT-SRV-ATTR:host"])
    got = s.kit.whole.call("POST", f"{path}/action", {"migrate": None}, who="admin")
    assert got.status == 202, got
    shown = s.kit.whole.settled(s.id).json["server"]
    assert shown["status"] == "VERIFY_RESIZE" and shown["OS-EXT-SRV-ATTR:host"] != before
    if s.running:
        s.root_kept()
    return before


def migrate(s: Subject) -> None:
    before = _migrate(s)
    s.kit.act(s.id, "confirmResize", "ACTIVE" if s.running else "SHUTOFF")
    assert s.id not in s.kit.whole.cloud.fleet.world.guests(before)
    s.is_what_it_was()


def migrate_reverted(s: Subject) -> None:
    before = _migrate(s)
    s.kit.act(s.id, "revertResize", "ACTIVE" if s.running else "SHUTOFF")
    assert s.kit.whole.cloud.fleet.world.find(s.id)[0] == before
    s.is_what_it_was()


def live_migrate(s: Subject) -> None:
    """A server that runs is on the other host afterwards, as it was; one that is off is refused."""
    whole, path = s.kit.whole, f"{S}/{s.id}/action"
    body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
    got = whole.call("POST", path, body, who="admin", version="2.68")
    assert got.status == (202 if s.running else 409), got
    whole.settled(s.id)
    s.is_what_it_was()
    moves = whole.call("GET", f"/compute/v2.1/os-migrations?instance_uuid={s.id}", who="admin")
    statuses = [m["status"] for m in moves.json["migrations"]]
    assert statuses == (["completed"] if s.running else [])


FEATURES: tuple[Feature, ...] = (
    create,
    delete,
    start_and_stop,
    reboot_hard,
    pause,
    suspend,
    attach,
    detach,
    create_image,
    create_backup,
    rebuild,
    rebuild_of_another_image,
    rescue,
    shelve,
    crash_dump,
    resize,
    resize_reverted,
    migrate,
    migrate_reverted,
    live_migrate,
    attach_while_shelved,
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


@pytest.fixture
def subject(kit: Kit, backed: bool, runs: bool) -> Iterator[Subject]:
    """A server that is gone with the test, its volumes too; the audit has nothing to say afterwards."""
    server = kit.backed() if backed else kit.server(imageRef=kit.image)
    root = kit.attachments(server)[0]["volumeId"] if backed else None
    if not runs:
        kit.act(server, "os-stop", "SHUTOFF")
    yield Subject(kit, server, root, runs)
    kit.whole.gone(server)
    assert kit.whole.call("GET", "/kilonova/v1/audit", who="admin").json["findings"] == []


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("backed", [False, True], ids=["local", "volume-backed"])
@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.__name__)
def test_feature(feature: Feature, subject: Subject) -> None:
    feature(subject)
