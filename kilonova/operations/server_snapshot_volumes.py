"""Make an image of a server that boots from a volume: createImage. Its bytes are snapshots of the server's volumes.

snapshots    one of every volume is asked for, of one moment each
ready        they are there
image        the image says what boots from them; it has no bytes of its own
finish       the server is what it was

Undone, neither snapshots nor the image stay. source: Nova, *snapshot_volume_backed*.
"""

from typing import Any

import msgspec

from kilonova.common.errors import Conflict
from kilonova.db.engine import Row, Tx
from kilonova.objects.server import DiskRequest, SnapshotParams
from kilonova.objects.volume import VolumeSnapshot
from kilonova.operations import guest_orders, server_disks, settling, snapshots, states
from kilonova.operations.services import Services
from kilonova.saga.definition import (
    NotYet,
    NoUndo,
    Output,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)

TRANSITION = states.TRANSITIONS["server_snapshot_volumes"]
_KEPT = NoUndo("the end of an unwind deletes the image")
WAIT_S = 1800.0


def volumes_of(row: Row) -> list[DiskRequest]:
    """Return the server's volumes that exist."""
    disks = server_disks.volumes(server_disks.read(row))
    return [d for d in disks if d.volume_id is not None and d.state != "attaching"]


def ask(run: Run) -> Output:
    """Ask for a snapshot of every volume; done again it finds what it asked for."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    image = services.images.find(run.params.image_id)
    if image is None:
        raise Conflict("The image was deleted while it was made.")
    made = {}
    for n, disk in enumerate(volumes_of(row)):
        snapshot = services.volumes.ensure_snapshot(
            (run.operation, f"vol{n}"),
            volume_id=str(disk.volume_id),
            name=f"snapshot for {image.name}",
        )
        made[str(disk.volume_id)] = snapshot.id
    return {"snapshots": made, "count": len(made)}


def remove(run: Run) -> None:
    """Remove the snapshots that were asked for."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    for n in range(len(server_disks.read(row))):
        services.volumes.remove_snapshot(key=(run.operation, f"vol{n}"))


def wait(run: Run) -> Output:
    """Wait until every snapshot is there. Raises NotYet; StepFailed when one came to nothing."""
    services: Services = run.services
    for snapshot_id in run.outputs["snapshots"]["snapshots"].values():
        found = services.volumes.find_snapshot(snapshot_id)
        if found is None or found.status.startswith("error"):
            raise StepFailed("A snapshot of a volume could not be made.")
        if found.status != "available":
            raise NotYet("a snapshot of a volume is being made", after_s=0.3)
    return {}


def make_image(run: Run) -> Output:
    """Write the mappings into the image's record and make it active."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    made = run.outputs["snapshots"]["snapshots"]
    entries = []
    for disk in volumes_of(row):
        if str(disk.volume_id) in made:
            found = services.volumes.find_snapshot(made[str(disk.volume_id)])
            if found is None:
                raise StepFailed("A snapshot of a volume is gone.")
            entries.append(entry(disk, found))
    properties = {
        "bdm_v2": "True",
        "block_device_mapping": msgspec.json.encode(entries).decode(),
        "root_device_name": row["root_device"] or "/dev/vda",
    }
    image_id = run.params.image_id
    image = services.images.describe(
        image_id, disk_format="raw", container_format="bare", properties=properties
    )
    if image.status != "active":
        services.images.upload(image_id, ())
    return {}


def entry(disk: DiskRequest, snapshot: VolumeSnapshot) -> dict[str, Any]:
    """Return a block_device_mapping_v2 entry that makes such a disk of a snapshot."""
    return {
        "source_type": "snapshot",
        "destination_type": "volume",
        "snapshot_id": snapshot.id,
        "volume_size": snapshot.size_gib,
        "boot_index": disk.boot_index,
        "device_name": server_disks.path_of(disk),
        "device_type": disk.device_type or "disk",
        "disk_bus": disk.bus,
        "guest_format": disk.guest_format,
        "delete_on_termination": disk.delete_on_termination,
        "volume_type": disk.volume_type,
        "tag": disk.tag,
        "no_device": None,
        "image_id": None,
        "volume_id": None,
    }


def finish(tx: Tx, run: Run, output: Output) -> None:
    """The server is what it was."""
    settling.succeed(tx, run, TRANSITION, step="image")


def fail(tx: Tx, run: Run) -> None:
    """The server is what it was."""
    settling.fail(tx, run, TRANSITION, step="image")


SAGA = register(
    Saga(
        kind="server_snapshot_volumes",
        version=1,
        params=SnapshotParams,
        steps=(
            Step("snapshots", ask, remove, 60.0),
            Step("ready", wait, NoUndo("only looks"), WAIT_S),
            Step("image", make_image, _KEPT, 60.0, record=finish),
        ),
        unwound=snapshots.delete_image,
        unwound_record=fail,
    )
)
