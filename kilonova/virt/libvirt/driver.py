"""Real guests by libvirt and QEMU. Composes connection, disks, xml, power and console; every method is repeatable.

Which domains are ours, and how they are found: domains.py.
"""

import time
from pathlib import Path
from typing import Any

import libvirt

from kilonova.common.log import get_logger
from kilonova.objects.guest import (
    DeviceAddress,
    GuestBuild,
    Hardware,
    PowerAction,
    PowerState,
    TapNic,
)
from kilonova.objects.host import Inventory
from kilonova.virt.driver import DriverError, GuestMissing, OnEvent, Progress
from kilonova.virt.libvirt import console, disks, facts, passthrough, power, xml
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.consoles import Consoles
from kilonova.virt.libvirt.domains import is_active, text_of
from kilonova.virt.libvirt.guest_tools import GuestTools
from kilonova.virt.libvirt.migration import INCOMING, Migrations, coming
from kilonova.virt.libvirt.nics import Nics
from kilonova.virt.libvirt.remaking import Remaking
from kilonova.virt.libvirt.resize import Resizes
from kilonova.virt.libvirt.snapshots import Snapshots

log = get_logger(__name__)
INVENTORY_FOR_S = 30.0
_ON = frozenset({PowerState.RUNNING, PowerState.PAUSED})


