"""What every driver promises about the disks of a guest that exists, and of one that boots from a volume."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilonova.common.host_certificates import HostAuthority
from kilonova.common.ids import new_uuid
from kilonova.image.inspect import Limits, inspect
from kilonova.objects import guest as g
from kilonova.objects import volume_orders as v
from kilonova.virt.driver import Aborted, Again, DriverError, GuestMissing, HypervisorDown
from kilonova.virt.fake.world import World
from kilonova.virt.libvirt import xml
from kilonova.virt.libvirt.copies import Copies
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from kilonova.virt.volumes import VolumeStore
from kilonova.virt.whole import HostDriver
from tests.contracts.test_driver import OFF, RUNNING, EmptyImages, Taps, real, until_done
from tests.real.private_libvirtd import QEMU_ID, Libvirtd, private_libvirtd
from tests.unit.agent_kit import build_of


def quiet(text: str) -> None:
    """Nobody watches."""


@dataclass
class Host:
    """A driver and its host's volumes. scratch: a directory in which the driver may make files.

    other: another host's volumes.
    """

    driver: HostDriver
    store: VolumeStore
    other: VolumeStore
    scratch: Path
    daemon: Libvirtd | None = None

    def volume(self, size_gib: int = 1, **more: object) -> g.FileDisk:
        make = v.VolumeMake(volume_id=new_uuid(), size_gib=size_gib)
        made = until_done(lambda: self.store.make(make, quiet))
        disk = g.FileDisk(name="v", path=made.path, format=made.format, serial=make.volume_id)
        return disk.replace(**more)

    def attach(self, server: str, disk: g.FileDisk | g.NbdDisk) -> tuple[g.DeviceAddress, ...]:
        found: tuple[g.DeviceAddress, ...] = until_done(
            lambda: self.driver.attach_disk(server, disk, quiet)
        )
        return found

    def detach(self, server: str, serial: str) -> bool:
        return bool(until_done(lambda: self.driver.detach_disk(server, serial, quiet)))

    def power(self, build: g.GuestBuild, action: g.PowerAction) -> int:
        state: int = until_done(
            lambda: self.driver.power(build.server_id, action, 0.5, build, quiet)
        )
        return state


def simulated(stack: ExitStack, path: Path) -> Host:
    world = World(path / "guests.sqlite")
    stack.callback(world.close)
    return Host(world.driver("host1"), world.volumes("host1"), world.volumes("host2"), path)


def by_libvirt(stack: ExitStack, path: Path) -> Host:
    from kilonova.agent.metadata import configdrive
    from kilonova.virt.libvirt.domains import LibvirtConfig
    from kilonova.virt.libvirt.driver import LibvirtDriver

    daemon = stack.enter_context(private_libvirtd())
    libvirt = LibvirtConfig(
        lambda: daemon.uri, daemon.root / "instances", "test-cloud", group=QEMU_ID
    )
    driver = LibvirtDriver(
        libvirt,
        EmptyImages(),
        Taps(),
        configdrive.build,
    )
    stack.callback(driver.close)
    config = VolumesConfig(daemon.root / "volumes", "host1", QEMU_ID, tools=libvirt.tools)
    store = QcowVolumes(config, EmptyImages(), lambda *_: None)
    stack.callback(store.close)
    stack.callback(lambda: store.apply(v.VolumeExports(host="host1", generation=1 << 40)))
    authority, kept = HostAuthority(b"of the tests"), daemon.root / "certificates"
    known = HostIdentity("host1", lambda: kept, Owner(QEMU_ID))
    known.take(authority.sign("host1", known.request()), authority.certificate)
    there = daemon.root / "of-host2"
    there.mkdir(mode=0o700)
    identity = HostIdentity("host2", lambda: there, Owner(None))
    identity.take(authority.sign("host2", identity.request()), authority.certificate)
    second = VolumesConfig(
        daemon.root / "second", "host2", QEMU_ID, address="127.0.0.1", identity=identity
    )
    other = QcowVolumes(second, EmptyImages(), lambda *_: None)
    stack.callback(other.close)
    stack.callback(lambda: other.apply(v.VolumeExports(host="host2", generation=1 << 40)))
    scratch = daemon.root / "scratch"
    scratch.mkdir(mode=0o711)
    return Host(driver, store, other, scratch, daemon)


@pytest.fixture(
    params=[
        pytest.param(simulated, id="fake"),
        pytest.param(by_libvirt, id="libvirt", marks=[pytest.mark.real, real]),
    ],
    scope="module",
)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with ExitStack() as stack:
        yield request.param(stack, tmp_path_factory.mktemp("host"))


@pytest.fixture
def build(host: Host) -> Iterator[g.GuestBuild]:
    """A guest's description; the guest is gone after the test."""
    wanted = build_of(nics=0)
    wanted = wanted.replace(memory_mib=64, disks=(wanted.disks[0].replace(tag="system"),))
    yield wanted
    until_done(lambda: host.driver.delete(wanted.server_id, quiet))


