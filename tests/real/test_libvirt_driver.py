"""A real guest on a real disk, by orders through the agent: it reads its config drive, obeys its power button,
outlives libvirtd and the agent, tells when it ends by itself, and starts again after its host went down.

Needs root, libvirtd, QEMU, genisoimage and a Debian mirror or a filled cache (KILONOVA_CACHE).
"""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kilonova.agent.core import Agent
from kilonova.agent.images import ImageCache
from kilonova.agent.journal import Journal
from kilonova.agent.metadata import configdrive
from kilonova.image.safe_convert import convert_to_qcow2
from kilonova.objects import guest as g
from kilonova.objects import query as q
from kilonova.objects.host import GuestEvent, OwnedServer
from kilonova.objects.order import AnswerState, unpack
from kilonova.virt.libvirt.domains import LibvirtConfig
from kilonova.virt.libvirt.driver import LibvirtDriver
from tests.contracts.test_driver import Taps
from tests.real.private_libvirtd import QEMU_ID, Libvirtd, possible, private_libvirtd
from tests.unit.agent_kit import Cloud, build_of, order_of

GUARD_S = 240.0
BUILD = Path(__file__).resolve().parents[2] / "guest-image" / "build"
PASSWORD = "s3cret-only-once"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not possible(), reason="needs root, libvirtd, QEMU and genisoimage"),
]


