"""Volumes: attach and detach per second (simulated: a host, the API), and in a real guest: seen, snapshots, I/O.

python -m benchmarks.volumes [attaches]

The real half needs what ``kilonova doctor`` asks for, and says so where that is missing. The guest is small and run by
software emulation where there is no KVM: compare its columns with each other, not with other machines. Asserts nothing.
"""

import contextlib
import functools
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cloud import Cloud
from kilonova.bus.memory import MemoryBus
from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.objects import volume_orders as v
from kilonova.objects.base import encode
from kilonova.objects.order import Order, unpack
from kilonova.virt.fake.world import World
from tests.real.disk_site import DiskSite, disk_site
from tests.real.private_libvirtd import possible
from tests.unit.agent_kit import Cloud as Bench
from tests.unit.agent_kit import build_of, order_of

DATA_MIB = 256
RANDOM_READS = 200
MIB = 1 << 20


def simulated(pairs: int) -> None:
    """Attach and detach volumes of guests on 4 hosts by orders, each answered."""
    bus, world = MemoryBus(), World()
    cloud = Bench(world, bus)
    guests = []
    for n in range(4):
        cloud.agent(f"host{n}")
    for n in range(pairs):
        host, build = f"host{n % 4}", build_of(nics=0)
        world.driver(host).build(build, lambda text: None)
        make = v.VolumeMake(volume_id=new_uuid(), size_gib=1)
        made = world.volumes(host).make(make, lambda text: None)
        disk = g.FileDisk(name="v", path=made.path, format=made.format, serial=make.volume_id)
        guests.append((host, build.server_id, disk))
    attach = [
        order_of(g.GuestAttachDisk(server_id=s, disk=d), "guest_attach_disk", host=h)
        for h, s, d in guests
    ]
    detach = [
        order_of(
            g.GuestDetachDisk(server_id=s, serial=d.serial), "guest_detach_disk", host=h, epoch=2
        )
        for h, s, d in guests
    ]
    for name, orders in (("attach", attach), ("detach", detach)):
        _send(bus, name, orders)
    cloud.close()
    world.close()


def _send(bus: MemoryBus, name: str, orders: list[Order]) -> None:
    answered = 0

    def count(subject: str, body: bytes) -> None:
        nonlocal answered
        answered += 1

    heard = bus.subscribe("answer.*.*", count)
    messages = [(o.host, encode(o)) for o in orders]
    cpu, wall = time.process_time(), time.monotonic()
    for host, body in messages:
        bus.publish(f"agent.{host}.order", body)
    end = wall + 120.0
    while answered < len(orders) and time.monotonic() < end:
        time.sleep(0.002)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    heard.close()
    print(
        f"{name}, simulated: {len(orders) / wall:.0f}/s   {1000 * cpu / len(orders):.3f} CPU ms each"
    )


def by_the_api(pairs: int) -> None:
    """Attach a volume to each of so many servers, and detach them again, from the request until it is done."""
    with contextlib.closing(Cloud(hosts=4)) as c:
        c.lift_quotas()
        project = c.call("GET", "/identity/v3/auth/projects")[2]["projects"][0]["id"]
        limits = {"quota_set": {"volumes": -1, "gigabytes": -1}}
        c.call("PUT", f"/volume/v3/{project}/os-quota-sets/{project}", limits, c.admin)
        volumes, servers = f"/volume/v3/{project}/volumes", "/compute/v2.1/servers"
        made = [
            (
                c.call("POST", servers, c.server_body(f"b{n}", nets=False))[2]["server"]["id"],
                c.call("POST", volumes, {"volume": {"size": 1}})[2]["volume"]["id"],
            )
            for n in range(pairs)
        ]
        _rest(c, volumes, "available")
        while c.call("GET", f"{servers}?status=BUILD")[2]["servers"]:
            time.sleep(0.05)
        for what, rest in (("attach", "in-use"), ("detach", "available")):
            cpu, wall = c.cpu_s(), time.monotonic()
            with ThreadPoolExecutor(8) as clients:
                asked = list(clients.map(functools.partial(_ask, c, what), made))
            _rest(c, volumes, rest)
            cpu, wall = c.cpu_s() - cpu, time.monotonic() - wall
            assert all(status in (200, 202) for status in asked), asked
            print(
                f"{what} by the API, simulated: {pairs / wall:.0f}/s   {1000 * cpu / pairs:.1f} CPU ms each"
            )


def _ask(c: Cloud, what: str, pair: tuple[str, str]) -> int:
    server, volume = pair
    path = f"/compute/v2.1/servers/{server}/os-volume_attachments"
    if what == "attach":
        return c.call("POST", path, {"volumeAttachment": {"volumeId": volume}})[0]
    return c.call("DELETE", f"{path}/{volume}")[0]