def build_guest(host: Host, build: g.GuestBuild) -> tuple[g.DeviceAddress, ...]:
    state, _, devices = until_done(lambda: host.driver.build(build, quiet))
    assert state == (RUNNING if build.start else OFF)
    found: tuple[g.DeviceAddress, ...] = devices
    return found


@pytest.mark.parametrize("start", [False, True], ids=["stopped", "running"])
def test_attach_and_detach(host: Host, build: g.GuestBuild, start: bool) -> None:
    """Twice each; all devices are told, with their tags. A guest that did not boot lets go when it is turned off."""
    server = build.server_id
    before = build_guest(host, build.replace(start=start))
    assert host.driver.devices(server) == before
    disk = host.volume(tag="data")
    devices = host.attach(server, disk)
    assert devices == host.attach(server, disk) == host.driver.devices(server)
    assert {d.tag for d in devices} == {"system", "data"}
    new = next(d for d in devices if d.tag == "data")
    assert (new.serial, new.bus) == (disk.serial, "pci")
    assert host.driver.disk_serials(server) == (disk.serial,)
    try:
        assert host.driver.detach_disk(server, disk.serial, quiet) is True
    except Again:
        assert start
        assert host.driver.disk_serials(server) == (disk.serial,)
        host.power(build, g.PowerAction.STOP)
        assert host.detach(server, disk.serial) is True
    assert host.detach(server, disk.serial) is False
    assert host.driver.disk_serials(server) == ()
    assert host.driver.devices(server) == before


def test_many_disks_and_a_hole(host: Host, build: g.GuestBuild) -> None:
    """A name and an address that became free are given again; the others stay where they are."""
    build_guest(host, build.replace(start=False))
    disks = [host.volume() for _ in range(3)]
    for disk in disks:
        host.attach(build.server_id, disk)
    host.detach(build.server_id, disks[1].serial)
    more = host.volume()
    devices = host.attach(build.server_id, more)
    assert len({d.address for d in devices}) == 4
    assert set(host.driver.disk_serials(build.server_id)) == {
        disks[0].serial,
        disks[2].serial,
        more.serial,
    }


def test_a_new_definition_has_exactly_the_disks_of_its_build(
    host: Host, build: g.GuestBuild
) -> None:
    """S32: at a start or hard reboot; what was attached and is not in the build is gone, what is in it is there."""
    build_guest(host, build.replace(start=False))
    forgotten, wanted = host.volume(), host.volume()
    host.attach(build.server_id, forgotten)
    full = build.replace(disks=(*build.disks, wanted))
    for action in (g.PowerAction.START, g.PowerAction.REBOOT_HARD):
        assert host.power(full, action) == RUNNING
        assert host.driver.disk_serials(build.server_id) == (wanted.serial,)
    assert host.power(build, g.PowerAction.REBOOT_HARD) == RUNNING
    assert host.driver.disk_serials(build.server_id) == ()


def test_a_server_without_local_disks(host: Host, build: g.GuestBuild) -> None:
    """Boot from volume; the delete leaves the volume alone."""
    root = host.volume(boot_index=0)
    made = build.replace(disks=(root,))
    devices = build_guest(host, made)
    assert [d.kind for d in devices] == ["disk"]
    assert host.driver.disk_serials(build.server_id) == (root.serial,)
    assert host.power(made, g.PowerAction.REBOOT_HARD) == RUNNING
    assert host.driver.delete(build.server_id, quiet) is True
    assert root.serial in {f.id for f in host.store.files() if f.kind == "volume"}
    assert host.store.extend(root.serial, 2, quiet).size_gib == 2


