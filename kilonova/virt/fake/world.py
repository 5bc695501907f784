"""Simulated hosts, first-class: thousands per process, with a build time, a memory, and a switch for every failure.

A World holds what all hosts of a cloud have; ``World.driver(host)`` is one host's driver. With a path guests are in one
SQLite file and survive the process; then each change is one commit before the driver returns.

Faults: faults.py. The driver of one host: driver.py.
"""

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kilonova.objects.guest import DeviceAddress, GuestBuild, GuestNode, Hardware, PowerState
from kilonova.objects.host import Inventory
from kilonova.virt.driver import DriverError, GuestMissing
from kilonova.virt.fake.faults import Faults
from kilonova.virt.fake.files import Files

if TYPE_CHECKING:
    from kilonova.virt.fake.driver import FakeDriver
    from kilonova.virt.fake.volumes import FakeVolumes
    from kilonova.virt.volumes import SendImage

LOG_LINES = 200
SPEC = Inventory(
    vcpus=64,
    memory_mib=256 * 1024,
    disk_gib=8192,
    hypervisor_type="fake",
    hypervisor_version=1,
    cpu_info={"arch": "x86_64", "model": "simulated", "vendor": "none"},
    supported=(("x86_64", "fake", "hvm"),),
    traits=(
        "COMPUTE_DEVICE_TAGGING",
        "COMPUTE_IMAGE_TYPE_ISO",
        "COMPUTE_IMAGE_TYPE_QCOW2",
        "COMPUTE_IMAGE_TYPE_RAW",
        "COMPUTE_NET_VIF_MODEL_VIRTIO",
        "COMPUTE_STORAGE_BUS_VIRTIO",
    ),
)

RUNS = frozenset({int(PowerState.RUNNING), int(PowerState.PAUSED)})


PREPARED, COMING, LEFT = (
    "prepared",
    "coming",
    "left",
)  # of a guest that moves live, on one of its hosts


@dataclass
class FakeMove:
    """A live migration under way. began: monotonic; takes_s: how long it takes; aborted, forced: somebody's wish."""

    source: str
    target: str
    began: float
    takes_s: float
    disk_bytes: int
    aborted: bool = False
    forced: bool = False

    def share(self) -> float:
        """Return how much of it is done, 0 to 1."""
        if self.takes_s <= 0:
            return 1.0
        return min(1.0, (time.monotonic() - self.began) / self.takes_s)


class FakeSize(msgspec.Struct, kw_only=True, frozen=True):
    """What a guest was before a resize; its disks are kept until that is confirmed or reverted."""

    vcpus: int
    memory_mib: int
    sizes: dict[str, int]
    reverted: bool = False  # it is the new size that is kept, after a revert


class FakeGuest(msgspec.Struct, kw_only=True, frozen=True):
    """What a simulated host has of one server. power NOSTATE: its disks are there, it is not defined yet."""

    server: str
    name: str
    power: int
    vcpus: int
    memory_mib: int
    disks: tuple[str, ...]
    volumes: tuple[str, ...]  # by serial
    nics: tuple[tuple[str, str], ...]  # (port id, mac)
    hardware: Hardware
    nodes: tuple[GuestNode, ...] = ()  # NUMA nodes
    passed: tuple[str, ...] = ()  # devices of the host, by their addresses there
    faults: tuple[str, ...] = ()
    kept: FakeSize | None = None
    generation: int = 0  # of its metadata document
    boots: int = 0
    made_at: float = 0.0
    log: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()  # volumes that it only reads, or that others may write too
    sizes: dict[str, int] = {}  # GiB, of local disks by name
    devices: tuple[DeviceAddress, ...] = ()
    images: dict[str, str] = {}  # what local disks were made of: name -> image id
    aside: dict[str, str] = {}  # disks that a rebuild or rescue put aside, likewise
    drives: dict[str, str] = {}  # config drives by name: the password that each tells, sealed
    places: dict[str, str] = {}  # volume serial -> host that has its data
    mirrors: dict[str, str] = {}  # volume serial -> host that has all that is written, too
    variables: str = ""  # of its firmware: another text for each first build
    held: tuple[str, ...] = ()  # volumes over NBD whose requests wait when their export ends
    moving: str = ""  # PREPARED, COMING or LEFT: it runs on another host, its power is NOSTATE here


class Leftover(NamedTuple):
    """One thing that exists on a simulated host."""

    kind: str  # "guest", "disk", "kept disk", "held disk", "mirror", "volume writer", "export", "<…> file" …
    host: str
    server: str
    name: str


