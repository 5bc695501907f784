"""How the hosts of a process come to images' bytes: directly, or by the signed URLs that orders carry."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kilonova.agent.backup_folders import BackupFolders
from kilonova.agent.images import Reader
from kilonova.agent.uploads import ImageSender
from kilonova.common.config import Settings
from kilonova.image.interface import ImageService


@dataclass(frozen=True)
class ImageAccess:
    """open_image: reads ``image:<id>`` in this process, None: there is none here. ca: PEM file for https URLs."""

    send: ImageSender
    open_image: Callable[[str], AbstractContextManager[Reader]] | None = None
    ca: Path | None = None

    @staticmethod
    def within(images: ImageService, settings: Settings) -> "ImageAccess":
        """The image service is in this process."""
        return ImageAccess(
            ImageSender(images.upload, folders=folders_of(settings)),
            lambda image: cast(AbstractContextManager[Reader], images.open(image)),
        )

    @staticmethod
    def by_url(ca: Path | None, settings: Settings) -> "ImageAccess":
        """It is elsewhere."""
        return ImageAccess(ImageSender(ca_file=ca, folders=folders_of(settings)), ca=ca)


def folders_of(settings: Settings) -> BackupFolders:
    """Return the folders of backups that are set."""
    written = Path(settings.backup_folder) if settings.backup_folder else None
    return BackupFolders(written, [Path(p) for p in settings.backup_folders_before])