def test_copy_of_a_stopped_guests_disks(host: Host, build: g.GuestBuild) -> None:
    """Local or volume: a complete qcow2 file of the right size; doing it again is refused nowhere."""
    build_guest(host, build.replace(start=False))
    disk = host.volume(2)
    host.attach(build.server_id, disk)
    for serial, gib in (("root", 1), (disk.serial, 2)):
        target = host.scratch / f"{new_uuid()}.qcow2"
        until_done(lambda s=serial, t=target: host.driver.copy_disk(build.server_id, s, t, quiet))
        found = inspect(target, "qcow2", Limits(None))
        assert found.virtual_size == gib << 30
        host.driver.end_copy(build.server_id, target)
        assert not target.exists()
        host.driver.end_copy(build.server_id, target)


def test_copies_of_a_running_guests_disks(host: Host, build: g.GuestBuild) -> None:
    """Two at once wait for each other; each is whole, and another copy may be made of the same disk."""
    build_guest(host, build)
    disk = host.volume(2)
    host.attach(build.server_id, disk)
    wanted = [("root", 1), (disk.serial, 2), (disk.serial, 2)]
    targets = [host.scratch / f"{new_uuid()}.qcow2" for _ in wanted]
    waiting = dict(zip(targets, wanted, strict=True))
    for _ in range(1000):
        for target, (serial, gib) in list(waiting.items()):
            try:
                host.driver.copy_disk(build.server_id, serial, target, quiet)
            except Again as again:
                time.sleep(again.after_s / len(waiting))
                continue
            assert inspect(target, "qcow2", Limits(None)).virtual_size == gib << 30
            del waiting[target]
        if not waiting:
            break
    assert not waiting
    for target in targets:
        host.driver.end_copy(build.server_id, target)


def test_a_copy_outlives_libvirtd(host: Host, build: g.GuestBuild) -> None:
    """libvirtd is killed under the job, and our memory of it is lost: the copy is whole in the end."""
    if host.daemon is None:
        pytest.skip("simulated hosts have none")
    build_guest(host, build.replace(start=False))
    disk = host.volume(1)
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 512M", disk.path]
    subprocess.run(command, check=True, capture_output=True)
    host.attach(build.server_id, disk)
    host.power(build.replace(disks=(*build.disks, disk)), g.PowerAction.START)
    for restarted in (True, False):  # the driver's memory is kept, or lost
        target = host.scratch / f"{new_uuid()}.qcow2"
        with pytest.raises(Again):
            host.driver.copy_disk(build.server_id, disk.serial, target, quiet)
        host.daemon.kill(signal.SIGKILL)
        host.daemon.start()
        if not restarted:
            host.driver._copies = Copies(Owner(QEMU_ID))  # type: ignore[attr-defined]
        until_done(lambda t=target: _patiently(host, build.server_id, disk.serial, t))
        command = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 512M", str(target)]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0 and b"failed" not in done.stdout, (restarted, done)
        host.driver.end_copy(build.server_id, target)


def _patiently(host: Host, server: str, serial: str, target: Path) -> None:
    """Copy as the agent does: a hypervisor that is down is asked again."""
    try:
        host.driver.copy_disk(server, serial, target, quiet)
    except HypervisorDown as exc:
        raise Again(0.2) from exc


def test_an_aborted_copy_leaves_no_file(host: Host, build: g.GuestBuild) -> None:
    def abort(text: str) -> None:
        raise Aborted("enough")

    build_guest(host, build)
    target = host.scratch / f"{new_uuid()}.qcow2"
    with contextlib.suppress(Again):
        host.driver.copy_disk(build.server_id, "root", target, quiet)
    if host.driver.name != "fake":  # simulated copies are made at once
        with pytest.raises(Aborted):
            host.driver.copy_disk(build.server_id, "root", target, abort)
        assert not target.exists()
    host.driver.end_copy(build.server_id, target)
    assert not target.exists()
    until_done(lambda: host.driver.copy_disk(build.server_id, "root", target, quiet))
    assert target.exists()


