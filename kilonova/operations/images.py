"""Images as operations take them: looked up for the caller, refused in Nova's words, kept as a record."""

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.objects.image import Image
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.server import ImageRecord
from kilonova.operations.services import Services


def usable(services: Services, ctx: Context, image_ref: str) -> Image:
    """Return an image that the caller may boot from. BadRequest: missing, not active, or a property is refused."""
    try:
        image = services.images.get(ctx, image_ref)
    except NotFound as exc:
        raise BadRequest(f"Can not find requested image {image_ref}") from exc
    if image.status != "active":
        raise BadRequest(f"Image {image.id} is not active.")
    ImageProperties.read(image.properties)
    return image


def record(image: Image) -> ImageRecord:
    """Return what a build needs to know of an image."""
    return ImageRecord(
        id=image.id,
        name=image.name or "",
        disk_format=image.disk_format or "raw",
        size=image.size or 0,
        min_disk_gib=image.min_disk,
        min_ram_mib=image.min_ram,
        hash_algo=image.os_hash_algo,
        hash_value=image.os_hash_value,
        properties=image.properties,
    )
