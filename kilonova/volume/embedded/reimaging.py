"""Accept a reimage: a volume is written anew from an image. source: Cinder, volume API 3.68, os-reimage."""

import uuid

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.objects.image import Image
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.volume.embedded.creating import check_fits
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import asking, volume_reimage
from kilonova.volume.embedded.store import attachments, volumes
from kilonova.volume.interface import Key, NotReady, ReimageFailed

_NAMES = uuid.UUID("3c1f3f0e-6b0e-4a5c-9d0a-0b6f5a1f4f68")
ENDED = "done"


def operation_of(key: Key) -> str:
    """Return the id that the operation of a key has: done again, it is the same one."""
    return str(uuid.uuid5(_NAMES, "/".join(key)))


def accept(
    tx: Tx,
    ctx: Context,
    of: Ground,
    row: Row,
    image: Image,
    *,
    reserved: bool,
    operation: str | None = None,
) -> None:
    """Accept it. BadRequest in Cinder's words.

    reserved: also of a volume that is reserved, as long as no host reaches it.
    """
    allowed = ("available", "error", "reserved") if reserved else ("available", "error")
    if row["status"] not in allowed:
        raise invalid_volume(
            f"Volume {row['id']} status must be {' or '.join(allowed)}, but current status is: {row['status']}."
        )
    if not row["host"] or not row["path"]:
        raise invalid_volume(f"Volume {row['id']} has no data that could be written anew.")
    if any(a["host"] for a in attachments.of_volume(tx, row["id"])):
        raise invalid_volume(f"Volume {row['id']} is attached.")
    check_fits(image, row["size_gib"])
    now = of.clock.now()
    volumes.change(tx, row["id"], now, status=volume_reimage.BUSY, previous_status=row["status"])
    params = VolumeParams(
        volume_id=row["id"],
        project_id=row["project_id"],
        image_id=image.id,
        previous=row["status"],
    )
    asking.accept(tx, ctx, of, volume_reimage.SAGA, params, operation=operation)


def look(tx: Tx, key: Key, volume_id: str) -> bool:
    """Tell whether the reimage of a key was asked for and worked. NotReady while it is under way; ReimageFailed."""
    row = journal.find_row(tx, operation_of(key))
    if row is None:
        return False
    if row["ended_at"] is None:
        raise NotReady("The volume is being written.", volume=volume_id)
    if row["state"] != ENDED:
        volume = volumes.find(tx, volume_id)
        lost = volume is None or volume["status"] == "error"
        raise ReimageFailed(
            row["error_message"] or "The volume could not be written anew.", lost=lost
        )
    return True


def give_up(tx: Tx, of: Ground, key: Key) -> None:
    """End a reimage that is under way. NotReady until it ended."""
    row = journal.find_row(tx, operation_of(key))
    if row is None or row["ended_at"] is not None:
        return
    journal.request_cancel(tx, row["id"], now=of.clock.now(), nudge=of.nudge)
