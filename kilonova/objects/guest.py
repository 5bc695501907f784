"""What a host agent is told about a guest, and what it tells back. Payloads of Order and Answer.

verb of the Order      payload          answer payload
guest_build            GuestBuild       GuestBuilt     make disks, define, plug, start (unless start=False)
guest_delete           GuestDelete      GuestGone      destroy the guest and every file of it; fine when there is none
guest_power            GuestPower       GuestState     start, stop, reboot, pause, unpause, suspend, resume
guest_resize           GuestResize      GuestBuilt     off, old disks kept aside, resized; undo: GuestResizeRevert
guest_resize_confirm   GuestResizeConfirm GuestGone    what is kept aside is removed; fine when nothing is
guest_resize_revert    GuestResizeRevert GuestBuilt    what was kept is the guest; undo: GuestResize
guest_attach_nic       GuestAttachNic   NicAttached    plug a port and put it into the guest
guest_detach_nic       GuestDetachNic   NicDetached    take a NIC out of the guest and unplug its port
The undo of guest_build is an Order with verb guest_build, direction undo and a GuestDelete payload; that of
guest_attach_nic carries a GuestDetachNic, and the other way round.
"""

import enum
from typing import ClassVar, Union

import msgspec

from kilonova.objects.base import OpenEnum, Version, Versioned, since


class PowerState(enum.IntEnum):
    """Nova's numbers. source: compute API reference, OS-EXT-STS:power_state."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7


class PowerAction(OpenEnum):
    START = "start"  # also after SHUTOFF, a crash or a host reboot: networks and disks are made ready again
    STOP = "stop"  # ACPI first, off after timeout_s (0: at once)
    REBOOT_SOFT = "reboot_soft"  # ACPI; becomes hard after timeout_s
    REBOOT_HARD = "reboot_hard"  # off, defined anew, plugged anew, started
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SUSPEND = "suspend"  # memory to disk
    RESUME = "resume"
    UNKNOWN = "unknown"


class LocalDisk(Versioned, frozen=True, kw_only=True, tag="local", tag_field="type"):
    """A file that the host makes: from an image, or empty (swap, ephemeral, blank)."""

    name: str  # "root", "swap", "ephemeral0"
    size_gib: int
    size_mib: int = 0  # instead of size_gib when not a multiple
    image_id: str | None = None
    boot_index: int | None = None
    bus: str = "virtio"
    device: str | None = None  # "vda"
    guest_format: str | None = None
    tag: str | None = None
    device_type: str = "disk"


class NbdDisk(Versioned, frozen=True, kw_only=True, tag="nbd", tag_field="type"):
    """A volume reached over NBD. tls_name: what the certificate of its host says; "": no TLS."""

    VERSION: ClassVar[Version] = (1, 2)

    name: str
    host: str
    port: int
    export: str
    serial: str
    boot_index: int | None = None
    bus: str = "virtio"
    device: str | None = None
    tag: str | None = None
    readonly: bool = since(1, 1, default=False, critical=True)
    shareable: bool = since(
        1, 1, default=False, critical=True
    )  # multiattach: another guest may write it too
    tls_name: str = since(1, 2, default="", critical=True)


class FileDisk(Versioned, frozen=True, kw_only=True, tag="file", tag_field="type"):
    """A volume that is a file on this very host."""

    VERSION: ClassVar[Version] = (1, 1)

    name: str
    path: str
    format: str
    serial: str
    boot_index: int | None = None
    bus: str = "virtio"
    device: str | None = None
    tag: str | None = None
    readonly: bool = since(1, 1, default=False, critical=True)
    shareable: bool = since(
        1, 1, default=False, critical=True
    )  # multiattach: another guest may write it too


Disk = Union[LocalDisk, NbdDisk, FileDisk]  # noqa: UP007 - msgspec reads the union as tagged


class TapNic(Versioned, frozen=True, kw_only=True, tag="tap", tag_field="type"):
    """A port of the embedded network: the agent owns the tap and plugs it into the network's bridge."""

    port_id: str
    network_id: str
    mac: str
    mtu: int
    model: str = "virtio"
    tag: str | None = None


