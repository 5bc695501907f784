"""What a host agent is told about images made of a guest's disks. Payloads of Order and Answer.

verb of the Order      payload          answer payload
guest_snapshot         GuestSnapshot    SnapshotTaken     copy a disk, as it is at one moment, to a file of the host
image_upload           ImageUpload      ImageUploaded     give that file to the image service, and remove it
The undo of guest_snapshot has the same payload and removes the file; so it also ends an upload that is under way.
"""

from kilonova.objects.base import OpenEnum, Versioned


class Quiesce(OpenEnum):
    """Whether the guest's file systems are held while the moment is taken. source: Nova, os_require_quiesce."""

    NO = "no"
    TRY = "try"  # it has an agent: ask it, and go on when it does not answer
    REQUIRE = "require"  # no snapshot without it
    UNKNOWN = "unknown"


class GuestSnapshot(Versioned, frozen=True, kw_only=True):
    """Copy the disk of this serial. file: a UUID that names the copy on the host."""

    server_id: str
    file: str
    serial: str = "root"
    quiesce: Quiesce = Quiesce.NO


class SnapshotTaken(Versioned, frozen=True, kw_only=True):
    """The copy, in the driver's own words (SM-15). size: bytes of the file. virtual_size: bytes of the disk inside."""

    disk_format: str
    container_format: str
    size: int
    virtual_size: int


class ImageUpload(Versioned, frozen=True, kw_only=True):
    """Give the image at ``url`` ("image:<id>" in one process) the bytes of ``file``."""

    server_id: str
    file: str
    url: str


class ImageUploaded(Versioned, frozen=True, kw_only=True):
    size: int
