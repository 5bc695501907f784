"""What compute knows of block storage: volumes, their attachments, snapshots, and how a host reaches a volume."""

from typing import ClassVar, Union

from kilonova.objects.base import OpenEnum, Version, Versioned, since


class VolumeAttachment(Versioned, frozen=True, kw_only=True):
    """One attachment. status: reserved, attaching, attached, detaching. mode: rw, ro. host: "" without a connector."""

    id: str
    volume_id: str
    server_id: str
    status: str
    mode: str = "rw"
    host: str = ""
    attached_at: float | None = None


class Volume(Versioned, frozen=True, kw_only=True):
    """A volume as its API shows it.

    status: creating, available, reserved, attaching, detaching, in-use, extending, downloading, uploading, retyping,
    backing-up, restoring-backup, awaiting-transfer, deleting, maintenance, error, error_deleting, error_extending.
    image: volume_image_metadata, of a volume that was made from an image: "image_id", "disk_format", hw_* and so on.
    migration_status: Cinder's; "target:<id>" of what becomes another volume's data.
    """

    VERSION: ClassVar[Version] = (1, 1)

    id: str
    project_id: str
    user_id: str = ""
    name: str = ""
    size_gib: int
    status: str
    volume_type: str = ""
    availability_zone: str = "nova"
    host: str = ""  # where its data are; "" until it is placed
    bootable: bool = False
    multiattach: bool = False
    encrypted: bool = False
    readonly: bool = False
    image: dict[str, str] = {}
    metadata: dict[str, str] = {}
    snapshot_id: str | None = None
    source_volid: str | None = None
    attachments: tuple[VolumeAttachment, ...] = ()
    created_at: float = 0.0
    migration_status: str = since(1, 1, default="")


class VolumeSnapshot(Versioned, frozen=True, kw_only=True):
    """A volume as it was at one moment. status: creating, available, deleting, error, error_deleting."""

    id: str
    volume_id: str
    project_id: str
    name: str = ""
    size_gib: int
    status: str
    metadata: dict[str, str] = {}
    created_at: float = 0.0


class VolumeWanted(Versioned, frozen=True, kw_only=True):
    """A volume that an operation on a server makes: from an image, a snapshot, or empty (all three None)."""

    project_id: str
    user_id: str
    size_gib: int
    name: str = ""
    image_id: str | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    volume_type: str | None = None
    availability_zone: str | None = None


class Connector(Versioned, frozen=True, kw_only=True):
    """The host that wants to reach a volume. ip: where it would reach others from.

    exported: by the volume's exporter, also on the volume's own host, for another host uses it too (a live migration).
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    ip: str = ""
    exported: bool = since(1, 1, default=False)


class FileConnection(Versioned, frozen=True, kw_only=True, tag="file", tag_field="type"):
    """The volume is a file on the connector's own host."""

    attachment_id: str
    volume_id: str
    path: str
    format: str
    readonly: bool = False
    shareable: bool = False  # multiattach: others may write it too


class NbdConnection(Versioned, frozen=True, kw_only=True, tag="nbd", tag_field="type"):
    """The volume is exported over NBD by its own host, under a name that nobody can guess.

    tls_name: what the certificate of that host says; "": no TLS.
    """

    VERSION: ClassVar[Version] = (1, 1)

    attachment_id: str
    volume_id: str
    host: str
    port: int
    export: str
    readonly: bool = False
    shareable: bool = False
    tls_name: str = since(1, 1, default="", critical=True)


Connection = Union[FileConnection, NbdConnection]  # noqa: UP007 - msgspec reads the union as tagged


class VolumeEventKind(OpenEnum):
    EXTENDED = "volume-extended"
    REIMAGED = "volume-reimaged"
    SWAP = "volume-swap"  # no event of Cinder's, which calls the compute API instead
    UNKNOWN = "unknown"


class VolumeEvent(Versioned, frozen=True, kw_only=True):
    """What a volume service tells compute. source: compute API, os-server-external-events.

    new_volume_id: of a swap, what the server's disk becomes.
    """

    VERSION: ClassVar[Version] = (1, 1)

    kind: VolumeEventKind
    server_id: str
    volume_id: str
    ok: bool = True
    new_volume_id: str = since(1, 1, default="")


class VolumeClaim(Versioned, frozen=True, kw_only=True):
    """One thing that stands for a key: kind "volume", "attachment" or "snapshot"."""

    operation: str
    item: str
    kind: str
    id: str
    made_at: float
