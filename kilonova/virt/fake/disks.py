"""Disks of simulated guests: given and taken, grown and copied, at once unless a fault says otherwise."""

import hashlib
from pathlib import Path

import msgspec

from kilonova.objects.guest import DeviceAddress, FileDisk, GuestBuild, LocalDisk, NbdDisk
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.fake.files import ROOT, write_empty_disk
from kilonova.virt.fake.host import HANG_S, FakeHost, free_address
from kilonova.virt.fake.world import RUNS, FakeGuest


class FakeDisks(FakeHost):
    """The DiskDriver part."""

    def attach_disk(
        self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress
    ) -> tuple[DeviceAddress, ...]:
        """Give a guest a volume."""
        self._alive()
        guest = self._find(server_id)
        self._fail("attach_disk", server_id, guest.faults, progress)
        self._reach(disk)
        with self._world.lock:
            guest = self._find(server_id)
            if disk.serial not in guest.volumes:
                shared = (disk.serial,) if disk.shareable or disk.readonly else ()
                device = DeviceAddress(
                    kind="disk",
                    bus="pci",
                    address=free_address(guest.devices),
                    tag=disk.tag,
                    serial=disk.serial,
                )
                guest = msgspec.structs.replace(
                    guest,
                    volumes=(*guest.volumes, disk.serial),
                    shared=(*guest.shared, *shared),
                    devices=(*guest.devices, device),
                    places={**guest.places, disk.serial: place_of(disk)},
                )
                self._world.put(self._host, guest)
        return guest.devices

    def detach_disk(self, server_id: str, serial: str, progress: Progress) -> bool:
        """Take a volume out; detach_disk_busy: the guest does not let go of it."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        if guest is None or serial not in guest.volumes:
            return False
        self._fail("detach_disk", server_id, guest.faults, progress)
        runs = guest.power in RUNS
        if runs and self._world.faults.strikes(
            "detach_disk_busy", self._host, server_id, guest.faults
        ):
            progress("waiting until the guest lets go of the disk")
            raise Again(HANG_S)
        with self._world.lock:
            guest = self._find(server_id)
            self._world.put(
                self._host,
                msgspec.structs.replace(
                    guest,
                    volumes=tuple(v for v in guest.volumes if v != serial),
                    shared=tuple(v for v in guest.shared if v != serial),
                    devices=tuple(d for d in guest.devices if d.serial != serial),
                    places={v: h for v, h in guest.places.items() if v != serial},
                ),
            )
        return True

    def mirror_disk(self, server_id: str, disk: NbdDisk | FileDisk, progress: Progress) -> None:
        """Note that a second place has all that is written."""
        self._alive()
        guest = self._find(server_id)
        place = place_of(disk)
        if disk.serial not in guest.volumes:
            raise DriverError("The server has no such disk.", serial=disk.serial)
        if place in (guest.places.get(disk.serial), guest.mirrors.get(disk.serial)):
            return
        self._fail("swap_disk", server_id, guest.faults, progress)
        if guest.power not in RUNS:
            raise DriverError("The server is off: its volume goes to no other place meanwhile.")
        self._reach(disk)
        with self._world.lock:
            guest = self._find(server_id)
            mirrors = {**guest.mirrors, disk.serial: place}
            self._world.put(self._host, msgspec.structs.replace(guest, mirrors=mirrors))

    def swap_disk(
        self,
        server_id: str,
        disk: NbdDisk | FileDisk,
        progress: Progress,
        *,
        decided: bool = False,
    ) -> None:
        """Note where the volume's data are now."""
        self._alive()
        guest = self._find(server_id)
        if disk.serial not in guest.volumes:
            raise DriverError("The server has no such disk.", serial=disk.serial)
        if place_of(disk) != guest.places.get(disk.serial):
            self._fail("swap_disk", server_id, guest.faults, progress)
            if guest.power not in RUNS and not decided:
                raise DriverError("The server is off: its volume goes to no other place meanwhile.")
            self._reach(disk)
        with self._world.lock:
            guest = self._find(server_id)
            if decided and place_of(disk) not in self._world.fresh.get(
                disk.serial, {place_of(disk)}
            ):
                self._world.stale_starts.append((self._host, server_id, disk.serial))
            places = {**guest.places, disk.serial: place_of(disk)}
            mirrors = {k: v for k, v in guest.mirrors.items() if k != disk.serial}
            changed = msgspec.structs.replace(guest, places=places, mirrors=mirrors)
            self._world.put(self._host, changed)

    def devices(self, server_id: str) -> tuple[DeviceAddress, ...]:
        """Return where the guest sees its devices."""
        guest = self._world.guests(self._host).get(server_id)
        return () if guest is None else guest.devices

    def disk_serials(self, server_id: str) -> tuple[str, ...]:
        """Return the guest's volumes."""
        guest = self._world.guests(self._host).get(server_id)
        return () if guest is None else guest.volumes

    def local_disks(self) -> dict[str, tuple[str, ...]]:
        """Return what is kept of each server, defined or not."""
        self._alive()
        with self._world.lock:
            mine = self._world.guests(self._host).values()
            return {g.server: tuple(sorted(g.disks)) for g in mine}

    def extend_disk(self, server_id: str, serial: str, size_gib: int) -> None:
        """Let a disk of a guest grow."""
        self._alive()
        guest = self._find(server_id)
        self._fail("extend_disk", server_id, guest.faults, _silent)
        with self._world.lock:
            guest = self._find(server_id)
            self._size(guest, serial)
            file = self._world.files.find(self._host, "volume", serial)
            if serial in guest.sizes:
                sizes = {**guest.sizes, serial: max(size_gib, guest.sizes[serial])}
                self._world.put(self._host, msgspec.structs.replace(guest, sizes=sizes))
            elif file is None:
                raise DriverError("A volume of another host cannot grow while it is attached.")
            elif file.size_gib < size_gib:
                self._world.files.put(self._host, msgspec.structs.replace(file, size_gib=size_gib))

    def hold_disk(self, server_id: str, serial: str) -> None:
        """Note that the guest waits."""
        self._alive()
        guest = self._find(server_id)
        self._fail("hold_disk", server_id, guest.faults, _silent)
        with self._world.lock:
            guest = self._find(server_id)
            if serial not in guest.volumes:
                raise DriverError("The server has no such disk.", serial=serial)
            held = tuple(dict.fromkeys((*guest.held, serial)))
            self._world.put(self._host, msgspec.structs.replace(guest, held=held))

    def resume_disk(self, server_id: str, serial: str, size_gib: int | None) -> None:
        """Note that it waits no more."""
        self._alive()
        guest = self._find(server_id)
        self._fail("resume_disk", server_id, guest.faults, _silent)
        with self._world.lock:
            guest = self._find(server_id)
            held = tuple(h for h in guest.held if h != serial)
            self._world.put(self._host, msgspec.structs.replace(guest, held=held))

    def copy_disk(self, server_id: str, serial: str, target: Path, progress: Progress) -> None:
        """Make an empty disk of the right size, unless the target is a simulated file itself."""
        self._alive()
        guest = self._find(server_id)
        self._fail("copy_disk", server_id, guest.faults, progress)
        size_gib = self._size(guest, serial)
        if not target.is_relative_to(ROOT) and not target.exists():
            write_empty_disk(target, size_gib)

    def end_copy(self, server_id: str, target: Path) -> None:
        """Remove the file."""
        if not target.is_relative_to(ROOT):
            target.unlink(missing_ok=True)

    # -- parts

    def _size(self, guest: FakeGuest, serial: str) -> int:
        if serial in guest.sizes:
            return guest.sizes[serial]
        if serial not in guest.volumes:
            raise DriverError("The server has no such disk.", serial=serial)
        file = self._world.files.find(self._host, "volume", serial)
        return 1 if file is None else file.size_gib

    def _reach(self, disk: NbdDisk | FileDisk) -> None:
        """Refuse a simulated file that is not there, and an export of a simulated host that is not in force."""
        files = self._world.files
        with self._world.lock:
            if isinstance(disk, FileDisk):
                path = Path(disk.path)
                if path.is_relative_to(ROOT):
                    file = files.find(self._host, "volume", disk.serial)
                    if file is None or file.path(self._host) != path:
                        raise DriverError("The volume is not on this host.", path=disk.path)
                return
            known = files.exports(disk.host)
            if known is not None and all(e.name != disk.export for e in known.exports):
                raise DriverError("The volume cannot be reached.", host=disk.host)