class OvsNic(Versioned, frozen=True, kw_only=True, tag="ovs", tag_field="type"):
    """A port of a real network service on Open vSwitch."""

    port_id: str
    network_id: str
    mac: str
    mtu: int
    bridge: str
    model: str = "virtio"
    tag: str | None = None


Nic = Union[TapNic, OvsNic]  # noqa: UP007


class ImageSource(Versioned, frozen=True, kw_only=True):
    """Where a host gets an image from: a URL signed for this host and image, and what must come out of it."""

    image_id: str
    url: str
    disk_format: str
    size: int  # bytes
    hash_algo: str | None = None
    hash_value: str | None = None
    min_disk_gib: int = 0


class Hardware(Versioned, frozen=True, kw_only=True):
    """A guest's hardware, frozen at its first build and stored with the server; None: the driver chooses."""

    machine: str | None = None  # a versioned machine type: "pc-i440fx-7.2"
    cpu_model: str | None = None
    firmware: str = "bios"
    disk_bus: str = "virtio"
    cdrom_bus: str = "virtio"
    nic_model: str = "virtio"
    video_model: str = "vga"
    rng: bool = True
    guest_agent: bool = False
    scsi_model: str = "virtio-scsi"
    virt_type: str | None = None  # "qemu" or "kvm"
    serial_ports: int = 1
    watchdog: str | None = None
    boot_menu: bool = False


class MetadataDocument(Versioned, frozen=True, kw_only=True):
    """All that the metadata service and the config drive tell a guest; nothing secret of the control plane.

    user_data: base64 as given by the user. keys: (name, type, public key). meta: the server's metadata.
    admin_password: only for the config drive of the first build. networks: one entry per NIC, see NicConfig.
    """

    server_id: str
    generation: int
    name: str
    hostname: str
    project_id: str
    availability_zone: str
    launch_index: int = 0
    reservation_id: str = ""
    instance_type: str = ""
    image_id: str | None = None
    meta: dict[str, str] = {}
    keys: tuple[tuple[str, str, str], ...] = ()
    user_data: str | None = None
    admin_password: str | None = None
    security_groups: tuple[str, ...] = ()
    networks: tuple["NicConfig", ...] = ()
    vendor_data: dict[str, msgspec.Raw] = {}
    created_at: float = 0.0


class MetadataPush(Versioned, frozen=True, kw_only=True):
    """A newer metadata document, on ``agent.<host>.state``; one of a lower generation than the agent's is dropped."""

    host: str
    document: MetadataDocument


class NicConfig(Versioned, frozen=True, kw_only=True):
    """What network_data.json and the EC2 paths say of one NIC."""

    port_id: str
    network_id: str
    mac: str
    mtu: int
    addresses: tuple["AddressConfig", ...] = ()
    floating_ip: str | None = None
    tag: str | None = None


class AddressConfig(Versioned, frozen=True, kw_only=True):
    """One fixed address with its subnet. ipv6_mode: slaac, dhcpv6-stateless, dhcpv6-stateful; None: by dhcp alone."""

    VERSION: ClassVar[Version] = (1, 1)

    address: str
    cidr: str
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()  # (destination cidr, next hop)
    dhcp: bool = True
    ipv6_mode: str | None = since(1, 1, default=None)


class Belongings(Versioned, frozen=True, kw_only=True):
    """What a guest has on its host besides disks, and takes along when it comes to another one.

    password: as it posted it, encrypted for its owner's key. variables: its UEFI variables, zlib in base64.
    """

    password: str = ""
    variables: str | None = None


class PassedDevice(Versioned, frozen=True, kw_only=True):
    """A PCI device of the host that the guest has alone. address: where the host has it."""

    address: str
    resource_class: str = ""


class GuestNode(Versioned, frozen=True, kw_only=True):
    """A NUMA node of a guest. cpus: its vCPUs. host_node: where on the host it has to be; None: anywhere."""

    number: int
    cpus: tuple[int, ...]
    memory_mib: int
    host_node: int | None = None


