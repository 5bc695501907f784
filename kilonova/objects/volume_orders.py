"""What a host agent is told about volumes' data, and what it tells back. Payloads of Order and Answer.

``Order.server_id`` is the volume's id here, ``epoch`` the volume's own. Data are qcow2 files of the agent's; a snapshot
is a file of its own, complete by itself, so that removing either never touches the other.

verb of the Order   payload            answer payload
volume_make         VolumeMake         VolumeMade      empty, or from an image, a snapshot, a volume; undo: VolumeRemove
volume_remove       VolumeRemove       VolumeGone      the file and what is left of making it; fine when there is none
volume_extend       VolumeExtend       VolumeMade      also while a guest of this host has it; never shrinks
volume_hold         VolumeHold         VolumeHeld      a guest's requests wait while the export ends; undo: no more
volume_show         VolumeExtend       VolumeHeld      its connection is as before, and it sees the new size
volume_reimage      VolumeMake         VolumeMade      its data anew from the image, the old aside; undo: VolumeRemove
volume_forget       VolumeRemove       VolumeGone      what a reimage put aside
snapshot_make       SnapshotMake       VolumeMade      one moment, also while a guest writes; undo: SnapshotRemove
snapshot_remove     SnapshotRemove     VolumeGone
volume_upload       VolumeUpload       VolumeUploaded  the volume's bytes as an image; undo: nothing stays on the host
backup_remove       BackupRemove       VolumeGone      of a folder that this host has
backup_check        BackupCheck        BackupChecked   read whole: is it what its record says?

Exports are desired state, not orders: the service publishes VolumeExports on ``agent.<host>.state`` (generation grows)
and answers an ExportsRequest on ``volume.state.<host>``; the agent applies it and reports ExportsApplied on
``volume.report.<host>``.
"""

from typing import ClassVar

from kilonova.objects.base import Version, Versioned, since
from kilonova.objects.guest import ImageSource
from kilonova.objects.volume import NbdConnection


class VolumeMake(Versioned, frozen=True, kw_only=True):
    """At most one of image, snapshot_id, source_volid and remote is given; sources are on this host.

    remote: the volume itself, exported by the host that it comes from. layers: what incremental backups add to
    ``image``, oldest first.
    """

    VERSION: ClassVar[Version] = (1, 2)

    volume_id: str
    size_gib: int
    image: ImageSource | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    source_server_id: str | None = None  # a guest of this host that writes source_volid now
    remote: NbdConnection | None = since(1, 1, critical=True)
    layers: tuple[ImageSource, ...] = since(1, 2, default=(), critical=True)


class VolumeMade(Versioned, frozen=True, kw_only=True):
    """path: of the file, on its host only. allocated: bytes that it takes now."""

    path: str
    format: str
    size_gib: int
    allocated: int = 0


class VolumeRemove(Versioned, frozen=True, kw_only=True):
    volume_id: str


class VolumeGone(Versioned, frozen=True, kw_only=True):
    existed: bool


class VolumeExtend(Versioned, frozen=True, kw_only=True):
    """attached_to: the guest of this host that has the volume, if one has. exported: its export may end meanwhile."""

    VERSION: ClassVar[Version] = (1, 1)

    volume_id: str
    size_gib: int
    attached_to: str | None = None
    exported: bool = since(1, 1, default=False)


class VolumeHold(Versioned, frozen=True, kw_only=True):
    """attached_to: the guest of this host that reaches the volume over NBD."""

    volume_id: str
    attached_to: str


class VolumeHeld(Versioned, frozen=True, kw_only=True):
    """found: whether that guest runs here; one that does not has nothing that could wait."""

    found: bool


class SnapshotMake(Versioned, frozen=True, kw_only=True):
    volume_id: str
    snapshot_id: str
    attached_to: str | None = None  # a guest of this host that writes the volume now


class SnapshotRemove(Versioned, frozen=True, kw_only=True):
    volume_id: str
    snapshot_id: str


class VolumeUpload(Versioned, frozen=True, kw_only=True):
    """Give an image that is queued the volume's bytes. url: signed for both, ``image:<id>`` or ``folder:…``.

    snapshot_id: those of a snapshot of it instead. base: only what is not as in these backups, the full one first.
    """

    VERSION: ClassVar[Version] = (1, 2)

    volume_id: str
    image_id: str
    url: str
    disk_format: str = "qcow2"
    attached_to: str | None = None
    snapshot_id: str | None = since(1, 1)
    base: tuple[ImageSource, ...] = since(1, 2, default=(), critical=True)


class VolumeUploaded(Versioned, frozen=True, kw_only=True):
    """location, hash_value (SHA-512): of a backup in a folder, which no image service keeps a record of."""

    VERSION: ClassVar[Version] = (1, 1)

    size: int
    virtual_size: int
    location: str = since(1, 1, default="")
    hash_value: str = since(1, 1, default="")


class BackupRemove(Versioned, frozen=True, kw_only=True):
    """url: ``folder:<folder>/<backup>``."""

    backup_id: str
    url: str


class BackupCheck(Versioned, frozen=True, kw_only=True):
    backup_id: str
    source: ImageSource


class BackupChecked(Versioned, frozen=True, kw_only=True):
    size: int


class VolumeExport(Versioned, frozen=True, kw_only=True):
    """One volume reachable over NBD by one attachment. name: 128 random bits. host: the only one that may connect."""

    VERSION: ClassVar[Version] = (1, 1)

    attachment_id: str
    volume_id: str
    name: str
    readonly: bool = False
    shareable: bool = False
    host: str = since(1, 1, default="")


class VolumeExports(Versioned, frozen=True, kw_only=True):
    """All that a host is to export; a lower generation than the one in force is dropped.

    certificate, authority: what the host asked for, with whom it is to trust; PEM, "" where it did not ask.
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    generation: int
    exports: tuple[VolumeExport, ...] = ()
    certificate: str = since(1, 1, default="")
    authority: str = since(1, 1, default="")


class ExportsRequest(Versioned, frozen=True, kw_only=True):
    """An agent that starts or reconnects asks for all that it is to export.

    certificate: a request for one by which other hosts know it (common/host_certificates.py), PEM; "": it needs none.
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    certificate: str = since(1, 1, default="")


class ExportsApplied(Versioned, frozen=True, kw_only=True):
    """What is in force on a host. address, port: where its NBD server listens. failed: (attachment id, why).

    tls_name: what the host's certificate says, "" without TLS. ports: (attachment id, port) of those with a port of
    their own.
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    generation: int
    address: str = ""
    port: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    tls_name: str = since(1, 1, default="")
    ports: tuple[tuple[str, int], ...] = since(1, 1, default=())
