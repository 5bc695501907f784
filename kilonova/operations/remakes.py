"""What rebuild, rescue and unrescue share: the orders that make a guest another one in place, and what undoes them."""

import msgspec

from kilonova.common.errors import Conflict
from kilonova.db.engine import Row
from kilonova.objects.guest import GuestBuild, GuestBuilt, LocalDisk
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.remake_orders import GuestForget, GuestRemake, GuestRestore
from kilonova.objects.server import ImageRecord
from kilonova.operations import guest_orders
from kilonova.operations.guest_orders import SystemMetadata, source_of
from kilonova.operations.services import Services
from kilonova.saga.definition import Output, Run

DEADLINE_S = 1800.0
RESCUE = "rescue"  # the name of the disk that a rescued guest boots from


def row_of(run: Run) -> Row:
    """Return the server's row. NotFound; Conflict when it has no host."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    if row["host"] is None:
        raise Conflict(f"Instance {run.resource} has no host.")
    return row


def remake(
    run: Run,
    row: Row,
    build: GuestBuild,
    *,
    anew: tuple[str, ...] = (),
    timeout_s: float = 0.0,
    drive: bool = False,
) -> Order:
    """Return the order to make the guest what ``build`` says."""
    payload = GuestRemake(
        server_id=run.resource,
        build=build,
        mark=run.operation[:8],
        anew=anew,
        timeout_s=timeout_s,
        drive=drive,
    )
    return guest_orders.order(run, row["host"], "guest_remake", payload, DEADLINE_S)


def restore(run: Run, row: Row, build: GuestBuild, *, drop: tuple[str, ...] = ()) -> Order:
    """Return the order that takes ``remake`` back."""
    payload = GuestRestore(server_id=run.resource, build=build, drop=drop)
    return guest_orders.order(run, row["host"], "guest_remake", payload, 300.0, Direction.UNDO)


def forget(run: Run) -> Order:
    """Return the order to remove what was put aside."""
    payload = GuestForget(server_id=run.resource)
    return guest_orders.order(run, run.params.host, "guest_forget", payload, 300.0)


def made(run: Run, answer: Answer) -> Output:
    """Keep what the host says of the guest that came to be."""
    result = unpack(answer.body, GuestBuilt)
    return {
        "power_state": result.power_state,
        "hardware": msgspec.json.encode(result.hardware).decode(),
        "devices": msgspec.json.encode(result.devices).decode(),
    }


def forgotten(run: Run, answer: Answer) -> Output:
    """Nothing is aside any more."""
    return {}


def rescued(
    services: Services, row: Row, image: ImageRecord, password: str | None = None
) -> GuestBuild:
    """Return a server's guest that boots from ``image``, with its own disks behind that one.

    It has a config drive of its own, also when the server has none: that is how it is told ``password``.

    An image with hw_rescue_device or hw_rescue_bus asks for a stable rescue: the guest's own disks stay where they are,
    and the rescue disk comes last. source: Nova, "Rescue an instance".
    """
    build = guest_orders.build_of(services, row, admin_password=password)
    asked = ImageProperties.read(image.properties)
    stable = is_stable(image)
    device = asked.hw_rescue_device or "disk"
    bus = asked.hw_rescue_bus or ("sata" if device == "cdrom" else "virtio")
    disk = LocalDisk(
        name=RESCUE, size_gib=0, image_id=image.id, boot_index=0, bus=bus, device_type=device
    )
    own = tuple(d.replace(boot_index=None) for d in build.disks)
    if not stable:
        own = tuple(d.replace(device=None) for d in own)
    disks = (*own, disk) if stable else (disk, *own)
    images = (
        *(i for i in build.images if i.image_id != image.id),
        source_of(services, row["host"], image),
    )
    return build.replace(
        disks=disks, images=images, start=True, config_drive=True, drive_name=RESCUE
    )


def is_stable(image: ImageRecord) -> bool:
    """Tell whether an image asks for a stable rescue."""
    asked = ImageProperties.read(image.properties)
    return asked.hw_rescue_device is not None or asked.hw_rescue_bus is not None


def with_rescue(row: Row, image: ImageRecord | None) -> str:
    """Return a row's system metadata with the image that the server is rescued from, or without one."""
    system = msgspec.json.decode(row["system_metadata"], type=SystemMetadata)
    return msgspec.json.encode(msgspec.structs.replace(system, rescue=image)).decode()
