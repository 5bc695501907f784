"""What every driver promises about a guest that moves: it is left off, its disks copied, made elsewhere, had back.

OBJ-2
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.images import CachedImage
from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.objects.image_orders import Quiesce
from kilonova.virt.fake.world import World
from kilonova.virt.whole import HostDriver
from tests.contracts.test_driver import OFF, RUNNING, Taps, quiet, real, until_done
from tests.real.private_libvirtd import QEMU_ID, private_libvirtd
from tests.unit.agent_kit import build_of

MARK = b"what the owner wrote"
MIB = 1 << 20


class Sent:
    """Images by id: files that one host copied."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}

    def link(self, source: g.ImageSource, target: Path, progress: Any) -> CachedImage:
        """Give a copy, as a cache would."""
        target.unlink(missing_ok=True)
        target.write_bytes(self.files[source.image_id].read_bytes())
        target.chmod(0o644)
        with target.open("rb") as file:
            return CachedImage(target, int.from_bytes(file.read(32)[24:32], "big"))


@dataclass
class Pair:
    """Two hosts. instances: where the second keeps its guests' files, None when they are simulated."""

    here: HostDriver
    there: HostDriver
    sent: Sent
    scratch: Path
    of: dict[HostDriver, Path]


def simulated(stack: ExitStack, path: Path) -> Pair:
    world = World(path / "guests.sqlite")
    stack.callback(world.close)
    return Pair(world.driver("host1"), world.driver("host2"), Sent(), path, {})


def by_libvirt(stack: ExitStack, path: Path) -> Pair:
    from kilonova.agent.metadata import configdrive
    from kilonova.virt.libvirt.domains import LibvirtConfig
    from kilonova.virt.libvirt.driver import LibvirtDriver

    sent, drivers, of = Sent(), [], {}
    for _ in range(2):
        daemon = stack.enter_context(private_libvirtd())
        instances = daemon.root / "instances"
        config = LibvirtConfig(lambda uri=daemon.uri: uri, instances, "test", group=QEMU_ID)  # type: ignore[misc]
        driver = LibvirtDriver(config, sent, Taps(), configdrive.build)
        stack.callback(driver.close)
        drivers.append(driver)
        of[driver] = instances
    scratch = daemon.root / "scratch"
    scratch.mkdir(mode=0o711)
    return Pair(drivers[0], drivers[1], sent, scratch, of)


@pytest.fixture(
    params=[
        pytest.param(simulated, id="fake"),
        pytest.param(by_libvirt, id="libvirt", marks=[pytest.mark.real, real]),
    ]
)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield request.param(stack, tmp_path)


def _write(pair: Pair, server: str) -> None:
    """Write a mark on each disk of a guest that is off."""
    if pair.of:
        directory = pair.of[pair.here] / server
        with (directory / "ephemeral0.raw").open("rb+") as file:
            file.seek(8 * MIB)
            file.write(MARK)
        path = directory / "root.qcow2"
        command = ["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 64k 64k", str(path)]
        subprocess.run(command, check=True, capture_output=True)


def _read(pair: Pair, driver: HostDriver, server: str) -> tuple[bytes, bool, int]:
    """Return what is on both disks of a guest that is off, and the root disk's size."""
    directory = pair.of[driver] / server
    with (directory / "ephemeral0.raw").open("rb") as file:
        file.seek(8 * MIB)
        mark = file.read(len(MARK))
    path = directory / "root.qcow2"
    command = ["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 64k 64k", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size = int.from_bytes(path.read_bytes()[24:32], "big")
    return mark, "verification failed" not in done.stdout, size


def test_there_and_back(pair: Pair) -> None:
    """The copies are whole disks by themselves; both guests stand, one runs; the old one is had back untouched."""
    disks = (
        g.LocalDisk(name="root", size_gib=0, size_mib=64, boot_index=0),
        g.LocalDisk(name="ephemeral0", size_gib=0, size_mib=16),
        g.LocalDisk(name="swap", size_gib=0, size_mib=16),
    )
    build = build_of(nics=0).replace(memory_mib=64, disks=disks, config_drive=True)
    server, here, there = build.server_id, pair.here, pair.there
    state, hardware, _ = until_done(lambda: here.build(build, quiet))
    assert state == RUNNING
    stop = g.PowerAction.STOP
    assert until_done(lambda: here.power(server, stop, 0.0, None, quiet)) == OFF
    _write(pair, server)
    sources, wanted = [], []
    for disk in disks[:2]:
        image, target = new_uuid(), pair.scratch / f"{disk.name}.img"
        made = until_done(
            lambda d=disk, t=target: here.snapshot(server, d.name, t, Quiesce.NO, quiet)
        )
        assert (
            made.disk_format == "qcow2" and made.virtual_size == disk.size_mib * MIB
        ) or not pair.of
        pair.sent.files[image] = target
        sources.append(
            g.ImageSource(image_id=image, url="", disk_format="qcow2", size=os.path.getsize(target))
        )
        wanted.append(disk.replace(image_id=image, size_mib=2 * disk.size_mib))
    bigger = build.replace(
        disks=(*wanted, disks[2]), images=tuple(sources), hardware=hardware, memory_mib=80
    )
    assert until_done(lambda: there.build(bigger, quiet))[0] == RUNNING
    assert here.guests()[server] == OFF
    until_done(lambda: there.power(server, stop, 0.0, None, quiet))
    if pair.of:
        assert _read(pair, there, server) == (MARK, True, 128 * MIB)
        assert (pair.of[there] / server / "ephemeral0.raw").stat().st_size == 32 * MIB
        assert list((pair.of[there] / server).glob("ephemeral0.base*")) == []
        assert _read(pair, here, server) == (MARK, True, 64 * MIB)
    assert until_done(lambda: here.revert_resize(build, quiet))[0] == RUNNING
    assert until_done(lambda: here.revert_resize(build, quiet))[0] == RUNNING, "again"
    for driver in (there, here):
        until_done(lambda d=driver: d.delete(server, quiet))
        assert server not in driver.guests()
