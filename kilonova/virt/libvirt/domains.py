"""What every part of the libvirt driver stands on: the connection, our domains, their files.

A domain is ours when its metadata element names its own UUID and our cloud's tag; any other is reported, never touched,
not even when an order names its UUID.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import libvirt

from kilonova.objects.guest import DeviceAddress, MetadataDocument, PowerState
from kilonova.objects.host import HostDevice, HostNode, Inventory
from kilonova.virt.driver import Again, DriverError, GuestMissing, OnEvent
from kilonova.virt.libvirt import facts, hotplug, passthrough, power, xml
from kilonova.virt.libvirt.connection import Connection, telling
from kilonova.virt.libvirt.copies import Copies
from kilonova.virt.libvirt.disks import Disks, GuestRecord, Images, Owner
from kilonova.virt.libvirt.tools import Tools


class Taps(Protocol):
    """The host's network, as far as a driver needs it."""

    def tap_of(self, port_id: str) -> str:
        """Return the name of a port's tap; the agent plugs it before the guest is started."""
        ...


COPY_POLL_S = 0.3
ConfigDrive = Callable[[MetadataDocument, Iterable[DeviceAddress], Path, str | None], object]


@dataclass(frozen=True)
class LibvirtConfig:
    """uri: returns libvirtd's URI, starting the daemon if need be. tag: of this cloud, in each domain's metadata.

    group: numeric group of QEMU's user when that is not us.
    host: its name in the cloud. virt_type: "kvm" only after a guest was seen to run by it.
    """

    uri: Callable[[], str]
    instances: Path
    tag: str
    virt_type: str = "qemu"
    group: int | None = None
    host_ip: str = "127.0.0.1"
    reserved_memory_mib: int = 512
    tools: Tools = field(default_factory=Tools)  # those of the host's volumes too
    host: str = ""
    devices: tuple[HostDevice, ...] = ()  # those that guests may have
    nodes: tuple[HostNode, ...] = field(default_factory=passthrough.host_nodes)
    moves: Callable[[], Path] | None = None  # where QEMU listens for guests that move here live


class Domains:
    """The guests of one host, found and told apart from others'. Every part of the driver inherits this."""

    def __init__(
        self, config: LibvirtConfig, images: Images, taps: Taps, config_drive: ConfigDrive
    ) -> None:
        self._config = config
        self._taps = taps
        self._config_drive = config_drive
        self._disks = Disks(config.instances, images, Owner(config.group))
        self._waits = power.Waits()
        self._moves: dict[str, Any] = {}  # live migrations that a thread of ours waits for
        self._asked = hotplug.Detaching()
        self._tools = config.tools
        self._copies = Copies(self._disks.owner)
        self._handler: OnEvent | None = None
        self._marked: set[str] = set()
        self._inventory: tuple[float, Inventory] | None = None
        self._lock = threading.Lock()
        self._connection = Connection(config.uri, self._lifecycle)
        self._connection.on_reconnect = self._tell_all

    def _find(self, server_id: str) -> Any:
        """Return our domain of a server or None. Raises DriverError when another's domain has the UUID."""
        conn = self._connection.get()
        with telling("The guest cannot be looked up."):
            try:
                domain = conn.lookupByUUIDString(server_id)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
        if self._server_of(domain) != server_id.lower():
            raise DriverError("A domain that is not ours has this server's id.", elsewhere=True)
        return domain

    def _found(self, server_id: str) -> Any:
        domain = self._find(server_id)
        if domain is None:
            raise GuestMissing("The server has no guest on this host.")
        return domain

    def _record_of(self, server_id: str, domain: Any) -> GuestRecord:
        record = self._disks.record(server_id)
        if record is None:
            record = GuestRecord(server=server_id, ports=xml.ports_of(text_of(domain)))
        return record

    def _boot(self, domain: Any) -> None:
        """Start a guest; Again while a tool copies a disk of it, for the two would be in each other's way."""
        with telling("The guest's definition cannot be read."):
            off = not domain.isActive()
        if off and any(self._tools.reads(path) for path in xml.sources_of(text_of(domain))):
            raise Again(COPY_POLL_S)
        power.create(domain)

    def _server_of(self, domain: Any) -> str | None:
        """Return the server whose domain this is, None when it is not ours. What was seen to be ours stays so."""
        uuid: str = domain.UUIDString()
        if uuid in self._marked:
            return uuid
        with telling("The guest's mark cannot be read."):
            try:
                text = facts.ours(domain, xml.MARK)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None  # gone since it was listed
                raise
        mark = None if text is None else xml.mark_of(text)
        if mark != (uuid, self._config.tag):
            return None
        with self._lock:
            self._marked.add(uuid)
        return uuid

    def _domains(self) -> list[tuple[Any, int]]:
        with telling("The guests cannot be listed."):
            stats = self._connection.get().getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        return [(domain, s.get("state.state", 0)) for domain, s in stats]

    # -- events

    def _lifecycle(self, uuid: str, event: int, detail: int) -> None:
        """From the event loop: pass on that something changed; what it is now is asked later, from another thread."""
        handler = self._handler
        if handler is not None:
            handler(uuid, int(PowerState.NOSTATE))

    def _tell_all(self) -> None:
        """After a reconnect events may have been missed: every guest is looked at."""
        handler = self._handler
        if handler is not None:
            for domain, state in self._domains():
                server = self._server_of(domain)
                if server is not None:
                    handler(server, int(power.state_of(domain, state)))


def is_active(domain: Any) -> bool:
    with telling("The state of the guest cannot be read."):
        return bool(domain.isActive())


def text_of(domain: Any) -> str:
    with telling("The guest's definition cannot be read."):
        text: str = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    return text
