"""Images as operations take them: looked up for the caller, refused in Nova's words, kept as a record."""

from collections.abc import Sequence

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row
from kilonova.objects.image import Image
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.server import FlavorRecord, ImageRecord
from kilonova.operations import image_signatures
from kilonova.operations.services import Services

GIB = 1 << 30


def usable(
    services: Services, ctx: Context, image_ref: str, trusted: Sequence[str] | None = None
) -> Image:
    """Return an image that the caller may boot from. BadRequest: missing, not active, or a property is refused.

    trusted: ids of certificates, one of which must stand for it (image_signatures.py).
    """
    try:
        image = services.images.get(ctx, image_ref)
    except NotFound as exc:
        raise BadRequest(f"Can not find requested image {image_ref}") from exc
    if image.status != "active":
        raise BadRequest(f"Image {image.id} is not active.")
    image = image_signatures.verified(services, image, trusted)
    ImageProperties.read(image.properties)
    return image


def trusted_of(row: Row) -> list[str] | None:
    """Return the certificates that a server's images must be certified by, None when any image will do."""
    found: list[str] | None = msgspec.json.decode(row["trusted_certs"])
    return found


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


def check_size(image: Image, flavor: FlavorRecord) -> None:
    """Raise BadRequest, in Nova's words, when an image does not fit into a flavor."""
    check_memory(image, flavor)
    check_disk(image, flavor)


def check_memory(image: Image, flavor: FlavorRecord) -> None:
    """Raise BadRequest when an image needs more memory than a flavor has."""
    if image.min_ram > flavor.memory_mib:
        raise BadRequest("Flavor's memory is too small for requested image.")


def check_disk(image: Image, flavor: FlavorRecord) -> None:
    """Raise BadRequest when an image does not fit on a flavor's local disk; one of no size takes any."""
    if flavor.root_gib == 0:
        return
    size, room = max(image.size or 0, image.virtual_size or 0), flavor.root_gib * GIB
    if size > room:
        raise BadRequest(
            "Flavor's disk is too small for requested image. Flavor disk is "
            f"{room} bytes, image is {size} bytes."
        )
    if image.min_disk > flavor.root_gib:
        raise BadRequest(
            "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk "
            f"is {room} bytes, minimum size is {image.min_disk * GIB} bytes."
        )
