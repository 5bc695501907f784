"""What every virt driver promises, on the simulated and on the real one (DESIGN 8, R14).

The real guests have an empty disk: the BIOS runs, which is all that power states need.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.images import CachedImage
from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.virt.driver import Aborted, Again, Driver, DriverError, GuestMissing
from kilonova.virt.fake.world import World
from tests.real.private_libvirtd import QEMU_ID, possible, private_libvirtd

GUARD_S = 120.0
RUNNING, PAUSED, OFF = g.PowerState.RUNNING, g.PowerState.PAUSED, g.PowerState.SHUTDOWN
SUSPENDED = g.PowerState.SUSPENDED
real = pytest.mark.skipif(not possible(), reason="needs root, libvirtd, QEMU and genisoimage")


def quiet(text: str) -> None:
    """Nobody watches."""


def until_done(call: Callable[[], Any]) -> Any:
    """Call again as the agent does."""
    end = time.monotonic() + GUARD_S
    while True:
        try:
            return call()
        except Again as again:
            assert time.monotonic() < end
            time.sleep(again.after_s)


class Taps:
    """Taps of the machine's own namespace, made by hand."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def tap_of(self, port_id: str) -> str:
        return f"kt{port_id[:11]}"

    def plug(self, port_id: str) -> None:
        name = self.tap_of(port_id)
        subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
        self.made.append(name)

    def close(self) -> None:
        for name in self.made:
            subprocess.run(["ip", "link", "del", name], check=False)


@dataclass
class Host:
    driver: Driver
    plug: Callable[[str], None]
    left: Callable[[str], object]  # what is left of a server
    lose_sight: Callable[[], None] = lambda: None
    stranger: Callable[[str], None] | None = None
    made: list[str] = field(default_factory=list)

    def build(self, b: g.GuestBuild) -> tuple[int, g.Hardware, tuple[g.DeviceAddress, ...]]:
        self.made.append(b.server_id)
        result: tuple[int, g.Hardware, tuple[g.DeviceAddress, ...]] = until_done(
            lambda: self.driver.build(b, quiet)
        )
        return result

    def power(self, b: g.GuestBuild, action: g.PowerAction, timeout_s: float = 0.5) -> int:
        state: int = until_done(lambda: self.driver.power(b.server_id, action, timeout_s, b, quiet))
        return state


class EmptyImages:
    """Every image is an empty disk of 16 MiB."""

    def link(self, source: g.ImageSource, target: Path, progress: Any) -> CachedImage:
        if not target.exists():
            command = ["qemu-img", "create", "-q", "-f", "qcow2", str(target), "16M"]
            subprocess.run(command, check=True)
            target.chmod(0o644)
        return CachedImage(target, 16 << 20)


def simulated(stack: ExitStack, tmp_path: Path) -> Host:
    world = World(tmp_path / "guests.sqlite")
    stack.callback(world.close)
    return Host(
        world.driver("host1"),
        lambda port: None,
        lambda server: [x for x in world.ledger() if x.server == server],
    )


def by_libvirt(stack: ExitStack, tmp_path: Path) -> Host:
    import libvirt

    from kilonova.agent.metadata import configdrive
    from kilonova.virt.libvirt.domains import LibvirtConfig
    from kilonova.virt.libvirt.driver import LibvirtDriver

    daemon = stack.enter_context(private_libvirtd())
    taps = Taps()
    stack.callback(taps.close)
    instances = daemon.root / "instances"
    driver = LibvirtDriver(
        LibvirtConfig(lambda: daemon.uri, instances, "test-cloud", group=QEMU_ID),
        EmptyImages(),
        taps,
        configdrive.build,
    )
    stack.callback(driver.close)

    def stranger(server: str) -> None:
        conn = libvirt.open(daemon.uri)
        conn.defineXML(
            f"<domain type='qemu'><name>theirs</name><uuid>{server}</uuid><memory>65536</memory>"
            "<os><type>hvm</type></os></domain>"
        )
        conn.close()

    def left(server: str) -> object:
        return list(instances.glob(f"{server}*"))

    return Host(driver, taps.plug, left, stranger=stranger)


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
    server, port = new_uuid(), new_uuid()
    host.plug(port)
    yield g.GuestBuild(
        server_id=server,
        name="contract ✓ & <co>",
        project_id="p",
        vcpus=1,
        memory_mib=64,
        disks=(
            g.LocalDisk(name="root", size_gib=1, boot_index=0, tag="system"),
            g.LocalDisk(name="ephemeral0", size_gib=0, size_mib=16),
            g.LocalDisk(name="swap", size_gib=0, size_mib=16),
        ),
        nics=(
            g.TapNic(port_id=port, network_id="n", mac="fa:16:3e:01:02:03", mtu=1450, tag="first"),
        ),
        images=(),
        hardware=g.Hardware(),
        metadata=g.MetadataDocument(
            server_id=server,
            generation=1,
            name="contract",
            hostname="contract",
            project_id="p",
            availability_zone="nova",
        ),
        config_drive=True,
    )
    host.driver.delete(server, quiet)


