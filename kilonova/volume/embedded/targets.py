"""Where backups of volumes are kept: a target gives the host a place to fill, from which a volume is made again.

The image store is the one that is built. Others (a folder, S3, Swift) would stand beside ``ImageStore`` here.
"""

from typing import Protocol

from kilonova.objects.image import Image
from kilonova.volume.embedded.neighbours import Images

OWNER = "kilonova-backups"  # no project has this name: nobody but an administrator sees the images


class Target(Protocol):
    """Where backups are kept."""

    container: str

    def prepare(self, backup_id: str, size_gib: int) -> str:
        """Make room for a backup under an id that is known before; return it. Repeatable."""
        ...

    def remove(self, location: str) -> None:
        """Remove a backup; fine when there is none."""
        ...


class ImageStore:
    """Each backup is an image of nobody's, with the backup's own id."""

    container = "images"

    def __init__(self, images: Images) -> None:
        self._images = images

    def prepare(self, backup_id: str, size_gib: int) -> str:
        """See Target."""
        image = Image(
            id=backup_id,
            name=f"volume-backup-{backup_id}",
            status="queued",
            visibility="private",
            owner=OWNER,
            disk_format="qcow2",
            container_format="bare",
            hidden=True,
            min_disk=size_gib,
        )
        return self._images.ensure(f"{backup_id}:backup", image).id

    def remove(self, location: str) -> None:
        """See Target."""
        self._images.delete(location)
