"""What a host reports of itself: registration, heartbeat, events. Sent on ``report.<host>`` in a Report envelope."""

from typing import ClassVar, Union

from kilonova.objects.base import Version, Versioned, since


class HostDevice(Versioned, frozen=True, kw_only=True):
    """One PCI device or virtual function that a host may give to a guest. address: "0000:81:00.0"."""

    address: str
    resource_class: str
    traits: tuple[str, ...] = ()
    numa_node: int | None = None


class HostNode(Versioned, frozen=True, kw_only=True):
    """One NUMA node of a host. cpus: those that guests share; dedicated: those that one guest has alone."""

    number: int
    memory_mib: int
    cpus: tuple[int, ...] = ()
    dedicated: tuple[int, ...] = ()


class Inventory(Versioned, frozen=True, kw_only=True):
    """What a host has and is. Units: cores, MiB, GiB.

    vcpus: without the dedicated ones. nodes: of a host that has several NUMA nodes; ``dedicated`` is all of theirs.
    """

    VERSION: ClassVar[Version] = (1, 1)

    vcpus: int
    memory_mib: int
    disk_gib: int
    reserved_memory_mib: int = 0
    hypervisor_type: str = "QEMU"
    hypervisor_version: int = 0
    cpu_info: dict[str, str] = {}
    traits: tuple[str, ...] = ()
    host_ip: str = "127.0.0.1"
    disk_free_gib: int | None = None
    supported: tuple[tuple[str, str, str], ...] = (("x86_64", "qemu", "hvm"),)
    numa: tuple[tuple[int, int], ...] = ()
    devices: tuple[HostDevice, ...] = since(1, 1, default=())
    nodes: tuple[HostNode, ...] = since(1, 1, default=())
    dedicated: tuple[int, ...] = since(1, 1, default=())


class HostRegister(Versioned, frozen=True, kw_only=True, tag="register", tag_field="type"):
    """First message of an agent: who it is. The reply is a Registered."""

    host: str
    host_id: str
    boot_id: str
    journal_id: str
    cell: str
    driver: str
    release: str
    inventory: Inventory
    versions: dict[str, tuple[int, int]]


class OwnedServer(Versioned, frozen=True, kw_only=True):
    """One guest that the control plane places on this host. wanted_power: RUNNING, SHUTDOWN, PAUSED, SUSPENDED or 0."""

    server_id: str
    epoch: int
    wanted_power: int
    busy: bool = False  # an operation owns it: leave it alone


class Registered(Versioned, frozen=True, kw_only=True):
    """The reply: what this host owns. The agent starts nothing before it has it.

    speak: type -> the version to write it in, where that is older than what the host said it knows.
    """

    VERSION: ClassVar[Version] = (1, 1)

    servers: tuple[OwnedServer, ...]
    accepted: bool = True
    reason: str | None = None
    speak: dict[str, Version] = since(1, 1, default_factory=dict)


class Heartbeat(Versioned, frozen=True, kw_only=True, tag="heartbeat", tag_field="type"):
    """Every 10 s with jitter; digest covers inventory, guests and the desired-state generation."""

    host: str
    boot_id: str
    digest: str


class GuestEvent(Versioned, frozen=True, kw_only=True, tag="guest", tag_field="type"):
    """A guest changed its power state without an order."""

    host: str
    server_id: str
    power_state: int
    at: float


class GuestList(Versioned, frozen=True, kw_only=True, tag="guests", tag_field="type"):
    """Every domain of the host: (server id or domain name, power state, known to us)."""

    host: str
    guests: tuple[tuple[str, int, bool], ...]
    inventory: Inventory | None = None


class Report(Versioned, frozen=True, kw_only=True):
    """Envelope of everything on ``report.<host>``."""

    host: str
    body: Union[HostRegister, Heartbeat, GuestEvent, GuestList]  # noqa: UP007


class HostAsk(Versioned, frozen=True, kw_only=True):
    """Control plane -> agent on ``agent.<host>.state``: what is asked of a host: "guests", "register", "heartbeat"."""

    host: str
    what: str