def eventually(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


class Site:
    """One host: libvirtd, its disks, and an agent that can be begun anew."""

    def __init__(self, daemon: Libvirtd, image: Path, cloud: Cloud) -> None:
        self.daemon = daemon
        self.image = image
        self.cloud = cloud
        self.taps = Taps()
        self.opened = 0
        self.journal = daemon.root / "journal.sqlite"
        self.instances = daemon.root / "instances"
        self.driver: LibvirtDriver
        self.agent: Agent

    def image_cache(self) -> ImageCache:
        return ImageCache(
            self.daemon.root / "images", convert_to_qcow2, open_image=self._open, group=QEMU_ID
        )

    def begin(self, boot: str = "boot1") -> None:
        images = self.image_cache()
        config = LibvirtConfig(lambda: self.daemon.uri, self.instances, "test-cloud", group=QEMU_ID)
        self.driver = LibvirtDriver(config, images, self.taps, configdrive.build)
        self.agent = self.cloud.agent(driver=self.driver, boot=boot, journal=Journal(self.journal))

    def _open(self, image_id: str):
        self.opened += 1
        return self.image.open("rb")

    def log(self, server: str) -> str:
        answer = self.cloud.conductor.ask("host1", q.ConsoleLogQuery(server_id=server))
        return answer.text if isinstance(answer, q.ConsoleLog) else ""

    def ready(self, server: str, times: int = 1) -> None:
        eventually(
            lambda: self.log(server).count("GUEST READY") >= times,
            f"not ready: {self.log(server)[-2000:]}",
        )

    def build(self, **changes: object) -> g.GuestBuild:
        data = self.image.read_bytes()
        build = build_of(nics=1).replace(
            memory_mib=192,
            disks=(g.LocalDisk(name="root", size_gib=1, image_id="i1", boot_index=0, tag="sys"),),
            images=(
                g.ImageSource(
                    image_id="i1",
                    url="image:i1",
                    disk_format="qcow2",
                    size=len(data),
                    hash_algo="sha512",
                    hash_value=hashlib.sha512(data).hexdigest(),
                ),
            ),
            config_drive=True,
        )
        build = build.replace(
            metadata=build.metadata.replace(admin_password=PASSWORD, hostname="web-7"),
            **changes,
        )
        for nic in build.nics:
            self.taps.plug(nic.port_id)
        return build

    def power(self, build: g.GuestBuild, action: g.PowerAction, epoch: int, **more: object) -> int:
        public = build.replace(metadata=build.metadata.replace(admin_password=None))
        payload = g.GuestPower(server_id=build.server_id, action=action, build=public, **more)
        order = order_of(payload, "guest_power", epoch=epoch)
        answer = perform(self.cloud, order)
        assert answer.state == AnswerState.DONE, answer
        return unpack(answer.body, g.GuestState).power_state


def perform(cloud: Cloud, order):
    cloud.conductor.send(order)
    eventually(
        lambda: [
            a
            for a in cloud.conductor.answers
            if a.operation == order.operation and a.state != AnswerState.RUNNING
        ],
        "no answer",
    )
    return cloud.conductor.final(order)


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("image")
    image = directory / "tiny.qcow2"
    made = subprocess.run([str(BUILD), str(image)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"the guest image cannot be built here: {made.stderr[-300:]}")
    with ExitStack() as stack:
        daemon = stack.enter_context(private_libvirtd())
        cloud = Cloud()
        stack.callback(cloud.close)
        site = Site(daemon, image, cloud)
        stack.callback(site.taps.close)
        site.begin()
        yield site


def qemu_pids(site: Site) -> list[int]:
    found = []
    for pid_file in (site.daemon.root / "run" / "qemu").glob("kn-*.pid"):
        found.append(int(pid_file.read_text()))
    return found


def test_a_guest_and_what_happens_to_its_host(site: Site) -> None:
    """R2 (host side), R14: one guest from its first boot to its delete."""
    cloud, conductor = site.cloud, site.cloud.conductor
    build = site.build()
    server = build.server_id
    began = time.monotonic()
    answer = perform(cloud, order_of(build))
    assert answer.state == AnswerState.DONE, answer
    built = unpack(answer.body, g.GuestBuilt)
    print(f"order to running {time.monotonic() - began:.1f} s")
    assert [d.kind for d in built.devices] == ["nic", "disk"]
    site.ready(server)
    print(f"order to GUEST READY {time.monotonic() - began:.1f} s")
    text = site.log(server)
    assert f"uuid={server} hostname=web-7 source=config-drive" in text
    assert "GUEST CONFIG-DRIVE" in text
    nic, disk = built.devices
    assert f"mac={nic.mac}" in text
    assert f"serial=root pci={disk.address}" in text
    # the agent's own files keep no password, and nobody else may read them
    assert PASSWORD.encode() not in site.journal.read_bytes()
    for place in (site.instances / server, *(site.instances / server).iterdir()):
        assert place.stat().st_mode & 0o007 == 0 or place.is_socket(), place

    # the agent and libvirtd die; the guest goes on, and is adopted
    pids = qemu_pids(site)
    assert len(pids) == 1
    site.agent.close()
    site.daemon.kill(signal.SIGKILL)
    site.daemon.start()
    site.begin()
    assert qemu_pids(site) == pids
    assert site.driver.guests() == {server: 1}

    # libvirtd dies under a running agent, which finds it again and hears events
    site.daemon.kill(signal.SIGKILL)
    site.daemon.start()
    eventually(lambda: answers(lambda: site.driver.guests() == {server: 1}), "not connected again")
    eventually(lambda: (site.instances / server / "vnc.sock").exists(), "no display")

    # it obeys its power button: it would be turned off by force only after an hour
    assert site.power(build, g.PowerAction.STOP, 2, timeout_s=3600.0) == g.PowerState.SHUTDOWN
    assert site.power(build, g.PowerAction.START, 3) == g.PowerState.RUNNING
    site.ready(server, 2)

    # memory to disk and back: the same boot goes on
    assert site.power(build, g.PowerAction.SUSPEND, 4) == g.PowerState.SUSPENDED
    assert site.power(build, g.PowerAction.RESUME, 5) == g.PowerState.RUNNING
    assert site.log(server).count("GUEST READY") == 2

    # QEMU is killed: a guest that ended without an order is told of
    heard = len(conductor.heard(GuestEvent))
    os.kill(qemu_pids(site)[0], signal.SIGKILL)
    eventually(lambda: len(conductor.heard(GuestEvent)) > heard, "nobody told of the guest's end")
    assert conductor.heard(GuestEvent)[-1].power_state in (
        g.PowerState.SHUTDOWN,
        g.PowerState.CRASHED,
    )
    assert site.power(build, g.PowerAction.START, 6) == g.PowerState.RUNNING
    site.ready(server, 3)

    # the host goes down and comes back: what was wanted is started after the registration
    site.agent.close()
    site.daemon.kill()
    for pid in qemu_pids(site):
        os.kill(pid, signal.SIGKILL)
    site.daemon.start()
    conductor.owned = (OwnedServer(server_id=server, epoch=6, wanted_power=g.PowerState.RUNNING),)
    site.begin("boot2")
    eventually(lambda: site.driver.guests() == {server: 1}, "not started after the boot")
    site.ready(server, 4)

    # gone, with everything
    gone = order_of(g.GuestDelete(server_id=server), "guest_delete", epoch=7)
    assert unpack(perform(cloud, gone).body, g.GuestGone).existed is True
    assert site.driver.guests() == {}
    assert list(site.instances.iterdir()) == []
    assert site.opened == 1, "the image was fetched once"


def answers(call: Callable[[], bool]) -> bool:
    from kilonova.virt.driver import DriverError

    try:
        return call()
    except DriverError:
        return False


def test_image_that_lies_and_image_that_is_too_big(site: Site) -> None:
    """S1: what is refused leaves nothing once it is undone."""
    build = site.build()
    wrong = build.images[0].replace(disk_format="vmdk")
    answer = perform(site.cloud, order_of(build.replace(images=(wrong,))))
    assert answer.state == AnswerState.FAILED
    assert answer.message
    small = g.LocalDisk(name="root", size_gib=0, size_mib=8, image_id="i1", boot_index=0)
    answer = perform(site.cloud, order_of(build.replace(disks=(small,)), epoch=2))
    assert answer.state == AnswerState.FAILED
    assert "too small" in (answer.message or "")
    gone = order_of(g.GuestDelete(server_id=build.server_id), "guest_delete", epoch=3)
    assert perform(site.cloud, gone).state == AnswerState.DONE
    assert list(site.instances.iterdir()) == []
