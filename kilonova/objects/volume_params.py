"""Parameters of operations on volumes, as they rest in the journal: ids and what was asked, never copies of rows."""

from typing import ClassVar

from kilonova.objects.base import Version, Versioned, since


class VolumeParams(Versioned, frozen=True, kw_only=True):
    """volume_id is the operation's resource. previous: the status that an unwound operation restores.

    host: where a volume goes. attachment_id: what its data are read by meanwhile. target_id: the volume that a server's
    disk becomes, if a server has it.
    """

    VERSION: ClassVar[Version] = (1, 1)

    volume_id: str
    project_id: str
    previous: str = ""
    snapshot_id: str | None = None
    image_id: str | None = None
    backup_id: str | None = None
    size_gib: int | None = None
    disk_format: str = "qcow2"
    host: str | None = since(1, 1)
    attachment_id: str | None = since(1, 1)
    target_id: str | None = since(1, 1)
