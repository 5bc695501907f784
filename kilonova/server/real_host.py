"""This machine as the one host of a cloud: root helper, private libvirtd, host networking, metadata service, agent."""

import functools
import grp
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilonova.agent import bootid, libvirtd
from kilonova.agent.core import Agent, Identity
from kilonova.agent.helper.client import HelperClient
from kilonova.agent.helper.verbs import machine
from kilonova.agent.images import ImageCache
from kilonova.agent.journal import Journal
from kilonova.agent.metadata import configdrive
from kilonova.agent.metadata.server import MetadataService
from kilonova.agent.metadata.store import FileMetadataStore
from kilonova.agent.network.applier import RealHostNetwork
from kilonova.agent.uploads import HostFiles
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.common.config import Settings
from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger
from kilonova.console.gate import ConsoleGate
from kilonova.image.safe_convert import convert_to_qcow2
from kilonova.server.access import ImageAccess
from kilonova.server.plan import Plan
from kilonova.virt.driver import Driver
from kilonova.virt.libvirt import passthrough
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.domains import LibvirtConfig
from kilonova.virt.libvirt.driver import LibvirtDriver
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig

log = get_logger(__name__)
GIB = 1 << 30
RESYNC_S = 2.0


class NetworkWatch(threading.Thread):
    """Keeps the metadata service on the networks that are in force on this host."""

    def __init__(self, network: RealHostNetwork, service: MetadataService) -> None:
        super().__init__(name="metadata-networks", daemon=True)
        self._network = network
        self._service = service
        self._wake = threading.Event()
        self._stop = False
        network.on_networks = self._wake.set

    def run(self) -> None:
        """Serve what is there, again after each change."""
        while not self._stop:
            self._service.serve_networks(self._network.networks())
            self._wake.wait()
            self._wake.clear()

    def close(self) -> None:
        """End the thread."""
        self._stop = True
        self._wake.set()


@dataclass(frozen=True)
class Place:
    """Which real host: this machine itself, or another one on it (agent/helper/verbs/machine.py).

    helper: the socket of its root helper. tag: of what it makes. underlay: its address there, "" for a host alone.
    """

    host: str
    directory: Path
    helper: Path
    tag: str
    underlay: str = ""
    cell: str = "cell1"
    public_interface: str | None = None


class LibvirtHost:
    """The parts of one real host. ``start`` registers it; ``close`` leaves guests and networks running."""

    def __init__(
        self,
        place: Place,
        plan: Plan,
        bus: Bus,
        access: ImageAccess,
        gate: ConsoleGate | None = None,
    ) -> None:
        clock = plan.clock
        s, base = plan.settings, place.directory
        base.mkdir(mode=0o710, exist_ok=True)
        self.helper = HelperClient(place.helper)
        self.host = place.host
        alive = bool(self.helper.guest_processes()) or libvirtd_runs(place.tag)
        boot = bootid.boot_id(base / "boot", lambda: alive)
        self.changes = self._host_up(place, s)
        group = _group()
        self.network = RealHostNetwork(self.helper, self.host, bus, place.underlay)
        self.store = FileMetadataStore(base / "metadata")
        self.metadata = MetadataService(self.store, self.helper.metadata_socket)
        self.watch = NetworkWatch(self.network, self.metadata)
        self.cache = ImageCache(
            _shared(base / "cache", group),
            convert_to_qcow2,
            open_image=access.open_image,
            limit_bytes=s.cache_limit_gib * GIB,
            group=group,
            ca_file=access.ca,
        )
        self.cache.open_folder = access.send.folders.open
        config = LibvirtConfig(
            uri=lambda: libvirtd.ensure(self.helper).uri,
            instances=_shared(base / "instances", group),
            tag=plan.tag,
            virt_type=plan.virt_type,
            group=group,
            reserved_memory_mib=s.reserved_host_memory_mib,
            host=self.host,
            devices=passthrough.host_devices(s.pci_device_spec),
            moves=lambda: Path(libvirtd.ensure(self.helper).moves),
        )
        _shared(base, group)
        kept = VolumesConfig(
            base / "volumes",
            self.host,
            group,
            s.nbd_address or None,
            config.tools,
            self._identity(plan, group),
        )
        self.volumes = QcowVolumes(kept, self.cache, access.send)
        self.driver = LibvirtDriver(config, self.cache, self.network, configdrive.build)
        self.workers = Workers(4)
        self.agent = Agent(
            Identity(host=self.host, host_id=_host_id(base), cell=place.cell, boot_id=boot),
            self.driver,
            self.network,
            bus,
            Journal(base / "journal.db"),
            self.workers,
            metadata=self.store,
            volumes=self.volumes,
            clock=clock,
            heartbeat_s=s.heartbeat_s,
            files=HostFiles(_shared(base / "copies", group), access.send),
            gate=gate,
        )
        self._stopped = threading.Event()

    def _identity(self, plan: Plan, group: int | None) -> HostIdentity | None:
        """Return by what other hosts know this one; None where there are none, or TLS is not wanted."""
        s = plan.settings
        if not s.nbd_tls or not (s.nbd_address or plan.shares):
            return None
        directory = functools.cache(lambda: Path(libvirtd.ensure(self.helper).certificates))
        return HostIdentity(self.host, directory, Owner(group))

    def _host_up(self, place: Place, s: Settings) -> list[str]:
        """Have the helper make the host's namespace and public network; return what was changed on the machine."""
        return self.helper.host_up(
            s.public_cidr,
            s.public_gateway or _first_address(s.public_cidr),
            public_interface=place.public_interface or s.public_interface,
            public_pool=s.public_range,
            underlay=place.underlay or None,
            underlay_port=s.underlay_port,
        )

    def start(self, wait_s: float = 60.0) -> None:
        """Bring networks and exports back, serve metadata, register; wait at most so long for the registration.

        wait_s 0: somebody will answer later, perhaps.
        """
        if wait_s:
            self.network.resync()
        else:
            threading.Thread(target=self._until_told, name="resync", daemon=True).start()
        self._export_again()
        self.watch.start()
        self.agent.start()
        if not self.agent.registered.wait(wait_s) and wait_s:
            log.error("this host is not registered yet; the agent goes on trying")

    def _until_told(self) -> None:
        """Ask for the networks of this host until somebody says them."""
        while not self._stopped.is_set():
            self.network.resync()
            if self.network.told.is_set():
                return
            self._stopped.wait(RESYNC_S)

    def _export_again(self) -> None:
        """After a boot guests find what was exported before, also when nobody tells us yet."""
        try:
            self.volumes.check()
        except KilonovaError as exc:
            log.error(
                "volumes are not exported yet", extra={"why": exc.message, "facts": str(exc.facts)}
            )

    def close(self) -> None:
        """Let go; guests, networks and libvirtd go on."""
        self._stopped.set()
        self.agent.close()
        self.workers.close()
        self.watch.close()
        self.metadata.close()
        self.network.close()
        self.helper.close()


