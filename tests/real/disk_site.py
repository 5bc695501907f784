"""A real host with volumes whose guests answer SSH, in a network namespace of the test's own."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.objects import volume_orders as v
from kilonova.objects.base import Versioned
from kilonova.objects.order import Answer, AnswerState, Order, pack, unpack
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import Taps
from tests.real.private_libvirtd import QEMU_ID, Libvirtd, private_libvirtd
from tests.real.test_libvirt_driver import BUILD, Site, eventually, perform
from tests.unit.agent_kit import Cloud, order_of

OURS, GUEST, CIDR = "192.0.2.1", "192.0.2.2", "192.0.2.0/24"


class Wire(Taps):
    """A network namespace in which libvirtd and its guests live; the test speaks SSH from there, over the tap."""

    def __init__(self) -> None:
        super().__init__()
        self.ns = f"kntest-vd-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.ns], check=True)
        subprocess.run(["ip", "-n", self.ns, "link", "set", "lo", "up"], check=True)

    def plug(self, port_id: str) -> None:
        """Make the tap; the one before is gone, for one guest at a time has the address."""
        self.unplug()
        tap = self.tap_of(port_id)
        for words in (
            ("tuntap", "add", "dev", tap, "mode", "tap"),
            ("address", "add", f"{OURS}/24", "dev", tap),
            ("link", "set", tap, "up"),
        ):
            subprocess.run(["ip", "-n", self.ns, *words], check=True)
        self.made.append(tap)

    def unplug(self) -> None:
        for tap in self.made:
            subprocess.run(["ip", "-n", self.ns, "link", "delete", tap], check=True)
        self.made.clear()

    def close(self) -> None:
        """Remove the namespace, and the taps with it."""
        subprocess.run(["ip", "netns", "delete", self.ns], check=False)


class DiskSite(Site):
    """Site, with a volume store and one guest at a time that answers SSH."""

    def __init__(self, daemon: Libvirtd, image: Path, cloud: Cloud, wire: Wire) -> None:
        super().__init__(daemon, image, cloud)
        self.taps = self.wire = wire
        self.key = daemon.root / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True
        )
        self.epoch = 100
        self.store: QcowVolumes

    def begin(self, boot: str = "boot1", address: str | None = None) -> None:
        images = self.image_cache()
        config = VolumesConfig(self.daemon.root / "volumes", "host1", QEMU_ID, address)
        self.store = QcowVolumes(config, images, lambda *_: None)
        self.cloud.volumes["host1"] = self.store
        super().begin(boot)

    def guest(self, *volumes: g.Disk, **changes: object) -> g.GuestBuild:
        """Build a guest that answers SSH; with a volume of boot_index 0 it has no local disk."""
        build = self.build()
        nic = build.nics[0]
        address = g.AddressConfig(address=GUEST, cidr=CIDR, dhcp=False)
        config = g.NicConfig(
            port_id=nic.port_id,
            network_id=nic.network_id,
            mac=nic.mac,
            mtu=nic.mtu,
            addresses=(address,),
        )
        public = self.key.with_suffix(".pub").read_text().strip()
        document = build.metadata.replace(networks=(config,), keys=(("k", "ssh", public),))
        boots = any(d.boot_index == 0 for d in volumes)
        disks = volumes if boots else (*build.disks, *volumes)
        build = build.replace(metadata=document, disks=disks, **changes)
        answer = perform(self.cloud, order_of(build))
        assert answer.state == AnswerState.DONE, answer
        return build

    def order(self, payload: Versioned, verb: str) -> Answer:
        """Perform an order about a volume or a guest."""
        self.epoch += 1
        about = getattr(payload, "server_id", None) or payload.volume_id  # type: ignore[attr-defined]
        order: Order = order_of(g.GuestDelete(server_id=about), verb, epoch=self.epoch)
        answer = perform(self.cloud, order.replace(body=pack(payload)))
        assert answer.state == AnswerState.DONE, answer
        return answer

    def volume(self, size_gib: int = 1, **more: object) -> g.FileDisk:
        make = v.VolumeMake(volume_id=new_uuid(), size_gib=size_gib, **more)  # type: ignore[arg-type]
        made = unpack(self.order(make, "volume_make").body, v.VolumeMade)
        return g.FileDisk(name="v", path=made.path, format=made.format, serial=make.volume_id)

    def attach(self, server: str, disk: g.FileDisk | g.NbdDisk) -> None:
        self.order(g.GuestAttachDisk(server_id=server, disk=disk), "guest_attach_disk")

    def detach(self, server: str, serial: str) -> None:
        self.order(g.GuestDetachDisk(server_id=server, serial=serial), "guest_detach_disk")

    def ssh(self, command: str) -> str:
        """Return what a command printed in the guest; it must succeed."""
        done = self.try_ssh(command)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def try_ssh(self, command: str) -> "subprocess.CompletedProcess[str]":
        options = [
            "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes",
            "LogLevel=ERROR", "ConnectTimeout=10",
        ]  # fmt: skip
        line = ["ssh", "-i", str(self.key), *(w for o in options for w in ("-o", o))]
        return subprocess.run(
            ["ip", "netns", "exec", self.wire.ns, *line, f"root@{GUEST}", command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def answers(self) -> None:
        """Wait until the guest answers SSH."""
        eventually(lambda: self.try_ssh("true").returncode == 0, "the guest does not answer SSH")

    def device(self, serial: str) -> str:
        """Return the name that a volume has in the guest, "" when it is not there."""
        return self.ssh(
            f'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "{serial[:20]}" ]'
            " && echo ${d##*/}; done; true"
        )

    def sees(self, serial: str) -> tuple[str, float]:
        """Wait until the guest sees a volume; return its name and the seconds that took."""
        began, name = time.monotonic(), ""
        while not name:
            assert time.monotonic() - began < 60, "the guest does not see the volume"
            name = self.device(serial)
        return name, time.monotonic() - began


@contextmanager
def disk_site(directory: Path) -> Iterator[DiskSite]:
    """Run one; afterwards nothing of it is left."""
    image = directory / "tiny.qcow2"
    subprocess.run([str(BUILD), str(image)], capture_output=True, text=True, check=True)
    with ExitStack() as stack:
        wire = Wire()
        stack.callback(wire.close)
        daemon = stack.enter_context(private_libvirtd(wire.ns))
        cloud = Cloud()
        stack.callback(cloud.close)
        site = DiskSite(daemon, image, cloud, wire)
        site.begin()
        stack.callback(lambda: site.store.apply(v.VolumeExports(host="host1", generation=1 << 40)))
        yield site
