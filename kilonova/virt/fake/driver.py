"""The driver of one simulated host: a build time, a memory, and the faults of faults.py.

What every guest needs is here; what only some orders need is in a part of its own (a class that this one inherits).
"""

import time

import msgspec

from kilonova.objects.guest import (
    DeviceAddress,
    GuestBuild,
    Hardware,
    PowerAction,
    PowerState,
    TapNic,
)
from kilonova.objects.host import Inventory
from kilonova.virt.driver import Again, DriverError, OnEvent, Progress
from kilonova.virt.fake.consoles import FakeConsoles
from kilonova.virt.fake.disks import defined
from kilonova.virt.fake.guest_tools import FakeGuestTools
from kilonova.virt.fake.guests import booted, fresh
from kilonova.virt.fake.host import HANG_S
from kilonova.virt.fake.migration import FakeMigrations
from kilonova.virt.fake.nics import FakeNics
from kilonova.virt.fake.remaking import FakeRemaking
from kilonova.virt.fake.resize import FakeResizes
from kilonova.virt.fake.snapshots import FakeSnapshots
from kilonova.virt.fake.world import RUNS, FakeGuest, logged

_AFTER = {
    PowerAction.START: PowerState.RUNNING,
    PowerAction.STOP: PowerState.SHUTDOWN,
    PowerAction.REBOOT_SOFT: PowerState.RUNNING,
    PowerAction.REBOOT_HARD: PowerState.RUNNING,
    PowerAction.PAUSE: PowerState.PAUSED,
    PowerAction.UNPAUSE: PowerState.RUNNING,
    PowerAction.SUSPEND: PowerState.SUSPENDED,
    PowerAction.RESUME: PowerState.RUNNING,
}
_REBOOTS = frozenset({PowerAction.REBOOT_SOFT, PowerAction.REBOOT_HARD})
_NEED_RUNNING = frozenset(
    {PowerAction.PAUSE, PowerAction.UNPAUSE, PowerAction.REBOOT_SOFT, PowerAction.SUSPEND}
)
_NIC_COUNTERS = {
    f"{way}_{what}": 0
    for way in ("rx", "tx")
    for what in ("octets", "errors", "drop", "packets", "rate")
}
_DISK_COUNTERS = dict.fromkeys(
    ("read_bytes", "read_requests", "write_bytes", "write_requests", "errors_count"), 0
)


