"""What createImage and createBackup share: an image record made before the accept, then three steps.

snapshot    the host copies the root disk to a file, the guest going on
describe    the image record says what the bytes are, in the driver's words (SM-15)
upload      the host gives the file to the image service and removes it

Whatever goes wrong, the image is deleted and no file stays; the server is what it was.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import KilonovaError, QuotaExceeded
from kilonova.common.ids import new_uuid
from kilonova.db import quotas
from kilonova.db.engine import Row, Tx
from kilonova.objects.image import Image
from kilonova.objects.image_orders import GuestSnapshot, ImageUpload, Quiesce, SnapshotTaken
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import DiskRequest, FlavorRecord, SnapshotParams
from kilonova.operations import accept, guest_orders, server_disks, settling, states
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.guest_orders import SystemMetadata
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

DEADLINE_S = 7200.0
# source: Nova, NON_INHERITABLE_IMAGE_PROPERTIES and the default of non_inheritable_image_properties
NOT_INHERITED = frozenset(
    (
        "bittorrent",
        "cache_in_nova",
        "img_signature",
        "img_signature_certificate_uuid",
        "img_signature_hash_method",
        "img_signature_key_type",
    )
)
_decode = msgspec.json.decode


def snapshot_saga(kind: str, *more: Step) -> Saga:
    """Register the saga that makes an image of a server; ``more``: steps between the upload and the end."""
    transition = states.TRANSITIONS[kind]
    kept = NoUndo("the end of an unwind deletes the image")

    def finish(tx: Tx, run: Run, output: Output) -> None:
        settling.succeed(tx, run, transition, step="upload")

    def restore(tx: Tx, run: Run) -> None:
        settling.fail(tx, run, transition, step="upload")

    return register(
        Saga(
            kind=kind,
            version=1,
            params=SnapshotParams,
            steps=(
                Ask(
                    "snapshot",
                    order_snapshot,
                    taken,
                    order_drop,
                    DEADLINE_S,
                    record=_pending,
                    park_outside=park,
                ),
                Step("describe", describe, kept, 60.0, record=_uploading),
                Ask("upload", order_upload, _uploaded, kept, DEADLINE_S, point_of_no_return=True),
                *more,
                Step("finish", _nothing, kept, 30.0, record=finish),
            ),
            unwound=delete_image,
            unwound_record=restore,
        )
    )


def order_snapshot(run: Run) -> Order:
    """Have the host copy the root disk. The copy is called like the operation."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    payload = GuestSnapshot(
        server_id=run.resource, file=run.operation, serial=root_of(row), quiesce=quiesce_of(row)
    )
    return guest_orders.order(run, run.params.host, "guest_snapshot", payload, DEADLINE_S)


def order_drop(run: Run) -> Order:
    """Have the host end the copy, or its upload, and remove the file."""
    payload = GuestSnapshot(server_id=run.resource, file=run.operation)
    return guest_orders.order(
        run, run.params.host, "guest_snapshot", payload, 120.0, Direction.UNDO
    )


def taken(run: Run, answer: Answer) -> Output:
    """Keep what the driver says of its copy."""
    result = unpack(answer.body, SnapshotTaken)
    return {"disk_format": result.disk_format, "container_format": result.container_format}


def describe(run: Run) -> Output:
    """Say in the image's record what its bytes will be."""
    services: Services = run.services
    made = run.outputs["snapshot"]
    services.images.describe(
        run.params.image_id,
        disk_format=made["disk_format"],
        container_format=made["container_format"],
    )
    return {}


def order_upload(run: Run) -> Order:
    """Have the host give the copy to the image service."""
    services: Services = run.services
    url = services.image_url(run.params.image_id, run.params.host, "PUT")
    payload = ImageUpload(server_id=run.resource, file=run.operation, url=url)
    return guest_orders.order(run, run.params.host, "image_upload", payload, DEADLINE_S)


def delete_image(run: Run) -> None:
    """Delete the image that will not be."""
    services: Services = run.services
    services.images.delete(run.params.image_id)