def place_of(disk: NbdDisk | FileDisk) -> str:
    """Return the simulated host that has a volume's data."""
    if isinstance(disk, NbdDisk):
        return disk.host
    path = Path(disk.path)
    return path.relative_to(ROOT).parts[0] if path.is_relative_to(ROOT) else ""


def defined(guest: FakeGuest, build: GuestBuild) -> FakeGuest:
    """Return a guest as it is defined anew: exactly the disks and NICs of the build."""
    volumes = [d for d in build.disks if not isinstance(d, LocalDisk)]
    return msgspec.structs.replace(
        guest,
        volumes=tuple(d.serial for d in volumes),
        shared=tuple(d.serial for d in volumes if d.shareable or d.readonly),
        places={d.serial: place_of(d) for d in volumes},
        disks=tuple(d.name for d in build.disks if isinstance(d, LocalDisk)),
        sizes={
            d.name: d.size_gib or -(-d.size_mib // 1024)
            for d in build.disks
            if isinstance(d, LocalDisk)
        },
        nics=tuple((n.port_id, n.mac) for n in build.nics),
        drives=_drives(guest, build),
        devices=_devices(build, guest.devices),
        passed=tuple(d.address for d in build.passed),
        nodes=build.nodes,
    )


def _drives(guest: FakeGuest, build: GuestBuild) -> dict[str, str]:
    """Return the config drives as a real host would have them: the server's own stays, each is written once."""
    kept = {k: v for k, v in guest.drives.items() if k in ("config-drive", build.drive_name)}
    if build.config_drive and build.drive_name not in kept:
        kept[build.drive_name] = sealed(build.metadata.admin_password or "")
    return kept


def sealed(password: str) -> str:
    """Return what is kept of a password: whoever knows it can tell that it is the one, nobody can read it."""
    return hashlib.sha256(password.encode()).hexdigest() if password else ""


def _devices(build: GuestBuild, before: tuple[DeviceAddress, ...]) -> tuple[DeviceAddress, ...]:
    """Return addresses as a real guest would have them: where they were, new ones from slot 3 on, NICs first."""
    kept = {name: d.address for d in before if (name := d.mac or d.serial or d.path)}
    wanted = [
        DeviceAddress(kind="nic", bus="pci", address="", tag=n.tag, mac=n.mac) for n in build.nics
    ]
    wanted += [
        DeviceAddress(
            kind="disk",
            bus="pci",
            address="",
            tag=d.tag,
            serial=None if isinstance(d, LocalDisk) else d.serial,
        )
        for d in build.disks
    ]
    wanted += [
        DeviceAddress(kind="hostdev", bus="pci", address="", path=d.address) for d in build.passed
    ]
    placed = [w.replace(address=kept.get(w.mac or w.serial or w.path or "", "")) for w in wanted]
    for n, device in enumerate(placed):
        if not device.address:
            placed[n] = device.replace(address=free_address(tuple(placed)))
    return tuple(placed)


def _silent(text: str) -> None:
    """Nobody waits for progress."""