class GuestBuild(Versioned, frozen=True, kw_only=True):
    """Make a guest from nothing, or make what is missing of it: repeating it is safe.

    drive_name: the config drive's file; a rescue has one of its own, which tells its password. belongings: of a guest
    that comes from elsewhere; what it has on this host already stays. passed: devices of the host. nodes: its
    own NUMA nodes.
    """

    VERSION: ClassVar[Version] = (1, 4)

    server_id: str
    name: str
    project_id: str
    vcpus: int
    memory_mib: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    images: tuple[ImageSource, ...]
    hardware: Hardware
    metadata: MetadataDocument
    config_drive: bool = False
    start: bool = True
    faults: tuple[
        str, ...
    ] = ()  # simulated clouds only: names of faults asked for by server metadata
    vif_timeout_s: float = 60.0
    drive_name: str = since(1, 1, default="config-drive")
    belongings: Belongings | None = since(1, 2, default=None)
    passed: tuple[PassedDevice, ...] = since(1, 3, default=(), critical=True)
    nodes: tuple[GuestNode, ...] = since(1, 4, default=(), critical=True)


class DeviceAddress(Versioned, frozen=True, kw_only=True):
    """Where a guest sees a device; goes into the metadata's ``devices`` list."""

    kind: str  # "nic", "disk", or "hostdev": a device of the host, whose address there is its path
    bus: str  # "pci", "scsi", "virtio"
    address: str
    tag: str | None = None
    mac: str | None = None
    serial: str | None = None
    path: str | None = None


class GuestBuilt(Versioned, frozen=True, kw_only=True):
    power_state: int
    hardware: Hardware
    devices: tuple[DeviceAddress, ...] = ()


class GuestPower(Versioned, frozen=True, kw_only=True):
    """A power action, with everything that is needed to define the guest anew (START, REBOOT_HARD)."""

    server_id: str
    action: PowerAction
    timeout_s: float = 60.0
    build: GuestBuild | None = None  # given for START, RESUME and REBOOT_HARD


class GuestState(Versioned, frozen=True, kw_only=True):
    power_state: int


class GuestDelete(Versioned, frozen=True, kw_only=True):
    server_id: str
    delete_disks: bool = True


class GuestResize(Versioned, frozen=True, kw_only=True):
    """Give a guest the size that ``build`` says. build.start: whether it runs afterwards; timeout_s: to shut down."""

    server_id: str
    build: GuestBuild
    timeout_s: float = 60.0


class GuestResizeConfirm(Versioned, frozen=True, kw_only=True):
    """Forget what a guest was before its resize."""

    server_id: str


class GuestResizeRevert(Versioned, frozen=True, kw_only=True):
    """Make a guest what it was before its resize: ``build`` describes that, build.start whether it runs afterwards."""

    server_id: str
    build: GuestBuild


class SwapPart(OpenEnum):
    """How far a guest goes over to another place of a volume: COPY until both places have all, OVER: it is decided."""

    ALL = "all"  # both at once, as agents of 0.1.0 do whatever they are told
    COPY = "copy"
    OVER = "over"
    UNKNOWN = "unknown"


class GuestAttachDisk(Versioned, frozen=True, kw_only=True):
    """Give a guest a volume; its serial is the volume's id. metadata: as it reads afterwards (devices with tags).

    swap: of guest_swap_disk.
    """

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    disk: NbdDisk | FileDisk
    metadata: MetadataDocument | None = None
    swap: SwapPart = since(1, 1, default=SwapPart.ALL)


class GuestDetachDisk(Versioned, frozen=True, kw_only=True):
    """Take the volume of this serial out of a guest."""

    server_id: str
    serial: str
    metadata: MetadataDocument | None = None


class GuestDevices(Versioned, frozen=True, kw_only=True):
    """Where the guest sees all its devices now."""

    devices: tuple[DeviceAddress, ...] = ()


class GuestGone(Versioned, frozen=True, kw_only=True):
    existed: bool


class GuestAttachNic(Versioned, frozen=True, kw_only=True):
    """Put one NIC into a guest. metadata: the document as it is with the NIC; None: it stays as it is."""

    server_id: str
    nic: Nic
    metadata: MetadataDocument | None = None
    vif_timeout_s: float = 60.0


class NicAttached(Versioned, frozen=True, kw_only=True):
    device: DeviceAddress


class GuestDetachNic(Versioned, frozen=True, kw_only=True):
    """Take one NIC out of a guest. mac: names the device in the metadata."""

    server_id: str
    port_id: str
    mac: str = ""
    metadata: MetadataDocument | None = None


class NicDetached(Versioned, frozen=True, kw_only=True):
    existed: bool
