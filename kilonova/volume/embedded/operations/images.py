"""Where a host gets an image from."""

from kilonova.common.context import service_context
from kilonova.objects.guest import ImageSource
from kilonova.saga.definition import Run
from kilonova.volume.embedded.operations.asking import service


def source_image(run: Run, image_id: str | None, host: str) -> ImageSource | None:
    """Return where a host gets the image from that a volume is made of."""
    if image_id is None:
        return None
    image = service(run).images.get(service_context(), image_id)
    return ImageSource(
        image_id=image.id,
        url=run.services.image_url(image.id, host, "GET"),
        disk_format=image.disk_format or "raw",
        size=image.size or 0,
        hash_algo=image.os_hash_algo,
        hash_value=image.os_hash_value,
        min_disk_gib=image.min_disk,
    )
