"""Parameters of operations on volumes, as they rest in the journal: ids and what was asked, never copies of rows."""

from kilonova.objects.base import Versioned


class VolumeParams(Versioned, frozen=True, kw_only=True):
    """volume_id is the operation's resource. previous: the status that an unwound operation restores."""

    volume_id: str
    project_id: str
    previous: str = ""
    snapshot_id: str | None = None
    image_id: str | None = None
    backup_id: str | None = None
    size_gib: int | None = None
    disk_format: str = "qcow2"
