"""Volumes on a real cloud, from the API to the shell of two guests: one with a local disk, one booted from a volume.

The tests build on each other in their order; run the file as a whole.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@dataclass
class World:
    """What the tests share."""

    cloud: RealCloud
    carl: Server
    dora: Server

    def call(self, method: str, path: str, body: Any = None, who: str = "demo") -> Any:
        """Call the block storage API, at a microversion that extends what is in use."""
        client = self.cloud.client(who)
        path = f"/volume/v3/{client.project_id}{path}"
        headers = {"X-Auth-Token": str(client._token), "OpenStack-API-Version": "volume 3.59"}
        return client._send(method, path, body, headers)[0]

    def volume(self, **more: object) -> str:
        made = self.call("POST", "/volumes", {"volume": {"size": 1, **more}})["volume"]["id"]
        self.becomes(made, "available")
        return str(made)

    def becomes(self, volume: str, status: str) -> None:
        def look() -> bool:
            now = self.call("GET", f"/volumes/{volume}")["volume"]["status"]
            assert not now.startswith("error"), now
            return bool(now == status)

        until(look, f"the volume is {status}", 90)

    def attach(self, server: Server, volume: str) -> str:
        """Attach; return the disk's name in the guest once it is there."""
        body = {"volumeAttachment": {"volumeId": volume}}
        path = f"{server.path}/os-volume_attachments"
        self.cloud.client().call("POST", path, body)
        self.becomes(volume, "in-use")
        until(lambda: device(server, volume), "the guest sees the volume", 60)
        return device(server, volume)

    def detach(self, server: Server, volume: str) -> None:
        self.cloud.client().call("DELETE", f"{server.path}/os-volume_attachments/{volume}")
        until(lambda: not device(server, volume), "the guest let go of the volume", 90)

    @property
    def exporter(self) -> Path:
        return self.cloud.directory / "agent" / "volumes" / "daemon" / "pid"


def device(server: Server, volume: str) -> str:
    return server.tell(
        f'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "{volume[:20]}" ]'
        " && echo ${d##*/}; done; true"
    ).strip()


def write(server: Server, name: str, text: str) -> None:
    server.tell(f"echo {text} | dd of=/dev/{name} bs=4k conv=sync,fsync oflag=direct 2>/dev/null")


def read(server: Server, name: str) -> str:
    command = f"dd if=/dev/{name} bs=4k count=1 iflag=direct 2>/dev/null | tr -d '\\0'"
    return server.tell(command).strip()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cloud() as (cloud, _):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        cloud.allow("tcp", 22)
        carl = cloud.boot("carl", key_name="test")
        image = cloud.one("/image/v2/images", "images", name="tiny-linux")["id"]
        dora = cloud.boot(
            "dora",
            key_name="test",
            block_device_mapping_v2=[
                {
                    "boot_index": 0, "uuid": image, "source_type": "image", "volume_size": 1,
                    "destination_type": "volume", "delete_on_termination": True,
                }
            ],
        )  # fmt: skip
        for server in (carl, dora):
            server.status("ACTIVE")
            server.attach_floating(key)
            server.answers_ssh()
        yield World(cloud, carl, dora)


