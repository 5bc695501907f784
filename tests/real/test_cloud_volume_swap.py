"""A volume migrates to another host under a guest that writes, and the cloud is killed in the middle of it (R2, R13).

Through the block storage API, as ``openstack volume migrate`` does. The tests build on each other; run the whole file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.real.cloud import COMPUTE, running_cloud
from tests.real.killed import World, prepared
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(900),
]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
WRITER = (
    "n=0; while :; do n=$((n+1)); printf %08d $n | dd of=/dev/{disk} bs=512 seek=$n conv=sync,fsync,notrunc"
    " 2>/dev/null || break; echo $n > /run/written; done"
)
"""Writes its numbers into one sector after the other, each on the disk before it is counted."""


@dataclass
class Writing(World):
    """A guest that writes into a volume all the while."""

    boot: str = ""

    def record(self) -> Any:
        admin = self.cloud.client("admin")
        return admin.get(f"/volume/v3/{admin.project_id}/volumes/{self.kept}")["volume"]

    def host(self) -> str:
        return str(self.record()["os-vol-host-attr:host"]).partition("@")[0]

    def starts(self) -> None:
        """Let it write from the first sector on."""
        command = WRITER.replace("{disk}", self.disk(self.kept))
        self.guest.tell(
            f"rm -f /run/written; ({command}) >/dev/null 2>&1 </dev/null & echo $! > /run/writer"
        )
        self.goes_on()

    def written(self) -> int:
        return int(self.guest.tell("cat /run/written 2>/dev/null || echo 0"))

    def goes_on(self) -> None:
        """Wait until it has written more."""
        before = self.written()
        until(lambda: self.written() > before + 3, "the guest writes on", 60)

    def stops(self) -> None:
        """End the writer; everything that it counted is on the disk, in its place, read anew from there."""
        self.guest.tell("kill $(cat /run/writer); sync; echo 3 > /proc/sys/vm/drop_caches")
        count, name = self.written(), self.disk(self.kept)
        read = f"dd if=/dev/{name} bs=512 skip=1 count={count} 2>/dev/null | tr -d '\\0' | md5sum"
        wrote = f"for i in $(seq 1 {count}); do printf %08d $i; done | md5sum"
        assert self.guest.tell(read, 60) == self.guest.tell(wrote, 60)
        print(f"sectors written meanwhile: {count}")

    def migrates(self, at: str) -> None:
        """Have the volume go to the other host, the cloud dying at one of these points; look at what came of it."""
        here = self.host()
        hosts = self.cloud.client("admin").get(f"{COMPUTE}/os-hypervisors")["hypervisors"]
        (there,) = {str(h["hypervisor_hostname"]) for h in hosts} - {here}
        admin = self.cloud.client("admin")
        path = f"/volume/v3/{admin.project_id}/volumes/{self.kept}/action"
        body = {"os-migrate_volume": {"host": f"{there}@qcow2#pool"}}
        self.starts()
        with timed(f"a volume to another host, killed at {at}"):
            self.dies(at, lambda: admin.call("POST", path, body))
            until(lambda: self.host() == there and self.at_rest(), "the volume is there", 120)
        self.goes_on()
        self.stops()
        assert self.guest.tell(BOOT_ID) == self.boot
        assert [a["server_id"] for a in self.record()["attachments"]] == [self.guest.id]
        files = list(self.cloud.directory.glob(f"agent*/volumes/volumes/{self.kept}.qcow2"))
        assert len(files) == 1, files
        self.cloud.check_audit()

    def at_rest(self) -> bool:
        shown = self.record()
        assert shown["migration_status"] != "error", self.cloud.log()
        return (shown["migration_status"], shown["status"]) == ("success", "in-use")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    with running_cloud(program="tests.real.dying", hosts=2) as (cloud, _):
        key, idle = prepared(tmp_path_factory.mktemp("key"), cloud)
        guest = cloud.boot("writer", key_name="test")
        guest.status("ACTIVE")
        guest.attach_floating(key)
        found = Writing(cloud, guest, idle)
        found.kept = found.volume()
        found.answers()
        found.attach(found.kept)
        found.becomes(found.kept, "in-use")
        until(lambda: found.disk(found.kept), "the guest sees the volume")
        found.boot = guest.tell(BOOT_ID)
        yield found


@pytest.mark.parametrize(
    "at", ["make:do:after", "guest:do:after", "hand_over:do:before", "remove:do:before"]
)
def test_killed_while_it_migrates(world: Writing, at: str) -> None:
    """Before the guest goes over, when it has and nobody knows, past the point of no return, and at the end."""
    world.migrates(at)


def test_nothing_is_left(world: Writing) -> None:
    world.guest.delete()
    world.guest.gone()
    world.becomes(world.kept, "available")
    world.volumes("DELETE", f"/volumes/{world.kept}")
    until(lambda: not world.volumes("GET", "/volumes")["volumes"], "no volume is left")
    world.cloud.check_audit()
    assert list(world.cloud.directory.glob("agent*/volumes/volumes/*")) == []
    assert list(world.cloud.directory.glob("agent*/instances/*")) == []