class LibvirtDriver(Consoles, Remaking, Nics, Snapshots, Resizes, GuestTools, Migrations):
    """One host with libvirtd. Threads may share it. What only some orders need is in a part that it inherits."""

    name = "libvirt"

    def inventory(self) -> Inventory:
        """Return what the host has, asked at most every 30 s."""
        now = time.monotonic()
        with self._lock:
            if self._inventory is not None and now - self._inventory[0] < INVENTORY_FOR_S:
                return self._inventory[1]
        c = self._config
        found = facts.inventory(
            self._connection.get(), c.instances, c.virt_type, c.host_ip, c.reserved_memory_mib
        )
        found = found.replace(devices=c.devices, nodes=c.nodes)
        with self._lock:
            self._inventory = (now, found)
        return found

    def refuses(self, build: GuestBuild) -> str | None:
        """Refuse Open vSwitch, unknown buses and models, UEFI without its firmware."""
        h = build.hardware
        for nic in build.nics:
            if not isinstance(nic, TapNic):
                return "This host has no Open vSwitch."
            if xml.bus_of(nic.model, h.nic_model) not in xml.NIC_MODELS:
                return f"This host has no network card {xml.bus_of(nic.model, h.nic_model)}."
        for disk in build.disks:
            if xml.bus_of(disk.bus, h.disk_bus) not in xml.BUSES:
                return f"This host has no disk bus {xml.bus_of(disk.bus, h.disk_bus)}."
        if h.firmware == "uefi" and facts.uefi() is None:
            return "This host has no UEFI firmware."
        if h.video_model not in xml.VIDEO_MODELS:
            return f"This host has no video device {h.video_model}."
        if h.virt_type not in (None, self._config.virt_type):
            return f"This host does not run guests by {h.virt_type}."
        return passthrough.refuses(build.passed, self._config.devices) or disks.refuses(build)

    def build(
        self, build: GuestBuild, progress: Progress
    ) -> tuple[int, Hardware, tuple[DeviceAddress, ...]]:
        """Make disks, define, start; what is there already stays. A guest that runs is left as it is."""
        server = build.server_id
        progress("defining the guest")
        conn = self._connection.get()
        domain = self._find(server)
        record = self._disks.record(server)
        hardware = record.hardware if record and domain is not None else None
        if hardware is None:
            hardware = facts.freeze(conn, build.hardware, self._config.virt_type)
        self._keep(build, hardware, record)
        if domain is None or not is_active(domain):
            files = self._disks.make(build, progress)
            domain = self._define(build, hardware, files)
            devices = self._devices(domain, build)
            self._make_config_drive(build, devices)
            if build.start:
                progress("starting the guest")
                self._boot(domain)
        else:
            devices = self._devices(domain, build)
        return int(power.state_of(domain)), hardware, devices

    def power(
        self,
        server_id: str,
        action: PowerAction,
        timeout_s: float,
        build: GuestBuild | None,
        progress: Progress,
    ) -> int:
        """Perform a power action; with a build START and REBOOT_HARD define the guest anew over its disks."""
        domain = self._find(server_id)
        if domain is None and build is None:
            raise GuestMissing("The server has no guest on this host.")
        match action:
            case PowerAction.START:
                domain = self._start(domain, build)
            case PowerAction.REBOOT_HARD:
                domain = self._reboot_hard(domain, build)
            case PowerAction.RESUME:
                if domain is None or power.state_of(domain) == PowerState.SHUTDOWN:
                    domain = self._start(domain, build)
                else:
                    self._boot(domain)
            case _:
                self._act(server_id, domain, action, timeout_s, progress)
        return int(power.state_of(domain))

    def delete(self, server_id: str, progress: Progress) -> bool:
        """Turn the guest off, undefine it, remove its files. A domain that is not ours makes this fail."""
        progress("deleting the guest")
        domain = self._find(server_id)
        if domain is not None:
            power.destroy(domain)
            with telling("The guest could not be undefined."):
                try:
                    domain.undefineFlags(
                        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                    )
                except libvirt.libvirtError as exc:
                    if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise
        with self._lock:
            self._marked.discard(server_id)
        return self._disks.remove(server_id) or domain is not None

    def guests(self) -> dict[str, int]:
        """Return our domains and their power states, and keep console logs short on the way."""
        found: dict[str, int] = {}
        for domain, state in self._domains():
            server = self._server_of(domain)
            if server is not None and not self._is_awaited(server, domain):
                found[server] = int(power.state_of(domain, state))
                console.rotate(self._disks.directory(server) / "console.log")
        return found

    def _is_awaited(self, server_id: str, domain: Any) -> bool:
        """Tell whether a guest moves here live and does not run here yet: it is its source's still."""
        try:
            return (self._disks.directory(server_id) / INCOMING).exists() and coming(domain)
        except GuestMissing:  # its migration failed in this moment
            return True

    def ports(self, server_id: str) -> tuple[str, ...]:
        """Return the ports of a guest, from its record or its domain."""
        record = self._disks.record(server_id)
        if record is not None:
            return record.ports
        domain = self._find(server_id)
        return () if domain is None else xml.ports_of(text_of(domain))

    def strangers(self) -> list[str]:
        """Return the names of domains that are not ours."""
        return [domain.name() for domain, _ in self._domains() if self._server_of(domain) is None]

    def console_log(self, server_id: str, lines: int | None) -> str:
        """Return what the guest printed last."""
        if self._find(server_id) is None:
            raise GuestMissing("The server has no guest on this host.")
        return console.read(self._disks.directory(server_id) / "console.log", lines)

    def diagnostics(self, server_id: str) -> dict[str, object]:
        """Return the counters of a guest that runs."""
        domain = self._found(server_id)
        drive = (self._disks.directory(server_id) / "config-drive.iso").exists()
        return facts.diagnostics(domain, drive)

    def on_event(self, handler: OnEvent) -> None:
        """Tell ``handler`` of every change; the agent sorts out what its own orders did."""
        self._handler = handler

    def vnc_socket(self, server_id: str) -> Path:
        """Return the unix socket of a guest's display; it exists while the guest runs."""
        return self._disks.directory(server_id) / "vnc.sock"

    def close(self) -> None:
        """Let go of libvirtd; guests go on."""
        self._handler = None
        self._connection.close()

    # -- power

    def _start(self, domain: Any, build: GuestBuild | None) -> Any:
        """Start a guest that is off, defined anew when a build is given; one that runs is left as it is."""
        if domain is not None and is_active(domain):
            return domain
        if build is not None and (domain is None or power.state_of(domain) != PowerState.SUSPENDED):
            domain = self._define_again(build, domain)
        self._boot(domain)
        return domain

    def _reboot_hard(self, domain: Any, build: GuestBuild | None) -> Any:
        if domain is not None:
            power.destroy(domain)
            power.forget_memory(domain)
        if build is not None:
            domain = self._define_again(build, domain)
        self._boot(domain)
        return domain

    def _act(
        self, server_id: str, domain: Any, action: PowerAction, timeout_s: float, progress: Progress
    ) -> None:
        if domain is None:
            raise GuestMissing("The server has no guest on this host.")
        on = power.state_of(domain) in _ON
        match action:
            case PowerAction.STOP:
                if on:
                    self._waits.acpi_off(server_id, domain, timeout_s, progress)
            case PowerAction.REBOOT_SOFT:
                if on:
                    self._waits.acpi_off(server_id, domain, timeout_s, progress)
                self._boot(domain)
            case PowerAction.PAUSE if on:
                power.pause(domain)
            case PowerAction.UNPAUSE if on:
                power.unpause(domain)
            case PowerAction.SUSPEND:
                power.suspend(domain)
            case PowerAction.PAUSE | PowerAction.UNPAUSE:
                raise DriverError("The server is not running.")
            case _:
                raise DriverError("This host does not know that power action.", action=str(action))