class RealHosts:
    """The real hosts of a process: this machine, and others on it when it was asked for them."""

    def __init__(
        self,
        plan: Plan,
        hosts: Sequence[tuple[str, str]],
        bus_of: Callable[[str], Bus],
        access: ImageAccess,
        gate: ConsoleGate | None = None,
    ) -> None:
        """hosts: (cell, name) of each (own_hosts.py). bus_of(host): its connection. gate: as in simulated.py."""
        if plan.helper_socket is None:
            raise Unavailable("real guests need the root helper: start the cloud as root")
        base, tag, alone = plan.state_dir / "agent", plan.tag, len(hosts) == 1
        underlay = plan.settings.underlay_ip if alone else machine.underlay_address(tag, 1)
        cell, name = hosts[0]
        first = Place(name, base, plan.helper_socket, tag, underlay, cell)
        self.hosts = [LibvirtHost(first, plan, bus_of(name), access, gate)]
        for number, (cell, name) in enumerate(hosts[1:], 2):
            made = self.hosts[0].helper.machine_up(number)
            place = Place(
                name,
                base.with_name(f"agent-{number}"),
                Path(made.socket),
                made.tag,
                made.underlay,
                cell,
                made.public_interface,
            )
            self.hosts.append(LibvirtHost(place, plan, bus_of(name), access, gate))

    def start(self, wait_s: float = 60.0) -> None:
        """Register every host."""
        for host in self.hosts:
            host.start(wait_s)

    def driver_of(self, host: str) -> Driver:
        """Return the driver of a host; of this machine when there is none of that name."""
        return next((h.driver for h in self.hosts if h.host == host), self.hosts[0].driver)

    def close(self) -> None:
        """Let go of every host."""
        for host in self.hosts:
            host.close()


def libvirtd_runs(tag: str) -> bool:
    """Tell whether our libvirtd runs already (before anything is started)."""
    return bootid.runs(Path(f"/run/kilonova-{tag}"), "**/libvirtd.pid")


def _first_address(cidr: str) -> str:
    import ipaddress

    return str(next(ipaddress.ip_network(cidr).hosts()))


def _group() -> int | None:
    """Return QEMU's group when we run as another user and are a member of it."""
    try:
        gid = grp.getgrnam("kilonova-qemu").gr_gid
    except KeyError:
        return None
    return gid if os.geteuid() == 0 or gid in os.getgroups() else None


def _shared(path: Path, group: int | None) -> Path:
    """Make a directory that QEMU's group may pass, and nobody else."""
    path.mkdir(mode=0o710, exist_ok=True)
    if group is not None:
        os.chown(path, -1, group)
        os.chmod(path, 0o2750)  # noqa: S103 - new files belong to QEMU's group
    return path


def _host_id(base: Path) -> str:
    """Return the id of this host, made once."""
    path = base / "host-id"
    if not path.exists():
        path.write_text(new_uuid())
    return path.read_text()
