"""A real host dies with its guests, is fenced, and they are evacuated, in its cell and to another one (R13, R14).

The host is a machine of its own as far as processes go: its agent, libvirtd and QEMUs are ended by pid while the
control plane and another host run on. The tests build on each other; run the file as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kilonova.server.own_hosts import own_name
from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.joined import HOST, Machine, machine_beside
from tests.real.outside import missing, timed, until
from tests.real.patience import answers

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(900),
]
IMAGES, VOLUME = "/image/v2/images", "/volume/v3"
FIRST = "#!/bin/sh\nhostname >>/root/first\n"
"""User data: it runs at the first boot of a disk, and so tells an old disk from a new one."""


@dataclass
class World:
    """What the tests share. other: the name of the host that lives on."""

    cloud: RealCloud
    machine: Machine
    key: Path
    cells: int
    other: str = field(default_factory=own_name)
    local: Server | None = None
    backed: Server | None = None
    root: str = ""

    def only(self, *hosts: str) -> None:
        """Let only these hosts be chosen."""
        for host in (HOST, self.other, f"{self.other}-2")[: 1 + self.cells]:
            self.cloud.kilonova("host", "enable" if host in hosts else "disable", host)

    def host_of(self, server: Server) -> str:
        shown = self.cloud.client("admin").get(server.path)["server"]
        return str(shown["OS-EXT-SRV-ATTR:host"])

    def volume(self) -> Any:
        client = self.cloud.client("admin")
        return client.get(f"{VOLUME}/{client.project_id}/volumes/{self.root}")["volume"]

    def heard(self) -> str:
        """Return when the host was heard last."""
        admin = self.cloud.client("admin")
        (found,) = admin.get(f"{COMPUTE}/os-services", host=HOST)["services"]
        return str(found["updated_at"])

    def force(self, down: bool) -> None:
        """Say that the host is fenced, or that it may be used again."""
        admin = self.cloud.client("admin")
        (found,) = admin.get(f"{COMPUTE}/os-services", host=HOST)["services"]
        admin.call("PUT", f"{COMPUTE}/os-services/{found['id']}", {"forced_down": down})


@pytest.fixture(scope="module", params=[1, 2], ids=["one cell", "two cells"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    cells = request.param
    with (
        running_cloud(hosts=cells, cells=cells, options=("--split",)) as (cloud, _),
        machine_beside(cloud) as machine,
    ):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        cloud.allow("tcp", 22)
        machine.join(f"cell{cells}")
        yield World(cloud, machine, key, cells)


def test_two_guests_on_a_host(world: World) -> None:
    """One has its disk there; the other boots from a volume whose data the other host has."""
    cloud, demo = world.cloud, world.cloud.client()
    world.only(world.other)
    image = cloud.one(IMAGES, "images", name="tiny-linux")["id"]
    body = {"volume": {"size": 1, "imageRef": image, "name": "root"}}
    world.root = demo.call("POST", f"{VOLUME}/{demo.project_id}/volumes", body)["volume"]["id"]
    until(lambda: world.volume()["status"] == "available", "the volume is there", 90)
    assert str(world.volume()["os-vol-host-attr:host"]).startswith(f"{world.other}@")
    world.only(HOST)
    disk = {"boot_index": 0, "uuid": world.root, "source_type": "volume"}
    disk |= {"destination_type": "volume", "delete_on_termination": True}
    more: dict[str, Any] = {"key_name": "test", "user_data": FIRST}
    world.backed = cloud.boot("backed", block_device_mapping_v2=[disk], **more)
    world.local = cloud.boot("local", **more)
    for server in (world.backed, world.local):
        server.status("ACTIVE", 120)
        assert world.host_of(server) == HOST
        server.ready()
    assert len(world.machine.guests()) == 2
    world.only(world.other)


def test_the_host_dies_and_they_are_evacuated(world: World) -> None:
    """Silent is not enough, fenced is; the volume's data are kept, the local disk is the image's again."""
    admin = world.cloud.client("admin")
    local, backed = world.local, world.backed
    assert local is not None and backed is not None
    fixed = {s.id: s.fixed() for s in (local, backed)}
    world.machine.die()
    world.force(True)
    asked = {"host": world.other} if world.cells > 1 else {}
    for server in (backed, local):
        with timed(f"evacuate {server.name}"):
            admin.call("POST", f"{server.path}/action", {"evacuate": asked})
            server.status("SHUTOFF", 120)  # 2.95
        assert world.host_of(server) == world.other
        assert server.fixed() == fixed[server.id]
        server.act("os-start")
        server.status("ACTIVE")
        server.attach_floating(world.key)
    first = {
        s.name: answers(s, "cat /root/first; echo kept > /root/marker; sync")
        for s in (local, backed)
    }
    assert first == {"local": "local", "backed": "backed"}
    assert "boots=2" in backed.says(r"GUEST READY .*").group()  # its disk has seen a boot before
    assert "boots=1" in local.says(r"GUEST READY .*").group()
    assert [a["host_name"] for a in world.volume()["attachments"]] == [world.other]


def test_the_host_returns_and_starts_nothing(world: World) -> None:
    """R13, R14: never a second guest; what it had is removed once it is not fenced any more, and the audit is clean."""
    machine, cloud = world.machine, world.cloud
    local, backed = world.local, world.backed
    assert local is not None and backed is not None
    kept = machine.state / "agent" / "instances"
    before = {p.name for p in kept.iterdir()}
    assert {local.id, backed.id} <= before
    heard = world.heard()
    machine.start()
    until(lambda: world.heard() > heard, "the host that came back is heard")
    assert machine.guests() == [] and {p.name for p in kept.iterdir()} == before
    world.force(False)

    def cleaned() -> bool:
        assert machine.guests() == [], "the host started what it does not own any more"
        return not [p for p in kept.iterdir() if p.name in before]

    until(cleaned, "the host removed what it had", 120)
    cloud.check_audit()
    for server in (local, backed):
        assert server.tell("cat /root/marker").strip() == "kept"
        assert world.host_of(server) == world.other
    assert len(world.volume()["attachments"]) == 1


def test_nothing_is_left(world: World) -> None:
    cloud = world.cloud
    for server in (world.local, world.backed):
        assert server is not None
        server.delete()
        server.gone()
    until(lambda: cloud.settled(), "nothing is under way")
    cloud.check_audit()
    assert list(cloud.directory.glob("agent*/instances/*")) == []
    assert list((world.machine.state / "agent" / "instances").iterdir()) == []
