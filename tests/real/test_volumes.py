"""Volumes in real guests: written by SSH, taken out and read back, as files and over NBD; kept, grown, booted from.

Needs root, libvirtd, QEMU, genisoimage and a Debian mirror or a filled cache (KILONOVA_CACHE).
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from kilonova.common.host_certificates import HostAuthority
from kilonova.common.ids import new_uuid
from kilonova.image.inspect import Limits, inspect
from kilonova.objects import guest as g
from kilonova.objects import volume_orders as v
from kilonova.objects.order import AnswerState, unpack
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import EmptyImages, until_done
from tests.real.disk_site import DiskSite, disk_site
from tests.real.private_libvirtd import QEMU_ID, possible
from tests.real.test_libvirt_driver import eventually

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not possible(), reason="needs root, libvirtd, QEMU and genisoimage"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskSite]:
    try:
        with disk_site(tmp_path_factory.mktemp("image")) as site:
            yield site
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"the guest image cannot be built here: {exc}")


BLOCKS = (1 << 30) // 512
FAR, NEAR = "198.51.100.1", "198.51.100.2"


def write(site: DiskSite, serial: str, text: str) -> None:
    name, _ = site.sees(serial)
    site.ssh(f"echo {text} | dd of=/dev/{name} bs=512 conv=sync,fsync 2>/dev/null")


def read(site: DiskSite, serial: str) -> str:
    name, _ = site.sees(serial)
    return site.ssh(f"dd if=/dev/{name} bs=512 count=1 2>/dev/null | tr -d '\\0'")


def export_of(disk: g.FileDisk) -> v.VolumeExport:
    return v.VolumeExport(
        attachment_id=new_uuid(), volume_id=disk.serial, name=new_uuid().replace("-", "")
    )


def daemon_pid(site: DiskSite) -> int:
    return int((site.daemon.root / "volumes" / "daemon" / "pid").read_text())


def test_volumes_of_a_running_guest(site: DiskSite) -> None:
    """One guest, from the first attach to its delete; what is made is removed, and no part file is left."""
    build = site.guest()
    server = build.server_id
    site.answers()
    disk = site.volume(1)
    site.attach(server, disk)
    write(site, disk.serial, "first")
    site.detach(server, disk.serial)
    assert site.device(disk.serial) == ""
    site.attach(server, disk)
    assert read(site, disk.serial) == "first"

    # one moment of a disk that the guest goes on writing, by its driver
    name = site.device(disk.serial)
    site.ssh(
        f"(while true; do dd if=/dev/urandom of=/dev/{name} bs=64k seek=16 count=64 conv=fsync; done)"
        " >/dev/null 2>&1 & echo $! >/tmp/writer"
    )
    snapshot = new_uuid()
    keep = v.SnapshotMake(volume_id=disk.serial, snapshot_id=snapshot, attached_to=server)
    made = unpack(site.order(keep, "snapshot_make").body, v.VolumeMade)
    site.ssh("kill $(cat /tmp/writer)")
    assert inspect(Path(made.path), "qcow2", Limits(None)).virtual_size == 1 << 30
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", made.path], check=True)
    write(site, disk.serial, "second")
    copy = site.volume(1, snapshot_id=snapshot)
    site.attach(server, copy)
    assert read(site, copy.serial) == "first"

    # it grows under the guest
    grow = v.VolumeExtend(volume_id=disk.serial, size_gib=2, attached_to=server)
    assert unpack(site.order(grow, "volume_extend").body, v.VolumeMade).size_gib == 2
    sectors = f"cat /sys/block/{name}/size"
    eventually(lambda: site.ssh(sectors) == str((2 << 30) // 512), "the guest sees no growth")

    # a definition made anew has what its build has, and nothing else
    wanted = build.replace(disks=(*build.disks, disk))
    reboot = g.GuestPower(server_id=server, action=g.PowerAction.REBOOT_HARD, build=wanted)
    assert site.order(reboot, "guest_power").state == AnswerState.DONE
    site.answers()
    assert read(site, disk.serial) == "second"
    assert site.device(copy.serial) == ""
    site.detach(server, disk.serial)

    site.order(v.VolumeRemove(volume_id=copy.serial), "volume_remove")
    gone = v.SnapshotRemove(volume_id=disk.serial, snapshot_id=snapshot)
    site.order(gone, "snapshot_remove")
    assert [(f.kind, f.id) for f in site.store.files()] == [("volume", disk.serial)]
    _over_nbd(site, server, disk)
    site.order(g.GuestDelete(server_id=server), "guest_delete")
    site.order(v.VolumeRemove(volume_id=disk.serial), "volume_remove")
    assert site.store.files() == ()


def _over_nbd(site: DiskSite, server: str, disk: g.FileDisk) -> None:
    """The same volume by an export: read, written, kept; its process outlives ours and is made anew when it dies."""
    export = export_of(disk)
    wanted = v.VolumeExports(host="host1", generation=1, exports=(export,))
    applied = site.store.apply(wanted)
    assert applied.failed == ()
    nbd = g.NbdDisk(
        name="v", host=applied.address, port=applied.port, export=export.name, serial=disk.serial
    )
    site.attach(server, nbd)
    assert read(site, disk.serial) == "second"
    write(site, disk.serial, "third")
    pid = daemon_pid(site)
    site.agent.close()
    site.begin()
    assert daemon_pid(site) == pid
    assert read(site, disk.serial) == "third"
    snapshot = new_uuid()
    keep = v.SnapshotMake(volume_id=disk.serial, snapshot_id=snapshot)
    site.order(keep, "snapshot_make")
    write(site, disk.serial, "fourth")
    site.order(v.SnapshotRemove(volume_id=disk.serial, snapshot_id=snapshot), "snapshot_remove")
    site.detach(server, disk.serial)
    os.kill(pid, signal.SIGKILL)
    again = site.store.check()
    assert again is not None and again.failed == ()
    assert daemon_pid(site) != pid
    site.attach(server, nbd)
    assert read(site, disk.serial) == "fourth"
    site.detach(server, disk.serial)
    assert site.store.apply(v.VolumeExports(host="host1", generation=2)).failed == ()
    assert not (site.daemon.root / "volumes" / "daemon" / "pid").exists()


def test_boot_from_volume(site: DiskSite) -> None:
    """A server without any local disk; its delete leaves the volume, and another one finds what it wrote."""
    image = site.build().images[0]
    root = site.volume(1, image=image).replace(boot_index=0)
    first = site.guest(root, images=())
    site.answers()
    site.ssh("echo kept >/root/kept && sync")
    site.order(g.GuestDelete(server_id=first.server_id), "guest_delete")
    assert Path(root.path).exists()
    second = site.guest(root, images=())
    site.answers()
    assert site.ssh("cat /root/kept") == "kept"
    site.order(g.GuestDelete(server_id=second.server_id), "guest_delete")
    site.order(v.VolumeRemove(volume_id=root.serial), "volume_remove")
    assert site.store.files() == ()


def test_a_volume_goes_to_another_host_under_its_guest(site: DiskSite) -> None:
    """The guest writes all the while, sees no other disk, and all that it wrote is in the file of the other host."""
    server = site.guest().server_id
    site.answers()
    disk = site.volume(1)
    site.attach(server, disk)
    write(site, disk.serial, "before")
    name = site.device(disk.serial)
    site.ssh(
        f"(n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo $n | dd of=/dev/{name} bs=512 seek=$n"
        " conv=sync,fsync 2>/dev/null && echo $n >/tmp/last; done; touch /tmp/ended) >/dev/null 2>&1 &"
    )
    config = VolumesConfig(site.daemon.root / "second", "host2", QEMU_ID)
    with closing(QcowVolumes(config, EmptyImages(), lambda *_: None)) as other:
        until_done(lambda: other.make(v.VolumeMake(volume_id=disk.serial, size_gib=1), quiet))
        export = export_of(disk)
        applied = other.apply(v.VolumeExports(host="host2", generation=1, exports=(export,)))
        there = g.NbdDisk(
            name="v", host=applied.address, port=0, export=export.name, serial=disk.serial
        )
        began = int(site.ssh("cat /tmp/last || echo 0"))
        site.order(g.GuestAttachDisk(server_id=server, disk=there), "guest_swap_disk")
        site.order(v.VolumeRemove(volume_id=disk.serial), "volume_remove")
        ended = int(site.ssh("cat /tmp/last"))
        eventually(lambda: int(site.ssh("cat /tmp/last")) > ended, "the guest writes no more")
        site.ssh("touch /tmp/enough")
        eventually(lambda: site.ssh("ls /tmp/ended || true") != "", "the writer does not end")
        last = int(site.ssh("cat /tmp/last"))
        assert site.device(disk.serial) == name and last > ended > began
        site.detach(server, disk.serial)
        site.order(g.GuestDelete(server_id=server), "guest_delete")
        other.apply(v.VolumeExports(host="host2", generation=2))
        path = site.daemon.root / "second" / "volumes" / f"{disk.serial}.qcow2"
        every = set(range(1, last + 1))
        assert last < BLOCKS and _blocks(path, every) == [str(n) for n in sorted(every)]
        assert until_done(lambda: other.remove(disk.serial, quiet)) is True


def test_a_volume_of_another_host_grows_under_writes_over_tls(site: DiskSite) -> None:
    """From one namespace to another: nothing that the guest writes fails or is lost, and it sees each new size."""
    server = site.guest().server_id
    site.answers()
    authority, root = HostAuthority(b"of this test"), site.daemon.root
    here = _identity(authority, root / "certificates", "host1", QEMU_ID)
    there = _identity(authority, root / "of-host2", "host2")
    with _link(site.wire.ns), ExitStack() as stack:
        config = VolumesConfig(root / "third", "host2", QEMU_ID, FAR, identity=there)
        other = stack.enter_context(closing(QcowVolumes(config, EmptyImages(), lambda *_: None)))
        stack.callback(lambda: other.apply(v.VolumeExports(host="host2", generation=9)))
        volume = new_uuid()
        until_done(lambda: other.make(v.VolumeMake(volume_id=volume, size_gib=1), quiet))
        export = v.VolumeExport(
            attachment_id=new_uuid(), volume_id=volume, name="e" * 32, host="host1"
        )
        applied = other.apply(v.VolumeExports(host="host2", generation=1, exports=(export,)))
        assert applied.failed == ()
        nbd = g.NbdDisk(
            name="v",
            host=applied.address,
            port=dict(applied.ports)[export.attachment_id],
            export=export.name,
            serial=volume,
            tls_name=applied.tls_name,
        )
        third = _identity(authority, root / "of-host3", "host3")
        assert _looks(site.wire.ns, nbd, here.directory()) == ""
        assert "TLS" in _looks(site.wire.ns, nbd, third.directory())
        assert "TLS" in _looks(site.wire.ns, nbd, None)
        site.attach(server, nbd)
        name, _ = site.sees(volume)
        site.ssh(
            f"(n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo $n | dd of=/dev/{name} bs=512 seek=$n"
            " conv=sync,fsync 2>/dev/null && echo $n >/tmp/last || touch /tmp/failed; done;"
            " touch /tmp/ended) >/dev/null 2>&1 &"
        )
        for size in (2, 3):
            before = int(site.ssh("cat /tmp/last || echo 0"))
            site.order(v.VolumeHold(volume_id=volume, attached_to=server), "volume_hold")
            assert other.extend(volume, size, quiet, exported=True).size_gib == size
            show = v.VolumeExtend(volume_id=volume, size_gib=size, attached_to=server)
            site.order(show, "volume_show")
            assert site.ssh(f"cat /sys/block/{name}/size") == str((size << 30) // 512)
            eventually(lambda b=before: int(site.ssh("cat /tmp/last")) > b, "it writes no more")
        site.ssh("touch /tmp/enough")
        eventually(lambda: site.ssh("ls /tmp/ended || true") != "", "the writer does not end")
        last = int(site.ssh("cat /tmp/last"))
        assert site.ssh("ls /tmp/failed || true") == ""
        assert site.ssh("dmesg | grep -i 'I/O error' || true") == ""
        end = (3 << 30) // 512 - 1
        site.ssh(f"echo end | dd of=/dev/{name} bs=512 seek={end} conv=sync,fsync")
        site.detach(server, volume)
        site.order(g.GuestDelete(server_id=server), "guest_delete")
        other.apply(v.VolumeExports(host="host2", generation=2))
        path = root / "third" / "volumes" / f"{volume}.qcow2"
        every = set(range(1, last + 1))
        assert last < BLOCKS and _blocks(path, every) == [str(n) for n in sorted(every)]
        assert _blocks(path, {end}) == ["end"]
        assert until_done(lambda: other.remove(volume, quiet)) is True


@contextmanager
def _link(ns: str) -> Iterator[None]:
    """Connect this namespace, as another host, with the one in which guests live."""
    ours, theirs = f"knl{os.getpid()}a"[:15], f"knl{os.getpid()}b"[:15]
    for words in (
        ("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", ns),
        ("address", "add", f"{FAR}/30", "dev", ours),
        ("link", "set", ours, "up"),
        ("-n", ns, "address", "add", f"{NEAR}/30", "dev", theirs),
        ("-n", ns, "link", "set", theirs, "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "delete", ours], check=False)


def _identity(
    authority: HostAuthority, directory: Path, host: str, group: int | None = None
) -> HostIdentity:
    directory.mkdir(exist_ok=True)
    found = HostIdentity(host, lambda: directory, Owner(group))
    found.take(authority.sign(host, found.request()), authority.certificate)
    return found


def _looks(ns: str, disk: g.NbdDisk, certificates: Path | None) -> str:
    """Look at an export from a namespace as whoever has these certificates; return what is said against it."""
    node: dict[str, object] = {
        "driver": "nbd",
        "server": {"type": "inet", "host": disk.host, "port": str(disk.port)},
        "export": disk.export,
    }
    words = ["ip", "netns", "exec", ns, "qemu-img", "info"]
    if certificates is not None:
        node |= {"tls-creds": "tls", "tls-hostname": disk.tls_name}
        words += ["--object", f"tls-creds-x509,id=tls,dir={certificates},endpoint=client"]
    words.append("json:" + json.dumps({"driver": "raw", "file": node}))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def _blocks(path: Path, numbers: set[int]) -> list[str]:
    """Return the texts in blocks of 512 bytes of a volume's file."""
    raw = path.with_suffix(".raw")
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)]
    subprocess.run(words, check=True, capture_output=True)
    found = []
    with raw.open("rb") as file:
        for number in sorted(numbers):
            file.seek(512 * number)
            found.append(file.read(512).rstrip(b"\0").decode().strip())
    raw.unlink()
    return found


def quiet(text: str) -> None:
    """Nobody watches."""