class FakeDriver(
    FakeNics,
    FakeSnapshots,
    FakeResizes,
    FakeRemaking,
    FakeConsoles,
    FakeGuestTools,
    FakeMigrations,
):
    """One simulated host. Threads may share it."""

    name = "fake"

    def inventory(self) -> Inventory:
        """Return what the host was given."""
        self._alive()
        return self.spec

    def refuses(self, build: GuestBuild) -> str | None:
        """Take every disk and every tap, unless the fault ``refuse`` is on."""
        for nic in build.nics:
            if not isinstance(nic, TapNic):
                return "This host has no Open vSwitch."
        if self._world.faults.strikes("refuse", self._host, build.server_id, build.faults):
            return "This host cannot make such a server."
        return None

    def build(
        self, build: GuestBuild, progress: Progress
    ) -> tuple[int, Hardware, tuple[DeviceAddress, ...]]:
        """Make what is missing of a guest. Raises Again while the build time runs."""
        world, host, server = self._world, self._host, build.server_id
        self._alive()
        guest = world.guests(host).get(server)
        if guest is None or guest.power == PowerState.NOSTATE:
            if world.build_time_s > 0 or world.faults.any or build.faults:
                guest = self._slowly(build, guest, progress)
            else:
                guest = fresh(build)
            if not build.start:
                guest = msgspec.structs.replace(guest, power=int(PowerState.SHUTDOWN))
                world.put(host, guest)
        if build.start and guest.power not in RUNS:
            guest = booted(defined(guest, build))
            world.put(host, guest)
        if build.faults:
            self._afterwards(build)
        return guest.power, guest.hardware, guest.devices

    def power(
        self,
        server_id: str,
        action: PowerAction,
        timeout_s: float,
        build: GuestBuild | None,
        progress: Progress,
    ) -> int:
        """Change a guest's power state. START, RESUME and REBOOT_HARD with a build define it anew."""
        self._alive()
        guest = self._find(server_id)
        after = _AFTER.get(action)
        if after is None:
            raise DriverError("This host does not know that power action.", action=str(action))
        if build is not None and build.faults != guest.faults:
            guest = msgspec.structs.replace(guest, faults=build.faults)
        self._fail("power", guest.server, guest.faults, progress)
        runs = guest.power in RUNS
        if not runs and action in _NEED_RUNNING:
            raise DriverError("The server is not running.", power=guest.power)
        if build is not None and _defines_anew(action, guest):
            guest = defined(guest, build)
        if action in _REBOOTS or (action == PowerAction.START and not runs):
            guest = booted(guest)
        elif action == PowerAction.STOP and runs:
            guest = logged(guest, "guest: power button, shutting down")
        guest = msgspec.structs.replace(guest, power=after)
        self._world.put(self._host, guest)
        return guest.power

    def delete(self, server_id: str, progress: Progress) -> bool:
        """Remove a guest and its disks."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        self._ends.pop(server_id, None)
        self._fail("delete", server_id, () if guest is None else guest.faults, progress)
        return self._world.drop(self._host, server_id)

    def guests(self) -> dict[str, int]:
        """Return the guests that are defined."""
        self._alive()
        with self._world.lock:
            mine = self._world.guests(self._host)
            return {g.server: g.power for g in mine.values() if g.power != PowerState.NOSTATE}

    def ports(self, server_id: str) -> tuple[str, ...]:
        """Return the ports of a guest."""
        guest = self._world.guests(self._host).get(server_id)
        return () if guest is None else tuple(port for port, _ in guest.nics)

    def strangers(self) -> list[str]:
        """Nobody else makes guests here."""
        return []

    def console_log(self, server_id: str, lines: int | None) -> str:
        """Return what the guest would have printed."""
        log = self._find(server_id).log
        return "".join(
            line + "\n"
            for line in (log if lines is None else log[len(log) - lines :] if lines else [])
        )

    def diagnostics(self, server_id: str) -> dict[str, object]:
        """Return counters that are all nought, in the 2.48 form."""
        guest = self._find(server_id)
        if guest.power not in RUNS:
            raise DriverError("The server is not running.", power=guest.power)
        return {
            "state": "running" if guest.power == PowerState.RUNNING else "paused",
            "driver": "libvirt",  # the API's schema names no other that fits
            "hypervisor": "fake",
            "hypervisor_os": "simulated",
            "uptime": int(time.time() - guest.made_at),
            "config_drive": False,
            "num_cpus": guest.vcpus,
            "num_nics": len(guest.nics),
            "num_disks": len(guest.disks) + len(guest.volumes),
            "memory_details": {"maximum": guest.memory_mib, "used": guest.memory_mib},
            "cpu_details": [{"id": n, "time": 0, "utilisation": 0} for n in range(guest.vcpus)],
            "nic_details": [{"mac_address": mac, **_NIC_COUNTERS} for _, mac in guest.nics],
            "disk_details": [dict(_DISK_COUNTERS) for _ in (*guest.disks, *guest.volumes)],
        }

    def on_event(self, handler: OnEvent) -> None:
        """Tell ``handler`` of crash, shut_down_by_itself and what faults do."""
        self._handler = handler

    def tell(self, server_id: str, power: int) -> None:
        """Say that a guest changed by itself."""
        if self._handler is not None:
            self._handler(server_id, power)

    def close(self) -> None:
        """Guests go on; nobody is told any more."""
        self._handler = None

    # -- parts

    def _slowly(self, build: GuestBuild, guest: FakeGuest | None, progress: Progress) -> FakeGuest:
        """Make the disks, then let time pass and faults strike."""
        world, server = self._world, build.server_id
        if guest is None:
            guest = fresh(build)
            world.put(self._host, guest)
        progress("making disks")
        if world.build_time_s > 0:
            now = time.monotonic()
            left = self._ends.setdefault(server, now + world.build_time_s) - now
            if left > 0:
                raise Again(left)
            self._ends.pop(server, None)
        if world.faults.strikes("build_hang", self._host, server, build.faults):
            progress("hanging")
            raise Again(HANG_S)
        for fault, elsewhere in (
            ("build_fail", False),
            ("build_fail_once", True),
            ("build_elsewhere", True),
            ("build_fail_everywhere", True),
        ):
            if world.faults.strikes(fault, self._host, server, build.faults):
                raise DriverError("The guest could not be built.", elsewhere=elsewhere, fault=fault)
        return guest

    def _afterwards(self, build: GuestBuild) -> None:
        faults, server = self._world.faults, build.server_id
        if faults.strikes("lost_guest", self._host, server, build.faults):
            self._world.drop(self._host, server)
        if faults.strikes("guest_crash", self._host, server, build.faults):
            self._world.crash(server)


def _defines_anew(action: PowerAction, guest: FakeGuest) -> bool:
    """Tell whether an action with a build makes a new definition; a guest with its memory on disk keeps its own."""
    off = guest.power not in (*RUNS, int(PowerState.SUSPENDED))
    return action == PowerAction.REBOOT_HARD or (
        action in (PowerAction.START, PowerAction.RESUME) and off
    )
