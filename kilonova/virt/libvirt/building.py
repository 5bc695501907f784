"""Defining a real guest: its XML over files and taps that are there, its record, its config drive."""

import base64
import shutil
import zlib
from pathlib import Path
from typing import Any

from kilonova.objects.guest import DeviceAddress, GuestBuild, Hardware
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import console, facts, xml
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.disks import DiskFile, GuestRecord
from kilonova.virt.libvirt.domains import Domains, text_of

VARIABLES_MOST = 128 * 1024  # of an order's 256 KiB; mostly empty, they take a few
SOCKET_PATH_MOST = 107  # bytes; source: unix(7)


class Building(Domains):
    """What every part that defines a guest, once more or for the first time, stands on."""

    def _define(
        self,
        build: GuestBuild,
        hardware: Hardware,
        files: dict[str, DiskFile],
        before: Any = None,
    ) -> Any:
        """Define the domain over files that are there; its devices stay where they were in the domain ``before``."""
        directory = self._disks.directory(build.server_id)
        console.prepare(directory / "console.log")
        socket = directory / "vnc.sock"
        text = xml.domain(
            xml.Facts(
                build=build,
                hardware=hardware,
                files=files,
                taps={n.port_id: self._taps.tap_of(n.port_id) for n in build.nics},
                directory=directory,
                tag=self._config.tag,
                vnc_socket=socket if len(str(socket).encode()) <= SOCKET_PATH_MOST else None,
                nvram=self._nvram(build, directory) if hardware.firmware == "uefi" else None,
                host_nodes=self._config.nodes,
            )
        )
        if before is not None:
            text = xml.with_addresses_of(text, text_of(before))
        with telling("The guest could not be defined.", elsewhere=True):
            return self._connection.get().defineXML(text)

    def _nvram(self, build: GuestBuild, directory: Path) -> tuple[Path, Path]:
        found = facts.uefi()
        if found is None:
            raise DriverError("This host has no UEFI firmware.", elsewhere=True)
        code, template = found
        variables = directory / "nvram.fd"
        if not variables.exists():
            part = directory / "nvram.fd.part"
            brought = None if build.belongings is None else build.belongings.variables
            if brought is None or not _unpack(brought, part, template.stat().st_size):
                shutil.copyfile(template, part)
            self._disks.owner.give(part, write=True)
            part.replace(variables)
        return code, variables

    def variables_of(self, server_id: str) -> str | None:
        """Return a guest's UEFI variables, zlib in base64. DriverError: they are more than an order carries."""
        found = packed(self._disks.directory(server_id) / "nvram.fd")
        if found is not None and len(found) > VARIABLES_MOST:
            raise DriverError("The firmware variables of the server are too large to be moved.")
        return found

    def _devices(self, domain: Any, build: GuestBuild) -> tuple[DeviceAddress, ...]:
        return xml.devices_of(text_of(domain), xml.tags_of(build))

    def _keep(self, build: GuestBuild, hardware: Hardware, before: GuestRecord | None) -> None:
        ports = tuple(n.port_id for n in build.nics)
        record = GuestRecord(
            server=build.server_id, ports=ports, hardware=hardware, tags=xml.tags_of(build)
        )
        if record != before:
            self._disks.put_record(record)

    def _make_config_drive(self, build: GuestBuild, devices: tuple[DeviceAddress, ...]) -> None:
        """Write the config drive once: a guest's first boot is told by it, later ones see the same."""
        target = self._disks.drive_of(build)
        if build.config_drive and not target.exists():
            part = target.with_suffix(".part")
            self._config_drive(build.metadata, devices, part, build.metadata.admin_password)
            self._disks.owner.give(part, write=False)
            part.replace(target)

    def _define_again(self, build: GuestBuild, before: Any) -> Any:
        files = self._disks.existing(build)
        hardware = facts.freeze(self._connection.get(), build.hardware, self._config.virt_type)
        self._keep(build, hardware, self._disks.record(build.server_id))
        domain = self._define(build, hardware, files, before)
        self._make_config_drive(build, self._devices(domain, build))
        return domain


def packed(path: Path) -> str | None:
    """Return a file's bytes, zlib in base64; None when there is none."""
    try:
        return base64.b64encode(zlib.compress(path.read_bytes(), 9)).decode()
    except FileNotFoundError:
        return None


def _unpack(packed: str, target: Path, size: int) -> bool:
    """Write variables that came from another host; False when they are not of this host's firmware."""
    tool = zlib.decompressobj()
    try:
        data = tool.decompress(base64.b64decode(packed), size + 1)
    except (ValueError, zlib.error):
        return False
    if len(data) != size:
        return False
    target.write_bytes(data)
    return True
