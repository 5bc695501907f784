"""A server as asked for, and the records that rest inside a server's row."""

from typing import ClassVar

from kilonova.objects.base import Version, Versioned, since
from kilonova.objects.port import NicPlan


class FlavorRecord(Versioned, frozen=True, kw_only=True):
    """A flavor as it was when the server was built. Units: cores, MiB, GiB."""

    flavorid: str
    name: str
    vcpus: int
    memory_mib: int
    root_gib: int
    ephemeral_gib: int = 0
    swap_mib: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    disabled: bool = False
    description: str | None = None
    extra_specs: dict[str, str] = {}


class DiskRequest(Versioned, frozen=True, kw_only=True):
    """One disk as asked for by block_device_mapping_v2 or implied by image and flavor."""

    VERSION: ClassVar[Version] = (1, 2)

    source: str  # image, blank, volume, snapshot
    destination: str = "local"  # or "volume"
    size_gib: int = 0
    size_mib: int = 0
    image_id: str | None = None
    boot_index: int | None = None
    device: str | None = None
    bus: str | None = None
    device_type: str | None = None
    guest_format: str | None = None
    tag: str | None = None
    name: str = "root"
    # of a disk that is a volume. item: the key's second half, for what the create made or reserved
    volume_id: str | None = since(1, 1)
    snapshot_id: str | None = since(1, 1)
    attachment_id: str | None = since(1, 1)
    volume_type: str | None = since(1, 1)
    delete_on_termination: bool = since(1, 1, default=False)
    item: str = since(1, 1, default="")
    mode: str = since(1, 1, default="rw")
    id: str = since(1, 2, default="")  # "bdm_uuid" of the API
    state: str = since(
        1, 2, default=""
    )  # of a volume: "attaching", "detaching", "" once it is there


class ImageRecord(Versioned, frozen=True, kw_only=True):
    """What a build needs to know of the image, as it was at accept."""

    id: str
    name: str
    disk_format: str
    size: int
    min_disk_gib: int = 0
    min_ram_mib: int = 0
    hash_algo: str | None = None
    hash_value: str | None = None
    properties: dict[str, str] = {}


class RequestedServer(Versioned, frozen=True, kw_only=True):
    """Everything that POST /servers asked for, checked and resolved. Rests in ``server_mapping.requested``.

    user_data and admin_password are references into the secret table. hints: scheduler hints as given.
    """

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    project_id: str
    user_id: str
    request_id: str
    name: str
    hostname: str
    description: str | None = None
    flavor: FlavorRecord
    image: ImageRecord | None
    key_name: str | None = None
    keys: tuple[tuple[str, str, str], ...] = ()
    metadata: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    availability_zone: str | None = None
    requested_host: str | None = None
    requested_node: str | None = None
    force_host: bool = False
    hints: dict[str, tuple[str, ...]] = {}
    server_group: str | None = None
    user_data: str | None = None
    admin_password: str | None = None
    security_groups: tuple[tuple[str, str], ...] = ()  # (id, name)
    nics: tuple[NicPlan, ...] = ()
    disks: tuple[DiskRequest, ...] = ()
    config_drive: bool = False
    access_ip_v4: str = ""
    access_ip_v6: str = ""
    disk_config: str = since(1, 1, default="MANUAL")
    reservation_id: str = ""
    launch_index: int = 0
    trusted_certs: tuple[str, ...] | None = None
    created_at: float = 0.0


class NicRecord(Versioned, frozen=True, kw_only=True):
    """One NIC of a server that has its port. preserve: the user made the port, delete leaves it."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    mtu: int
    item: str  # the key's second half
    tag: str | None = None
    preserve: bool = False
    vif_type: str = "tap"


class ServerParams(Versioned, frozen=True, kw_only=True):
    """Parameters of every operation on one server. volumes: of a create, whether any disk is a volume."""

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    project_id: str = ""
    action: str = ""
    force: bool = False
    timeout_s: float = 60.0
    previous_vm_state: str = ""
    previous_task_state: str | None = None
    host: str | None = None
    volumes: bool = since(1, 1, default=False)


class AttachParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of an attach or a detach. disk: as it stands in the server's row."""

    disk: DiskRequest


