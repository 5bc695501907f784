"""What the volume service asks of the image service: a part of kilonova.image.interface.ImageService."""

from typing import Protocol

from kilonova.common.context import Context
from kilonova.objects.guest import ImageSource
from kilonova.objects.image import Image
from kilonova.saga.definition import Run


class Images(Protocol):
    """Records of images; their bytes go between image service and hosts."""

    def get(self, ctx: Context, image_id: str) -> Image:
        """Return an image that the caller may see; NotFound alike for a missing and for a foreign one."""
        ...

    def ensure(self, key: str, image: Image) -> Image:
        """Return the image of ``key``, making its record (status queued) if there is none."""
        ...

    def find_by_key(self, project_id: str, key: str) -> Image | None:
        """Return the image that ``ensure`` made for this key, if it is there."""
        ...

    def delete(self, image_id: str) -> None:
        """Remove an image and its bytes; fine when there is none."""
        ...


def image_source(run: Run, image: Image, host: str) -> ImageSource:
    """Return where a host gets an image's bytes from."""
    return ImageSource(
        image_id=image.id,
        url=run.services.image_url(image.id, host, "GET"),
        disk_format=image.disk_format or "raw",
        size=image.size or 0,
        hash_algo=image.os_hash_algo,
        hash_value=image.os_hash_value,
        min_disk_gib=image.min_disk,
    )
