"""Resizes of real guests on one host. What is kept aside meanwhile, and how: kept_disks.py."""

import os

from kilonova.objects.guest import GuestBuild, LocalDisk, PowerState
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt import kept_disks as kept
from kilonova.virt.libvirt import power
from kilonova.virt.libvirt.building import Building
from kilonova.virt.libvirt.disks import GIB, MIB, DiskFile, run_tool, size_of
from kilonova.virt.resize import Made


class Resizes(Building):
    """The resize half of the libvirt driver."""

    def resize(self, build: GuestBuild, timeout_s: float, progress: Progress) -> Made:
        """Shut the guest down, copy its disks aside once, grow them, define the guest anew, start it."""
        domain = self._found(build.server_id)
        directory = self._disks.directory(build.server_id)
        if not self._is_resized(build):
            self._waits.acpi_off(build.server_id, domain, timeout_s, progress)
            power.forget_memory(domain)
            if kept.exchange(directory, kept.REVERTED, kept.KEPT):
                progress("the disks of the new size are in place again")
            else:
                progress("keeping the disks as they are")
                kept.keep(directory)
            progress("growing the disks")
            self._grow(build)
        return self._again(build)

    def confirm_resize(self, server_id: str) -> bool:
        """Remove what is aside."""
        return kept.drop(self._disks.directory(server_id))

    def revert_resize(self, build: GuestBuild, progress: Progress) -> Made:
        """Turn the guest off, let what is aside and what is in place change places, define it as it was, start it."""
        domain = self._found(build.server_id)
        directory = self._disks.directory(build.server_id)
        if kept.is_there(directory, kept.KEPT):
            power.destroy(domain)
            power.forget_memory(domain)
            progress("putting the disks back")
            kept.exchange(directory, kept.KEPT, kept.REVERTED)
            for file in self._files_of(build).values():
                self._disks.owner.give(file.path, write=True)
        return self._again(build)

    # -- parts

    def _again(self, build: GuestBuild) -> Made:
        """Define the guest over its disks as ``build`` says, and bring it to the power state that it names."""
        domain = self._found(build.server_id)
        if power.state_of(domain) not in (PowerState.RUNNING, PowerState.PAUSED):
            domain = self._define_again(build, domain)
            if build.start:
                self._boot(domain)
        record = self._disks.record(build.server_id)
        hardware = build.hardware if record is None or record.hardware is None else record.hardware
        return int(power.state_of(domain)), hardware, self._devices(domain, build)

    def _is_resized(self, build: GuestBuild) -> bool:
        """Tell whether a guest runs in its new size already: a resize done again leaves it alone."""
        domain = self._found(build.server_id)
        aside = kept.is_there(self._disks.directory(build.server_id), kept.KEPT)
        running = power.state_of(domain) in (PowerState.RUNNING, PowerState.PAUSED)
        return aside and running and domain.maxMemory() == build.memory_mib * 1024

    def _files_of(self, build: GuestBuild) -> dict[str, DiskFile]:
        directory = self._disks.directory(build.server_id)
        local = [d for d in build.disks if isinstance(d, LocalDisk)]
        return {d.name: self._disks.file_of(directory, d) for d in local}

    def _grow(self, build: GuestBuild) -> None:
        """Bring each local disk to its new size; what the new flavor has not any more is removed, swap is made anew."""
        directory = self._disks.directory(build.server_id)
        files = self._files_of(build)
        for path in kept.disk_files(directory):
            if path not in {f.path for f in files.values()}:
                path.unlink()
        for disk in build.disks:
            if not isinstance(disk, LocalDisk):
                continue
            file = files[disk.name]
            size = disk.size_mib * MIB or disk.size_gib * GIB
            if disk.name == "swap":
                file.path.unlink(missing_ok=True)
            elif file.path.exists() and size:
                _grow_one(file, size)
        self._disks.make(build, lambda _: None)


def _grow_one(file: DiskFile, size: int) -> None:
    now = size_of(file)
    if size < now:
        raise DriverError("A disk of the server cannot shrink.")
    if file.format == "raw":
        with file.path.open("rb+") as f:
            os.truncate(f.fileno(), size)
    elif size > now:
        run_tool("qemu-img", "resize", "-q", "-f", "qcow2", "--", str(file.path), str(size))