class World:
    """What all simulated hosts of one cloud have."""

    def __init__(
        self, path: Path | None = None, *, build_time_s: float = 0.0, spec: Inventory = SPEC
    ) -> None:
        """path: the SQLite file that keeps the guests, None to keep nothing. build_time_s: of every build."""
        self.build_time_s = build_time_s
        self.migrate_time_s = build_time_s  # of every live migration
        self.moves: dict[str, FakeMove] = {}  # by server
        self.spec = spec
        self.faults = Faults()
        self.second_holders: list[tuple[str, str, str]] = []  # (host, server, device): each a bug
        self.lock = threading.RLock()
        self._guests: dict[str, dict[str, FakeGuest]] = {}
        self._writers: dict[str, tuple[str, str]] = {}  # volume serial -> (host, server)
        self.second_writers: list[
            tuple[str, str, str]
        ] = []  # (host, server, serial): each is a bug
        self.fresh: dict[
            str, set[str]
        ] = {}  # volume serial -> hosts that have all that a guest wrote
        self.stale_starts: list[
            tuple[str, str, str]
        ] = []  # as second_writers: a guest began without
        self._drivers: dict[str, FakeDriver] = {}
        self._stores: dict[str, FakeVolumes] = {}
        self._conn: sqlite3.Connection | None = None
        if path is not None:
            self._conn = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._conn.execute("PRAGMA journal_mode=WAL")
            self._conn.execute("PRAGMA synchronous=NORMAL")
            self._conn.execute("PRAGMA wal_autocheckpoint=4000")  # as kilonova.db.engine
            self._conn.execute(
                "CREATE TABLE IF NOT EXISTS guest (host TEXT NOT NULL, server TEXT NOT NULL, record BLOB NOT NULL,"
                " PRIMARY KEY (host, server)) WITHOUT ROWID"
            )
            for host, _, record in self._conn.execute("SELECT host, server, record FROM guest"):
                guest = msgspec.msgpack.decode(record, type=FakeGuest)
                self._guests.setdefault(host, {})[guest.server] = guest
                for serial in _written(guest):
                    self._writers[serial] = (host, guest.server)
        self.files = Files(self._conn)

    def driver(self, host: str, spec: Inventory | None = None) -> "FakeDriver":
        """Return the driver of one host, always the same."""
        with self.lock:
            found = self._drivers.get(host)
            if found is None:
                from kilonova.virt.fake.driver import FakeDriver

                found = self._drivers[host] = FakeDriver(self, host, spec or self.spec)
            return found

    def volumes(self, host: str, send: "SendImage | None" = None) -> "FakeVolumes":
        """Return the volume store of one host, always the same. send: takes what is uploaded."""
        with self.lock:
            found = self._stores.get(host)
            if found is None:
                from kilonova.virt.fake.volumes import FakeVolumes

                found = self._stores[host] = FakeVolumes(self, host, send)
            return found

    def writer(self, volume_id: str) -> tuple[str, str] | None:
        """Return (host, server) that may write a volume alone now."""
        with self.lock:
            return self._writers.get(volume_id)

    def written_at(self, volume_id: str, host: str) -> bool:
        """Tell whether a guest may write what a host has of a volume."""
        with self.lock:
            where = self._writers.get(volume_id)
            if where is None:
                return False
            guest = self.guests(where[0]).get(where[1])
            return guest is None or guest.places.get(volume_id, host) == host

    def breaks_for(self, volume_id: str, host: str) -> list[str]:
        """Return the running guests that reach what a host has of a volume, and would not wait for it."""
        return [
            g.server
            for g in self.everything()
            if g.power in RUNS and g.places.get(volume_id) == host and volume_id not in g.held
        ]

    def ledger(self) -> list[Leftover]:
        """Return everything that exists on any host, sorted; second writers stay, for what they tried is a bug."""
        with self.lock:
            found = [
                Leftover(kind, host, g.server, name)
                for host, guests in self._guests.items()
                for g in guests.values()
                for kind, names in (
                    ("device", g.passed),
                    ("guest", (g.name,) if g.power != PowerState.NOSTATE else ()),
                    ("kept disk", () if g.kept is None else g.kept.sizes),
                    ("disk", (*g.disks, *g.aside)),
                    ("held disk", g.held if g.power in RUNS else ()),
                    ("mirror", g.mirrors if g.power in RUNS else ()),
                )
                for name in names
            ]
            found += [Leftover("second holder", h, s, a) for h, s, a in self.second_holders]
            found += [Leftover("volume writer", h, s, v) for v, (h, s) in self._writers.items()]
            found += [Leftover("second writer", h, s, v) for h, s, v in self.second_writers]
            found += [Leftover("stale start", h, s, v) for h, s, v in self.stale_starts]
            found += [Leftover(*row) for row in self.files.ledger()]
        return sorted(found)

    def everything(self) -> list[FakeGuest]:
        """Return the guests of all hosts."""
        with self.lock:
            return [g for guests in self._guests.values() for g in guests.values()]

    def crash(self, server_id: str) -> None:
        """Let a guest crash by itself."""
        self._by_itself(server_id, PowerState.CRASHED)

    def shut_down_by_itself(self, server_id: str) -> None:
        """Let a guest power itself off."""
        self._by_itself(server_id, PowerState.SHUTDOWN)

    def lose(self, server_id: str) -> None:
        """Let a guest and its disks vanish without a word."""
        host, _ = self.find(server_id)
        self.drop(host, server_id)

    def reboot(self, host: str) -> None:
        """Let a host go down and up: nothing runs there any more, and nobody says so."""
        with self.lock:
            for guest in list(self._guests.get(host, {}).values()):
                if guest.power in RUNS:
                    self.put(host, msgspec.structs.replace(guest, power=int(PowerState.SHUTDOWN)))

    def find(self, server_id: str) -> tuple[str, FakeGuest]:
        """Return (host, guest), the one that runs if two hosts have it; GuestMissing when no host has it."""
        with self.lock:
            found = [
                (h, guests[server_id]) for h, guests in self._guests.items() if server_id in guests
            ]
        for host, guest in sorted(found, key=lambda f: f[1].power not in RUNS):
            return host, guest
        raise GuestMissing("The server has no guest on any host.", server=server_id)

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        with self.lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    # -- for drivers, which hold the lock or need none

    def guests(self, host: str) -> dict[str, FakeGuest]:
        """Return a host's guests by server id; the dictionary is the world's own."""
        return self._guests.setdefault(host, {})

    def put(self, host: str, guest: FakeGuest) -> None:
        """Keep a guest; in the file when this returns. DriverError: another one writes its volume or has its device."""
        with self.lock:
            self._hold_devices(host, guest)
            self._hold_volumes(host, guest)
            self._writes(host, guest)
            self.guests(host)[guest.server] = guest
            if self._conn is not None:
                self._conn.execute(
                    "INSERT OR REPLACE INTO guest (host, server, record) VALUES (?, ?, ?)",
                    (host, guest.server, msgspec.msgpack.encode(guest)),
                )

    def drop(self, host: str, server_id: str) -> bool:
        """Forget a guest; tell whether there was one."""
        with self.lock:
            gone = self.guests(host).pop(server_id, None)
            if gone is None:
                return False
            for serial in gone.volumes:
                if self._writers.get(serial) == (host, server_id):
                    del self._writers[serial]
            if self._conn is not None:
                self._conn.execute(
                    "DELETE FROM guest WHERE host = ? AND server = ?", (host, server_id)
                )
            return True

    def switch(self, source: str, target: str, server_id: str, build: "GuestBuild") -> FakeGuest:
        """Let a guest run on another host from now on; both records change at once. Return it as it is there."""
        with self.lock:
            guest = self.guests(source)[server_id]
            gone = msgspec.structs.replace(guest, power=int(PowerState.NOSTATE), moving=LEFT)
            there = msgspec.structs.replace(
                logged(guest, "guest: moved"), nics=tuple((n.port_id, n.mac) for n in build.nics)
            )
            if self._conn is not None:
                self._conn.execute("BEGIN IMMEDIATE")
            self.put(source, gone)
            self.put(target, there)
            if self._conn is not None:
                self._conn.execute("COMMIT")
            return there

    def _hold_devices(self, host: str, guest: FakeGuest) -> None:
        """Refuse a device that the host has not, or that another guest has."""
        if not guest.passed:
            return
        there = {d.address for d in self.driver(host).spec.devices}
        others = {
            a for g in self.guests(host).values() if g.server != guest.server for a in g.passed
        }
        if not there.issuperset(guest.passed):
            raise DriverError("The host has no such device.", elsewhere=True)
        if taken := others.intersection(guest.passed):
            self.second_holders += [(host, guest.server, a) for a in taken]
            raise DriverError("Another guest has the device.", elsewhere=True)

    def _hold_volumes(self, host: str, guest: FakeGuest) -> None:
        me, wanted = (host, guest.server), _written(guest)
        for serial in wanted:
            other = self._writers.get(serial, me)
            if other != me:
                self.second_writers.append((*me, serial))
                raise DriverError("The volume has another writer.", volume=serial, writer=other)
        before = self.guests(host).get(guest.server)
        for serial in () if before is None else before.volumes:
            if serial not in wanted and self._writers.get(serial) == me:
                del self._writers[serial]
        for serial in wanted:
            self._writers[serial] = me

    def _writes(self, host: str, guest: FakeGuest) -> None:
        """Note where all is that a running guest writes; one that starts where not all is, is noted for good."""
        if guest.power not in RUNS:
            return
        before = self.guests(host).get(guest.server)
        starts = before is None or before.power not in RUNS
        for serial, place in guest.places.items():
            if starts and place not in self.fresh.get(serial, {place}):
                self.stale_starts.append((host, guest.server, serial))
            self.fresh[serial] = {place, guest.mirrors.get(serial, place)}

    def _by_itself(self, server_id: str, power: PowerState) -> None:
        with self.lock:
            host, guest = self.find(server_id)
            guest = logged(guest, f"guest: {power.name.lower()}")
            self.put(host, msgspec.structs.replace(guest, power=int(power)))
        self.driver(host).tell(server_id, power)


def logged(guest: FakeGuest, *lines: str) -> FakeGuest:
    """Return the guest with more in its log, of which the last LOG_LINES are kept."""
    return msgspec.structs.replace(guest, log=(*guest.log, *lines)[-LOG_LINES:])


def _written(guest: FakeGuest) -> tuple[str, ...]:
    """Return the volumes that a guest may write now, alone."""
    if guest.power not in RUNS:
        return ()
    return tuple(serial for serial in guest.volumes if serial not in guest.shared)