def test_a_volume_is_not_removed_under_a_guest(host: Host, build: g.GuestBuild) -> None:
    """Whatever the control plane says: the data of a guest that runs stay."""
    build_guest(host, build)
    disk = host.volume()
    host.attach(build.server_id, disk)
    with pytest.raises(Again):
        host.store.remove(disk.serial, quiet)
    host.power(build, g.PowerAction.STOP)
    assert host.detach(build.server_id, disk.serial) is True
    assert host.store.remove(disk.serial, quiet) is True


def test_a_start_waits_for_the_copy_of_a_disk(
    host: Host, build: g.GuestBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU and the tool that copies would refuse each other the file."""
    if not isinstance(host.store, QcowVolumes):
        pytest.skip("simulated copies are made at once")
    root = host.volume(boot_index=0)
    made = build.replace(disks=(root,))
    build_guest(host, made.replace(start=False))
    asked: list[Path] = []

    def reads(path: Path) -> bool:
        asked.append(path)
        return len(asked) < 3

    monkeypatch.setattr(host.store.tools, "reads", reads)
    assert host.power(made, g.PowerAction.START) == RUNNING
    assert asked == [Path(root.path)] * 3


def test_growing(host: Host, build: g.GuestBuild) -> None:
    build_guest(host, build)
    disk = host.volume(1)
    host.attach(build.server_id, disk)
    for _ in range(2):
        host.driver.extend_disk(build.server_id, disk.serial, 2)
        assert host.store.extend(disk.serial, 2, quiet).size_gib == 2
    with pytest.raises(DriverError):
        host.driver.extend_disk(build.server_id, new_uuid(), 2)


def _elsewhere(host: Host, volume_id: str, generation: int) -> g.NbdDisk:
    """Make an empty volume at the other host and export it; return how it is reached."""
    make = v.VolumeMake(volume_id=volume_id, size_gib=1)
    until_done(lambda: host.other.make(make, quiet))
    export = v.VolumeExport(
        attachment_id=new_uuid(), volume_id=volume_id, name=new_uuid(), host="host1"
    )
    wanted = v.VolumeExports(host="host2", generation=generation, exports=(export,))
    applied = host.other.apply(wanted)
    return g.NbdDisk(
        name="v",
        host=applied.address,
        port=dict(applied.ports).get(export.attachment_id, applied.port),
        export=export.name,
        serial=volume_id,
        tls_name=applied.tls_name,
    )


def test_growing_over_nbd(host: Host, build: g.GuestBuild) -> None:
    """While the guest runs: its requests wait, it sees the new size, and all is as it was; each part twice."""
    volume = new_uuid()
    there = _elsewhere(host, volume, 1)
    build_guest(host, build)
    host.attach(build.server_id, there)
    with pytest.raises(DriverError):
        host.other.extend(volume, 2, quiet)
    hold = lambda: host.driver.hold_disk(build.server_id, volume)  # noqa: E731
    resume = lambda size: host.driver.resume_disk(build.server_id, volume, size)  # noqa: E731
    for size in (2, 3):
        for _ in range(2):
            hold()
        for _ in range(2):
            assert host.other.extend(volume, size, quiet, exported=True).size_gib == size
        for _ in range(2):
            resume(size)
        assert _size_seen(host, build.server_id, volume) in (None, size << 30)
    hold()
    resume(None)
    with pytest.raises(DriverError):
        host.driver.hold_disk(build.server_id, new_uuid())
    host.power(build, g.PowerAction.STOP)
    hold()
    resume(4)
    assert host.detach(build.server_id, volume) is True
    resume(4)
    with pytest.raises(GuestMissing):
        host.driver.hold_disk(new_uuid(), volume)
    host.other.apply(v.VolumeExports(host="host2", generation=2))
    assert until_done(lambda: host.other.remove(volume, quiet)) is True


def _size_seen(host: Host, server: str, volume: str) -> int | None:
    """Return the bytes that QEMU shows a guest, None where there is no QEMU."""
    if host.daemon is None:
        return None
    import libvirt

    conn = libvirt.open(host.daemon.uri)
    try:
        domain = conn.lookupByUUIDString(server)
        target = xml.target_of(xml.device_of(domain.XMLDesc(0), f"ua-{volume}"))
        return int(domain.blockInfo(target)[0])
    finally:
        conn.close()


def _pattern(path: str, verb: str) -> bool:
    """Write a pattern into a volume's file, or tell whether it is there."""
    words = ["qemu-io", "-f", "qcow2", "-c", f"{verb} -P 7 1M 64k", path]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return "verification failed" not in done.stdout


def test_a_volume_goes_to_another_host_under_a_guest(host: Host, build: g.GuestBuild) -> None:
    """There and back while it runs; each place can go once the guest is at the other, and is not in the way before."""
    here = host.volume()
    if host.daemon is not None:
        _pattern(here.path, "write")
    build_guest(host, build)
    host.attach(build.server_id, here)
    there = _elsewhere(host, here.serial, 3)
    swap = lambda disk: until_done(lambda: host.driver.swap_disk(build.server_id, disk, quiet))  # noqa: E731
    swap(here)
    with pytest.raises(Again):
        host.store.remove(here.serial, quiet)
    for _ in range(2):
        swap(there)
    assert host.driver.disk_serials(build.server_id) == (here.serial,)
    assert host.store.remove(here.serial, quiet) is True
    until_done(lambda: host.store.make(v.VolumeMake(volume_id=here.serial, size_gib=1), quiet))
    for _ in range(2):
        swap(here)
    host.other.apply(v.VolumeExports(host="host2", generation=4))
    assert until_done(lambda: host.other.remove(here.serial, quiet)) is True
    host.power(build, g.PowerAction.STOP)
    swap(here)
    with pytest.raises(DriverError):
        host.driver.swap_disk(build.server_id, there, quiet)
    with pytest.raises(GuestMissing):
        host.driver.swap_disk(new_uuid(), there, quiet)
    assert host.detach(build.server_id, here.serial) is True
    assert host.daemon is None or _pattern(here.path, "read")
    assert until_done(lambda: host.store.remove(here.serial, quiet)) is True


def test_a_swap_that_is_given_up(host: Host, build: g.GuestBuild) -> None:
    """Aborted or meant for elsewhere: the guest is where it was, and nothing copies any more."""
    here = host.volume()
    build_guest(host, build)
    host.attach(build.server_id, here)
    there = _elsewhere(host, here.serial, 5)

    def abort(text: str) -> None:
        raise Aborted("no more")

    if host.daemon is not None:
        with pytest.raises(Again):
            host.driver.swap_disk(build.server_id, there, quiet)
        with pytest.raises(Aborted):
            host.driver.swap_disk(build.server_id, there, abort)
        with pytest.raises(Again):
            host.driver.swap_disk(build.server_id, there, quiet)
    until_done(lambda: host.driver.swap_disk(build.server_id, here, quiet))
    host.other.apply(v.VolumeExports(host="host2", generation=6))
    assert until_done(lambda: host.other.remove(here.serial, quiet)) is True
    with pytest.raises(Again):
        host.store.remove(here.serial, quiet)
    host.power(build, g.PowerAction.STOP)
    assert host.detach(build.server_id, here.serial) is True
    assert until_done(lambda: host.store.remove(here.serial, quiet)) is True


def test_what_is_not_there_is_said(host: Host, build: g.GuestBuild) -> None:
    server, disk = new_uuid(), host.volume()
    for call in (
        lambda: host.driver.attach_disk(server, disk, quiet),
        lambda: host.driver.copy_disk(server, disk.serial, host.scratch / "x", quiet),
        lambda: host.driver.extend_disk(server, disk.serial, 2),
    ):
        with pytest.raises(GuestMissing):
            call()
    assert host.driver.detach_disk(server, disk.serial, quiet) is False
    assert host.driver.disk_serials(server) == ()
    assert host.driver.devices(server) == ()
    build_guest(host, build.replace(start=False))
    lost = disk.replace(path=str(Path(disk.path).with_name("gone.qcow2")))
    with pytest.raises(DriverError):
        host.driver.attach_disk(build.server_id, lost, quiet)
    with pytest.raises(DriverError):
        host.driver.copy_disk(build.server_id, new_uuid(), host.scratch / "y", quiet)
    assert host.driver.disk_serials(build.server_id) == ()