def _uploaded(run: Run, answer: Answer) -> Output:
    return {}


def _nothing(run: Run) -> Output:
    return {}


def _pending(tx: Tx, run: Run, output: Output) -> None:
    settling.task(tx, run, "image_pending_upload")


def _uploading(tx: Tx, run: Run, output: Output) -> None:
    settling.task(tx, run, "image_uploading")


# -- the accept


def start(
    services: Services,
    ctx: Context,
    saga: Saga,
    found: Found,
    name: str,
    metadata: Mapping[str, str],
    **params: Any,
) -> str:
    """Make the image's record and accept; return the image's id.

    Raises Conflict when the server's state does not allow it, QuotaExceeded for too many properties.
    """
    check_lock(ctx, found)
    transition = states.TRANSITIONS[saga.kind]
    row = accept.startable(found, transition)
    check_metadata(services, found, metadata)
    extra = {"image_type": "snapshot", **metadata}
    if params:
        extra |= {"image_type": "backup", "backup_type": params["backup_type"]}
    image = services.images.ensure(
        f"{ctx.operation or new_uuid()}/image", record_of(ctx, row, name, extra)
    )
    try:
        accept.on_server(services, ctx, saga, found, transition, image_id=image.id, **params)
    except KilonovaError:
        services.images.delete(image.id)
        raise
    return image.id


def check_metadata(services: Services, found: Found, metadata: Mapping[str, str]) -> None:
    """Raise QuotaExceeded, in Nova's words, for more image properties than the owner may give."""
    owner, user = found.mapping["project_id"], found.mapping["user_id"]
    limit = services.world.read(lambda tx: quotas.limits(tx, owner, user))["metadata_items"]
    if 0 <= limit < len(metadata):
        raise QuotaExceeded(f"Maximum number of metadata items exceeds {limit}")


def record_of(ctx: Context, row: Row, name: str, extra: Mapping[str, str]) -> Image:
    """Return the record of an image of a server: what its own image said, less what is not inherited, and ``extra``.

    source: Nova, compute API *initialize_instance_snapshot_metadata*.
    """
    base = _decode(row["system_metadata"], type=SystemMetadata).image
    flavor = _decode(row["flavor"], type=FlavorRecord)
    inherited = {} if base is None else base.properties
    properties = {k: v for k, v in inherited.items() if k not in NOT_INHERITED}
    properties |= {
        "instance_uuid": row["uuid"],
        "user_id": ctx.user_id or "",
        "owner_id": ctx.project_id or "",
        "image_state": "available",
        "image_location": "snapshot",
        "boot_roles": ",".join(sorted(ctx.roles)),
    }
    if row["image_id"]:
        properties["base_image_ref"] = row["image_id"]
    return Image(
        id=new_uuid(),
        status="queued",
        name=name,
        owner=ctx.project_id or row["project_id"],
        visibility="private",
        disk_format=None if base is None else base.disk_format,
        container_format="bare",
        min_disk=max(flavor.root_gib, 0 if base is None else base.min_disk_gib),
        min_ram=0 if base is None else base.min_ram_mib,
        properties={**properties, **extra},
    )


def is_volume_backed(row: Row) -> bool:
    """Tell whether a server boots from a volume."""
    return server_disks.volume_backed(server_disks.read(row))


def root_of(row: Row) -> str:
    """Return the serial of a server's local root disk."""
    disks = _decode(row["disks"], type=list[DiskRequest])
    return next((d.name for d in disks if d.boot_index == 0), "root")


def quiesce_of(row: Row) -> Quiesce:
    """Return whether the guest's file systems are held. source: Nova, image properties of a quiesced snapshot."""
    image = _decode(row["system_metadata"], type=SystemMetadata).image
    if image is None:
        return Quiesce.NO
    asked = ImageProperties.read(image.properties)
    if asked.os_require_quiesce:
        return Quiesce.REQUIRE
    return Quiesce.TRY if asked.hw_qemu_guest_agent else Quiesce.NO