def test_written_here_read_there(world: World) -> None:
    """What one guest wrote another reads, after the volume was taken out and put in; both kinds of servers."""
    volume = world.volume()
    name = world.attach(world.carl, volume)
    write(world.carl, name, "from-carl")
    world.detach(world.carl, volume)
    world.becomes(volume, "available")
    name = world.attach(world.dora, volume)
    assert read(world.dora, name) == "from-carl"

    # it grows under the guest, and is kept while it is in use
    world.call("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}})
    size = str((2 << 30) // 512)
    until(
        lambda: world.dora.tell(f"cat /sys/block/{name}/size").strip() == size,
        "the guest sees that the volume grew",
        60,
    )
    snapshot = {"snapshot": {"volume_id": volume, "force": True}}
    kept = world.call("POST", "/snapshots", snapshot)["snapshot"]["id"]
    path = f"/snapshots/{kept}"
    until(
        lambda: world.call("GET", path)["snapshot"]["status"] == "available",
        "the snapshot is made",
        90,
    )
    write(world.dora, name, "later")
    copy = world.volume(size=2, snapshot_id=kept)
    other = world.attach(world.carl, copy)
    assert read(world.carl, other) == "from-carl"
    world.detach(world.carl, copy)
    world.detach(world.dora, volume)
    for one in (copy, volume):
        world.becomes(one, "available")
    world.call("DELETE", path)
    until(lambda: not world.call("GET", "/snapshots")["snapshots"], "the snapshot is gone")
    for one in (copy, volume):
        world.call("DELETE", f"/volumes/{one}")


def test_two_servers_write_one_volume(world: World) -> None:
    """2.60 over NBD, on the volume's own host: each sees at once what the other wrote; the exporter outlives us."""
    specs = {"multiattach": "<is> True"}
    kind = {"volume_type": {"name": "shared", "extra_specs": specs}}
    world.call("POST", "/types", kind, "admin")
    volume = world.volume(volume_type="shared")
    mine = world.attach(world.carl, volume)
    theirs = world.attach(world.dora, volume)
    write(world.carl, mine, "carl-was-here")
    assert read(world.dora, theirs) == "carl-was-here"
    pid = world.exporter.read_text()
    world.cloud.kill()
    world.cloud.up()
    assert world.exporter.read_text() == pid
    write(world.dora, theirs, "dora-too")
    assert read(world.carl, mine) == "dora-too"

    # everything of ours ends, the exporter too, and comes back with the volumes in the guests
    world.cloud.kilonova("down", "--guests")
    until(lambda: not Path(f"/proc/{int(pid)}/exe").exists(), "the exporter has ended")
    world.cloud.up()
    for server in (world.carl, world.dora):
        server.status("ACTIVE")
        server.answers_ssh()
        until(lambda s=server: device(s, volume), "the guest sees the volume", 60)
        assert read(server, device(server, volume)) == "dora-too"
    world.detach(world.carl, volume)
    world.detach(world.dora, volume)
    world.becomes(volume, "available")
    until(lambda: not world.exporter.exists(), "nothing is exported any more")
    world.call("DELETE", f"/volumes/{volume}")


def test_a_root_volume_is_written_anew(world: World) -> None:
    """2.93: the same volume, the image's data in it again, what the guest had written is gone."""
    dora, cloud = world.dora, world.cloud
    root = cloud.client().get(f"{dora.path}/os-volume_attachments")["volumeAttachments"][0]
    dora.status("ACTIVE")
    dora.tell("echo mine > /root/mine; sync")
    boots = dora.console().count("GUEST READY")
    image = cloud.one("/image/v2/images", "images", name="tiny-linux")["id"]
    dora.act("rebuild", {"imageRef": image, "name": "dora-anew"})
    assert dora.status("ACTIVE")["name"] == "dora-anew"
    dora.says(f"(?s:(GUEST READY.*){{{boots}}})GUEST READY .*boots=1 ")
    dora.answers_ssh()
    assert dora.tell("ls /root").split() == []
    again = cloud.client().get(f"{dora.path}/os-volume_attachments")["volumeAttachments"]
    assert root["volumeId"] in {a["volumeId"] for a in again}
    world.becomes(root["volumeId"], "in-use")
    cloud.check_audit()


def test_nothing_stays(world: World) -> None:
    """A server that booted from a volume goes with it; the host has no file of any volume then."""
    for server in (world.carl, world.dora):
        server.delete()
    for server in (world.carl, world.dora):
        server.gone()
    files = world.cloud.directory / "agent" / "volumes"
    until(lambda: not list(files.glob("*/*.qcow2")), "the host has no file of a volume", 60)
    assert not re.search(r"qcow2", " ".join(p.name for p in files.rglob("*")))
    world.cloud.check_audit()
