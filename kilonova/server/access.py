"""How the hosts of a process come to images' bytes: directly, or by the signed URLs that orders carry."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kilonova.agent.images import Reader
from kilonova.agent.uploads import ImageSender
from kilonova.image.interface import ImageService


@dataclass(frozen=True)
class ImageAccess:
    """open_image: reads ``image:<id>`` in this process, None: there is none here. ca: PEM file for https URLs."""

    send: ImageSender
    open_image: Callable[[str], AbstractContextManager[Reader]] | None = None
    ca: Path | None = None

    @staticmethod
    def within(images: ImageService) -> "ImageAccess":
        """The image service is in this process."""
        return ImageAccess(
            ImageSender(images.upload),
            lambda image: cast(AbstractContextManager[Reader], images.open(image)),
        )

    @staticmethod
    def by_url(ca: Path | None) -> "ImageAccess":
        """It is elsewhere."""
        return ImageAccess(ImageSender(ca_file=ca), ca=ca)