def _rest(c: Cloud, volumes: str, status: str) -> None:
    """Wait until all volumes have a status."""
    while any(v["status"] != status for v in c.call("GET", f"{volumes}/detail")[2]["volumes"]):
        time.sleep(0.05)


def real(site: DiskSite) -> None:
    """One guest with a local disk; the same volume as a file and over NBD."""
    build = site.guest(g.LocalDisk(name="blank", size_gib=1))
    server = build.server_id
    site.answers()
    _io(site, "local qcow2", site.device("blank"))
    disk = site.volume(1)
    for way in ("as a file", "over NBD"):
        shown = disk if way == "as a file" else _exported(site, disk)
        began = time.monotonic()
        site.attach(server, shown)
        done = time.monotonic() - began
        name, seen = site.sees(disk.serial)
        print(f"attach {way}: {done:.2f} s to the answer, {done + seen:.2f} s until seen by SSH")
        _io(site, f"volume {way}", name)
        if way == "as a file":
            _snapshot(site, server, disk)
        began = time.monotonic()
        site.detach(server, disk.serial)
        print(f"detach {way}: {time.monotonic() - began:.2f} s")
    _snapshot(site, None, disk)
    site.store.apply(v.VolumeExports(host="host1", generation=2))
    _snapshot(site, None, disk)
    site.order(g.GuestDelete(server_id=server), "guest_delete")


def _exported(site: DiskSite, disk: g.FileDisk) -> g.NbdDisk:
    export = v.VolumeExport(attachment_id=new_uuid(), volume_id=disk.serial, name=new_uuid())
    applied = site.store.apply(v.VolumeExports(host="host1", generation=1, exports=(export,)))
    return g.NbdDisk(
        name="v",
        host=applied.address,
        port=applied.port,
        export=export.name,
        serial=disk.serial,
    )


def _io(site: DiskSite, what: str, name: str) -> None:
    """Sequential by large pieces, random by 4 KiB, past the guest's own cache."""
    site.ssh("[ -e /tmp/data ] || dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null")
    wrote = _seconds(
        site,
        f"for i in $(seq 0 {DATA_MIB // 8 - 1}); do dd if=/tmp/data of=/dev/{name} bs=1M"
        " seek=$((i * 8)) oflag=direct conv=notrunc; done; sync",
    )
    got = _seconds(site, f"dd if=/dev/{name} of=/dev/null bs=1M count={DATA_MIB} iflag=direct")
    pieces = DATA_MIB * 256
    reads = _seconds(
        site,
        f"for i in $(seq {RANDOM_READS}); do dd if=/dev/{name} of=/dev/null bs=4k count=1"
        f" skip=$(( (i * 7919) % {pieces} )) iflag=direct; done",
    )
    none = _seconds(
        site,
        f"for i in $(seq {RANDOM_READS}); do dd if=/dev/zero of=/dev/null bs=4k count=1; done",
    )
    each = max(reads - none, 0.0) / RANDOM_READS
    print(
        f"{what}: write {DATA_MIB / wrote:.0f} MiB/s, read {DATA_MIB / got:.0f} MiB/s,"
        f" random 4 KiB read {1000 * each:.2f} ms beyond the command's own time"
    )


def _seconds(site: DiskSite, command: str) -> float:
    """Return how long a command takes in the guest, by the guest's clock."""
    said = site.ssh(f"a=$(cat /proc/uptime); ({command}) 2>/dev/null; echo $a; cat /proc/uptime")
    times = re.findall(r"^(\d+\.\d+) ", said, re.MULTILINE)
    return max(float(times[-1]) - float(times[-2]), 0.01)


def _snapshot(site: DiskSite, server: str | None, disk: g.FileDisk) -> None:
    """Keep a volume, and tell how."""
    exported = (site.daemon.root / "volumes" / "daemon" / "pid").exists()
    way = "of a running guest" if server else "of an export" if exported else "at rest"
    keep = v.SnapshotMake(volume_id=disk.serial, snapshot_id=new_uuid(), attached_to=server)
    began = time.monotonic()
    made = unpack(site.order(keep, "snapshot_make").body, v.VolumeMade)
    took = time.monotonic() - began
    print(f"snapshot {way}: {took:.2f} s, {made.allocated / MIB:.0f} MiB written")
    site.order(
        v.SnapshotRemove(volume_id=disk.serial, snapshot_id=keep.snapshot_id), "snapshot_remove"
    )


def main() -> None:
    """Print all of it."""
    simulated(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
    by_the_api(200)
    if not possible():
        print("real volumes: skipped, they need root, libvirtd, QEMU and genisoimage")
        return
    with tempfile.TemporaryDirectory() as directory, disk_site(Path(directory)) as site:
        real(site)


if __name__ == "__main__":
    main()
