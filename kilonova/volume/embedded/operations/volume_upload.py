"""Give an image that was asked for the bytes of a volume, as at one moment.

image    the image's record, made before the accept; undone, it goes
upload   the host sends the bytes
finish   the volume rests again
"""

from kilonova.common.errors import NotFound
from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.volume_orders import VolumeUpload, VolumeUploaded
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded import attaching
from kilonova.volume.embedded.operations.asking import order, row_of, service, writer_of

DEADLINE_S = 3600.0


def check_image(run: Run) -> Output:
    """The record was made before the accept, with an id that is known."""
    if run.params.image_id is None:
        raise NotFound("There is no image to upload to.")
    return {}


def drop_image(run: Run) -> None:
    """Remove the image and what it got of its bytes."""
    service(run).images.delete(run.params.image_id)


def order_upload(run: Run) -> Order:
    """Have the host send the volume's bytes."""
    return order(run, row_of(run)["host"], "volume_upload", _payload(run), DEADLINE_S)


def _payload(run: Run) -> VolumeUpload:
    image_id = run.params.image_id
    return VolumeUpload(
        volume_id=run.resource,
        image_id=image_id,
        url=run.services.image_url(image_id, row_of(run)["host"], "PUT"),
        disk_format=run.params.disk_format,
        attached_to=writer_of(run, run.resource),
    )


def order_forget(run: Run) -> Order:
    """Have the host remove what it put aside for the upload."""
    return order(run, row_of(run)["host"], "volume_upload", _payload(run), 60.0, Direction.UNDO)


def uploaded(run: Run, answer: Answer) -> Output:
    """The image is active."""
    return {"size": unpack(answer.body, VolumeUploaded).size}


def finish(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_rest(tx: Tx, run: Run, output: Output) -> None:
    """The volume can be used again."""
    attaching.rest(tx, run.resource, service(run).clock.now(), "uploading")


def put_back(tx: Tx, run: Run) -> None:
    """The volume can be used again; there is no image."""
    attaching.rest(tx, run.resource, service(run).clock.now(), "uploading")


SAGA = register(
    Saga(
        kind="volume_upload_image",
        version=1,
        params=VolumeParams,
        steps=(
            Step("image", check_image, drop_image, 60.0),
            Ask("upload", order_upload, uploaded, order_forget, DEADLINE_S, queue="volume"),
            Step(
                "finish",
                finish,
                NoUndo("its record is undone by the last act"),
                10.0,
                record=put_rest,
            ),
        ),
        unwound_record=put_back,
    )
)
