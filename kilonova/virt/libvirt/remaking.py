"""Real guests that become others in place: rebuild, rescue, unrescue.

New disks are made beside the old ones while the guest runs; then it is off for as long as renames take. A disk that is
put aside has the name ``<file>.aside`` until it comes back or is forgotten. Every step is a rename: each moment of a
crash is gone on from, or taken back.
"""

from pathlib import Path
from typing import Any

from kilonova.objects.guest import GuestBuild, LocalDisk, PowerState
from kilonova.virt.driver import Progress
from kilonova.virt.libvirt import facts, power, xml
from kilonova.virt.libvirt.building import Building
from kilonova.virt.libvirt.disks import ASIDE, BASE, NEW
from kilonova.virt.libvirt.domains import is_active, text_of
from kilonova.virt.remaking import Change, Made

CONFIG_DRIVE = "config-drive.iso"


class Remaking(Building):
    """The RemakeDriver part."""

    def remake(self, build: GuestBuild, change: Change, progress: Progress) -> Made:
        """Make what is new, turn the guest off, exchange, define, start."""
        server = build.server_id
        domain = self._find(server)
        directory = self._disks.directory(server)
        hardware = facts.freeze(self._connection.get(), build.hardware, self._config.virt_type)
        if domain is None or not self._is_remade(domain, build, change, directory):
            self._keep(build, hardware, self._disks.record(server))
            fresh = [n for n in change.anew if not self._aside_of(build, n).exists()]
            self._disks.make_beside(build, fresh, change.mark, progress)
            self._disks.make(_without(build, change.anew), progress)
            if domain is not None:
                progress("turning the guest off")
                self._waits.acpi_off(server, domain, change.timeout_s, progress)
                power.forget_memory(domain)
            self._exchange(build, change, directory)
            before = None if change.anew else _same_first(domain, build)
            domain = self._define(build, hardware, self._disks.existing(build), before)
            self._make_config_drive(build, self._devices(domain, build))
            if build.start:
                progress("starting the guest")
                self._boot(domain)
        return int(power.state_of(domain)), hardware, self._devices(domain, build)

    def restore(self, build: GuestBuild, drop: tuple[str, ...], progress: Progress) -> Made:
        """Put back what is aside, remove what is new, define and start the guest as it was."""
        server = build.server_id
        domain = self._found(server)
        directory = self._disks.directory(server)
        for path in directory.glob(f"*{NEW}*"):
            path.unlink(missing_ok=True)
        aside = list(directory.glob(f"*{ASIDE}"))
        as_it_was = _local(domain) == _names(build) and (is_active(domain) or not build.start)
        if aside or not as_it_was:
            progress("making the guest what it was")
            power.destroy(domain)
            power.forget_memory(domain)
            for path in aside:
                path.replace(path.with_name(path.name.removesuffix(ASIDE)))
            before = None if aside else _same_first(domain, build)
            domain = self._define_again(build, before)
            if build.start:
                self._boot(domain)
        for name in drop:
            (directory / f"{name}.qcow2").unlink(missing_ok=True)
            (directory / f"{name}.iso").unlink(missing_ok=True)
        self._disks.prune_bases(server)
        record = self._disks.record(server)
        hardware = build.hardware if record is None or record.hardware is None else record.hardware
        return int(power.state_of(domain)), hardware, self._devices(domain, build)

    def forget_aside(self, server_id: str) -> bool:
        """Remove the files."""
        directory = self._disks.directory(server_id)
        aside = list(directory.glob(f"*{ASIDE}"))
        for path in aside:
            path.unlink(missing_ok=True)
        if directory.exists():
            self._disks.prune_bases(server_id)
        return bool(aside)

    # -- parts

    def _aside_of(self, build: GuestBuild, name: str) -> Path:
        directory = self._disks.directory(build.server_id)
        disk = next(d for d in build.disks if isinstance(d, LocalDisk) and d.name == name)
        path = self._disks.file_of(directory, disk).path
        return path.with_name(path.name + ASIDE)

    def _is_remade(self, domain: Any, build: GuestBuild, change: Change, directory: Path) -> bool:
        """Tell whether an earlier try of the same order went all the way."""
        aside = all(self._aside_of(build, name).exists() for name in change.anew)
        if change.drive and build.config_drive:
            drive = directory / CONFIG_DRIVE
            aside = aside and drive.exists() and Path(f"{drive}{ASIDE}").exists()
        runs = power.state_of(domain) == PowerState.RUNNING or not build.start
        unfinished = any(directory.glob(f"*{NEW}"))
        return aside and runs and not unfinished and _local(domain) == _names(build)

    def _exchange(self, build: GuestBuild, change: Change, directory: Path) -> None:
        """Put old files aside and new ones in their place. The guest is off."""
        for name in change.anew:
            aside = self._aside_of(build, name)
            place = aside.with_name(aside.name.removesuffix(ASIDE))
            new = place.with_name(place.name + NEW)
            if new.exists():
                if place.exists() and not aside.exists():
                    place.replace(aside)
                new.replace(place)
        drive = directory / CONFIG_DRIVE
        aside = directory / f"{CONFIG_DRIVE}{ASIDE}"
        if (change.anew or change.drive) and drive.exists() and not aside.exists():
            drive.replace(aside)
        mine = {f"{name}.qcow2" for name in _names(build)} | {f"{n}.raw" for n in _names(build)}
        mine |= {CONFIG_DRIVE, f"{build.drive_name}.iso"}
        for path in (p for end in ("qcow2", "raw", "iso") for p in directory.glob(f"*.{end}")):
            if path.name not in mine and not path.name.endswith(BASE):
                path.replace(path.with_name(path.name + ASIDE))


def _same_first(domain: Any, build: GuestBuild) -> Any:
    """Return the domain whose devices stay where they are; None when the guest comes to boot from another disk.

    Guests name and mount disks by their places, so a rescue disk gets the first one.
    """
    if domain is None or not build.disks:
        return None
    first = build.disks[0]
    alias = f"ua-disk-{first.name}" if isinstance(first, LocalDisk) else f"ua-{first.serial}"
    return domain if xml.first_disk_of(text_of(domain)) == alias else None


def _names(build: GuestBuild) -> set[str]:
    return {d.name for d in build.disks if isinstance(d, LocalDisk)}


def _local(domain: Any) -> set[str]:
    """Return the names of the local disks that a domain is defined with."""
    return xml.local_disks_of(text_of(domain))


def _without(build: GuestBuild, names: tuple[str, ...]) -> GuestBuild:
    kept = tuple(d for d in build.disks if not (isinstance(d, LocalDisk) and d.name in names))
    return build.replace(disks=kept)