def test_life_of_a_guest(host: Host, build: g.GuestBuild) -> None:
    """Every power state and action, each done twice; the end leaves nothing."""
    state, hardware, devices = host.build(build)
    assert state == RUNNING
    assert hardware.machine not in (None, "pc", "q35")
    assert hardware.virt_type is not None
    nic, *disks = devices
    assert (nic.kind, nic.mac, nic.tag, nic.bus) == ("nic", "fa:16:3e:01:02:03", "first", "pci")
    assert nic.address.startswith("0000:")
    assert [(d.kind, d.tag) for d in disks] == [("disk", "system"), ("disk", None), ("disk", None)]
    again = host.build(build.replace(hardware=hardware))
    assert again == (state, hardware, devices)
    assert host.driver.guests()[build.server_id] == RUNNING
    assert host.driver.ports(build.server_id) == (build.nics[0].port_id,)
    local = sorted(d.name for d in build.disks if isinstance(d, g.LocalDisk))
    assert host.driver.local_disks()[build.server_id] == tuple(local)
    for action, wanted in (
        (g.PowerAction.PAUSE, PAUSED),
        (g.PowerAction.UNPAUSE, RUNNING),
        (g.PowerAction.SUSPEND, SUSPENDED),
        (g.PowerAction.RESUME, RUNNING),
        (g.PowerAction.REBOOT_HARD, RUNNING),
        (g.PowerAction.REBOOT_SOFT, RUNNING),
        (g.PowerAction.STOP, OFF),
        (g.PowerAction.START, RUNNING),
    ):
        assert host.power(build, action) == wanted, action
        if action not in (g.PowerAction.SUSPEND, g.PowerAction.REBOOT_SOFT):
            assert host.power(build, action) == wanted, action
        assert host.driver.guests()[build.server_id] == wanted
    assert host.left(build.server_id)
    assert host.driver.delete(build.server_id, quiet) is True
    assert host.driver.delete(build.server_id, quiet) is False
    assert not host.left(build.server_id)
    assert build.server_id not in host.driver.guests()
    assert build.server_id not in host.driver.local_disks()
    assert host.driver.ports(build.server_id) == ()


def test_built_in_two_halves(host: Host, build: g.GuestBuild) -> None:
    """Defined first, started when the network is there."""
    state, _, devices = host.build(build.replace(start=False))
    assert state == OFF
    state, _, same = host.build(build)
    assert (state, same) == (RUNNING, devices)


def test_suspended_guest_can_be_deleted_and_hard_rebooted(host: Host, build: g.GuestBuild) -> None:
    host.build(build)
    host.power(build, g.PowerAction.SUSPEND)
    assert host.power(build, g.PowerAction.REBOOT_HARD) == RUNNING
    host.power(build, g.PowerAction.SUSPEND)
    assert host.driver.delete(build.server_id, quiet) is True
    assert not host.left(build.server_id)


def test_counters_and_console_log(host: Host, build: g.GuestBuild) -> None:
    host.build(build)
    facts = host.driver.diagnostics(build.server_id)
    assert facts["num_cpus"] == 1
    assert facts["num_nics"] == 1
    assert facts["nic_details"][0]["mac_address"] == "fa:16:3e:01:02:03"  # type: ignore[index]
    log = host.driver.console_log(build.server_id, None)
    assert isinstance(log, str)
    assert host.driver.console_log(build.server_id, 0) == ""
    host.power(build, g.PowerAction.STOP, 0)
    with pytest.raises(DriverError):
        host.driver.diagnostics(build.server_id)


def test_what_is_not_there_is_said(host: Host) -> None:
    server = new_uuid()
    nic = g.TapNic(port_id=new_uuid(), network_id="n", mac="fa:16:3e:0a:0b:0c", mtu=1450)
    for call in (
        lambda: host.driver.power(server, g.PowerAction.STOP, 0, None, quiet),
        lambda: host.driver.power(server, g.PowerAction.START, 0, None, quiet),
        lambda: host.driver.console_log(server, None),
        lambda: host.driver.diagnostics(server),
        lambda: host.driver.attach_nic(server, nic, quiet),
    ):
        with pytest.raises(GuestMissing):
            call()
    assert host.driver.detach_nic(server, nic.port_id, quiet) is False
    assert host.driver.ports(server) == ()


