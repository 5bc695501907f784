"""Where a host gets an image from."""

from kilonova.common.context import service_context
from kilonova.objects.guest import ImageSource
from kilonova.saga.definition import Run
from kilonova.volume.embedded.neighbours import image_source
from kilonova.volume.embedded.operations.asking import service


def source_image(run: Run, image_id: str | None, host: str) -> ImageSource | None:
    """Return where a host gets the image from that a volume is made of."""
    if image_id is None:
        return None
    return image_source(run, service(run).images.get(service_context(), image_id), host)