class SwapParams(AttachParams, frozen=True, kw_only=True):
    """Parameters of a swap: of the disk's volume for another one, whose attachment is reserved already."""

    new_volume_id: str
    new_attachment_id: str


class ResizeParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of a resize or cold migration, its confirm and its revert. migration: its uuid, minted before it.

    to_host: where to, if asked. elsewhere: never on the host where it is. from_host: of a confirm or a revert, where
    the server was before.
    """

    VERSION: ClassVar[Version] = (1, 2)

    migration: str = ""
    new_flavor: FlavorRecord | None = None
    old_flavor: FlavorRecord | None = None
    to_host: str | None = since(1, 2, default=None)
    elsewhere: bool = since(1, 2, default=False)
    from_host: str | None = since(1, 2, default=None)


class CrossCellParams(ResizeParams, frozen=True, kw_only=True):
    """Parameters of a move to another cell, its confirm and its revert. host: where the server is when it is accepted.

    target_cell: where the server goes, or came to be; of a resize the one that was decided on first.
    """

    source_cell: str = ""
    target_cell: str = ""


class UnshelveAway(CrossCellParams, frozen=True, kw_only=True):
    """Parameters of an unshelve in another cell. zone: pins it; unpin: takes a pin away."""

    zone: str | None = None
    unpin: bool = False


class LiveAway(CrossCellParams, frozen=True, kw_only=True):
    """Parameters of a live migration to another cell. block: whether local disks are copied; None: if there are any."""

    block: bool | None = None


class EvacuateAway(CrossCellParams, frozen=True, kw_only=True):
    """Parameters of an evacuation into another cell. stay_off: SHUTOFF afterwards."""

    stay_off: bool = False


class RescueParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of a rescue. image: what the guest boots from. password: reference of a secret, "" in an older one."""

    VERSION: ClassVar[Version] = (1, 2)

    image: ImageRecord
    password: str = since(1, 2, default="")


class PasswordParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of a password change. password: reference of a secret. user: whose it is."""

    password: str
    user: str


class UnshelveParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of an unshelve. placed: it is on its host still. zone: pins it; unpin: takes a pin away."""

    placed: bool = False
    zone: str | None = None
    unpin: bool = False
    to_host: str | None = None


class RebuildParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of a rebuild. columns: JSON, columns of the row that change. password: reference of a secret.

    reimage: the volume that the server boots from is written anew.
    """

    VERSION: ClassVar[Version] = (1, 2)

    image: ImageRecord
    columns: str
    password: str
    preserve_ephemeral: bool = False
    reimage: bool = since(1, 2, default=False)


class SnapshotParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of what makes an image of a server. image_id: made before the operation was accepted.

    backup_type, rotation: of createBackup: so many of that type are kept.
    """

    image_id: str = ""
    backup_type: str = ""
    rotation: int = -1


class InterfaceParams(Versioned, frozen=True, kw_only=True):
    """Parameters of attaching a NIC to a server, or detaching it. nic: as reserved before accept, or as recorded.

    network_id, user_port, fixed_ip: what the reservation was made from (user_port: a port that the user made).
    """

    server_id: str
    nic: NicRecord
    project_id: str = ""
    action: str = ""
    previous_vm_state: str = ""
    previous_task_state: str | None = None
    host: str | None = None
    availability_zone: str = "nova"
    hostname: str = ""
    network_id: str | None = None
    user_port: str | None = None
    fixed_ip: str | None = None


class ShelveParams(SnapshotParams, frozen=True, kw_only=True):
    """Parameters of a shelve. image_id: "" when the root disk is a volume. offload: its host gets free at once."""

    offload: bool = True


class EvacuateParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of an evacuation. migration: its uuid. to_host: where to, if asked. stay_off: SHUTOFF afterwards."""

    migration: str = ""
    to_host: str | None = None
    stay_off: bool = False


class LiveMigrateParams(ServerParams, frozen=True, kw_only=True):
    """Parameters of a live migration. migration: its uuid. to_host: where to, if asked (force: without the filters).

    block: whether local disks are copied; None: when there are any.
    """

    migration: str = ""
    to_host: str | None = None
    block: bool | None = None