def test_aborted_build_leaves_what_a_delete_removes(host: Host, build: g.GuestBuild) -> None:
    def abort(text: str) -> None:
        raise Aborted("enough")

    with pytest.raises(Aborted):
        host.driver.build(build.replace(faults=("build_hang",)), abort)
    host.driver.delete(build.server_id, quiet)
    assert not host.left(build.server_id)


def test_stop_waits_for_the_guest_without_a_thread_and_can_be_aborted(
    host: Host, build: g.GuestBuild
) -> None:
    """An empty disk's BIOS does not obey the power button."""
    if host.driver.name == "fake":
        pytest.skip("simulated guests obey at once")
    host.build(build)
    server = build.server_id
    with pytest.raises(Again):
        host.driver.power(server, g.PowerAction.STOP, 60, None, quiet)

    def abort(text: str) -> None:
        raise Aborted("enough")

    with pytest.raises(Aborted):
        host.driver.power(server, g.PowerAction.STOP, 60, None, abort)
    assert host.driver.guests()[server] == RUNNING


def test_a_nic_comes_and_goes(host: Host, build: g.GuestBuild) -> None:
    """Into a guest that runs and out of one that is off, each twice; what was there before stays in its place."""
    _, _, before = host.build(build)
    server, port = build.server_id, new_uuid()
    nic = g.TapNic(port_id=port, network_id="n", mac="fa:16:3e:0a:0b:0c", mtu=1450, tag="second")
    host.plug(port)
    device = host.driver.attach_nic(server, nic, quiet)
    assert (device.kind, device.mac, device.tag, device.bus) == ("nic", nic.mac, "second", "pci")
    assert device.address not in [d.address for d in before]
    assert host.driver.attach_nic(server, nic, quiet) == device
    assert host.driver.ports(server) == (build.nics[0].port_id, port)
    more = build.replace(nics=(*build.nics, nic))
    assert host.power(more, g.PowerAction.REBOOT_HARD) == RUNNING
    assert host.driver.attach_nic(server, nic, quiet).mac == nic.mac
    if host.driver.name == "libvirt":
        assert set(before) < set(host.build(more)[2])
        with pytest.raises(Again):  # its BIOS never lets go of anything
            host.driver.detach_nic(server, port, quiet)
        assert host.driver.ports(server) == (build.nics[0].port_id, port)
        assert host.power(more, g.PowerAction.STOP, 0) == OFF
    assert host.driver.detach_nic(server, port, quiet) is True
    assert host.driver.detach_nic(server, port, quiet) is False
    assert host.driver.ports(server) == (build.nics[0].port_id,)
    assert host.driver.attach_nic(server, nic, quiet).mac == nic.mac
    assert host.driver.ports(server) == (build.nics[0].port_id, port)


def test_a_pci_express_machine_takes_a_nic_too(host: Host, build: g.GuestBuild) -> None:
    if host.driver.name == "fake":
        pytest.skip("simulated guests have no buses")
    host.build(build.replace(hardware=g.Hardware(machine="q35")))
    nic = g.TapNic(port_id=new_uuid(), network_id="n", mac="fa:16:3e:0a:0b:0d", mtu=1450)
    host.plug(nic.port_id)
    device = host.driver.attach_nic(build.server_id, nic, quiet)
    assert (device.bus, device.address.startswith("0000:00")) == ("pci", False)


def test_open_vswitch_is_refused_by_name(host: Host, build: g.GuestBuild) -> None:
    nic = g.OvsNic(port_id=new_uuid(), network_id="n", mac="fa:16:3e:0:0:1", mtu=1500, bridge="b")
    assert "Open vSwitch" in (host.driver.refuses(build.replace(nics=(nic,))) or "")
    assert host.driver.refuses(build) is None


def test_inventory(host: Host) -> None:
    has = host.driver.inventory()
    assert has.vcpus > 0
    assert has.memory_mib > 0
    assert has.disk_gib > 0
    assert "COMPUTE_IMAGE_TYPE_QCOW2" in has.traits


def test_strangers_are_named_and_never_touched(host: Host, build: g.GuestBuild) -> None:
    """R14: a domain that is not ours stays, though an order names its id."""
    if host.stranger is None:
        pytest.skip("nobody else makes guests on a simulated host")
    host.stranger(build.server_id)
    assert host.driver.strangers() == ["theirs"]
    assert build.server_id not in host.driver.guests()
    for call in (
        lambda: host.driver.delete(build.server_id, quiet),
        lambda: host.driver.build(build, quiet),
        lambda: host.driver.power(build.server_id, g.PowerAction.START, 0, build, quiet),
    ):
        with pytest.raises(DriverError, match="not ours"):
            call()
    assert host.driver.strangers() == ["theirs"]
    _undefine(host, build.server_id)


def _undefine(host: Host, server: str) -> None:
    conn = host.driver._connection.get()  # type: ignore[attr-defined]
    conn.lookupByUUIDString(server).undefine()
