"""Where backups of volumes are kept. A record names its target (``container``): all can be read always.

images   an image of nobody's, with the backup's own id, in the image store
folder   a file of a folder that hosts have (agent/backup_folders.py); hosts write, check and remove it

Another one (S3, Swift) is a class more here, and whoever on a host takes its URLs.
"""

from typing import NamedTuple, Protocol

from kilonova.common.context import service_context
from kilonova.common.errors import NotFound
from kilonova.common.ids import is_uuid
from kilonova.db.engine import Row
from kilonova.objects.guest import ImageSource
from kilonova.objects.image import Image
from kilonova.saga.definition import Run, StepFailed
from kilonova.volume.embedded.neighbours import Images, image_source

OWNER = "kilonova-backups"  # no project has this name: nobody but an administrator sees the images
HASH = "sha512"


class Facts(NamedTuple):
    """What must come out of a backup's data. size: bytes."""

    size: int
    sha512: str


class Target(Protocol):
    """Where backups are kept. Every method is repeatable."""

    name: str

    def prepare(self, backup_id: str, size_gib: int) -> str:
        """Make room for a backup under an id that is known before; return its location as far as that is known."""
        ...

    def upload_url(self, run: Run, backup_id: str, host: str) -> str:
        """Return what a host sends a backup's bytes to."""
        ...

    def source(self, run: Run, row: Row, host: str) -> ImageSource:
        """Return where a host gets a backup's bytes from. StepFailed, NotFound: they are not there."""
        ...

    def remove(self, backup_id: str) -> None:
        """Remove a backup as far as no host is needed; fine when there is none."""
        ...

    def on_hosts(self, row: Row) -> str | None:
        """Return the URL of what a host has to remove, or to check; None when hosts have nothing of it."""
        ...

    def facts(self, row: Row) -> Facts | None:
        """Return what must come out of a backup's data; None when they are known to be gone."""
        ...

    def is_place(self, backup_id: str, location: str) -> bool:
        """Tell whether a location can be that of this backup: never another one's."""
        ...

    def verify(self, row: Row) -> None:
        """Raise StepFailed when the data are not what the record says, as far as that is seen without a host."""
        ...


class ImageStore:
    """Each backup is an image of nobody's."""

    name = "images"

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

    def upload_url(self, run: Run, backup_id: str, host: str) -> str:
        """See Target."""
        return str(run.services.image_url(backup_id, host, "PUT"))

    def source(self, run: Run, row: Row, host: str) -> ImageSource:
        """See Target."""
        image = self.kept(row["location"] or "")
        if image is None:
            raise StepFailed("The backup's data are gone.")
        return image_source(run, image, host)

    def remove(self, backup_id: str) -> None:
        """See Target. An image that is somebody's is no backup, whatever a record says."""
        if self.kept(backup_id) is not None:
            self._images.delete(backup_id)

    def on_hosts(self, row: Row) -> str | None:
        """See Target."""
        return None

    def facts(self, row: Row) -> Facts | None:
        """See Target."""
        image = self.kept(row["location"] or "")
        if image is None or image.os_hash_algo != HASH or not image.os_hash_value:
            return None
        return Facts(image.size or 0, image.os_hash_value)

    def is_place(self, backup_id: str, location: str) -> bool:
        """See Target."""
        return location == backup_id

    def verify(self, row: Row) -> None:
        """See Target. The image store checks what it keeps when a host reads it."""
        found = self.facts(row)
        if found is None:
            raise StepFailed("The backup's data are gone.")
        if found != (row["size_bytes"], row["hash_value"]):
            raise StepFailed("The backup's checksum is wrong.")

    def kept(self, backup_id: str) -> Image | None:
        """Return the image of a backup, None when there is none."""
        try:
            image = self._images.get(service_context(), backup_id)
        except NotFound:
            return None
        return image if image.owner == OWNER else None


class Folder:
    """Each backup is a file, written by its volume's host, and of any host that has the folder."""

    name = "folder"

    def prepare(self, backup_id: str, size_gib: int) -> str:
        """See Target. Which folder it is the host says, once it is written."""
        return ""

    def upload_url(self, run: Run, backup_id: str, host: str) -> str:
        """See Target."""
        return f"folder:/{backup_id}"

    def source(self, run: Run, row: Row, host: str) -> ImageSource:
        """See Target."""
        return source_of(row)

    def remove(self, backup_id: str) -> None:
        """See Target."""

    def on_hosts(self, row: Row) -> str | None:
        """See Target."""
        return None if row["location"] is None else f"folder:{row['location']}"

    def facts(self, row: Row) -> Facts | None:
        """See Target."""
        if not row["hash_value"]:
            return None
        return Facts(row["size_bytes"], row["hash_value"])

    def is_place(self, backup_id: str, location: str) -> bool:
        """See Target."""
        folder, _, name = location.partition("/")
        return is_uuid(folder) and len(folder) == 36 and name == backup_id

    def verify(self, row: Row) -> None:
        """See Target."""


def source_of(row: Row) -> ImageSource:
    """Return the file of a backup in a folder, and what must come out of it. StepFailed: the record is not whole."""
    if not row["location"] or not row["hash_value"]:
        raise StepFailed("The backup is not whole.")
    return ImageSource(
        image_id=row["id"],
        url=f"folder:{row['location']}",
        disk_format="qcow2",
        size=row["size_bytes"],
        hash_algo=HASH,
        hash_value=row["hash_value"],
        min_disk_gib=row["size_gib"],
    )
