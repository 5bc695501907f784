"""Accept the migration of a volume to another host. source: Cinder, volume API, os-migrate_volume."""

from typing import TYPE_CHECKING

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.volume.embedded import placing
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.operations import asking, volume_migrate
from kilonova.volume.embedded.store import snapshots, volumes

if TYPE_CHECKING:
    from kilonova.volume.embedded.volumes import EmbeddedVolumes

RESTING = (None, "", "none", "deleting", "error", "success")


def accept(
    tx: Tx, ctx: Context, of: "EmbeddedVolumes", row: Row, given: str, *, lock: bool
) -> None:
    """Accept it; given: the host as it is named in lists of pools. lock: show the volume in maintenance.

    BadRequest in Cinder's words.
    """
    room = next((r for r in of.rooms() if given in placing.names(r.host)), None)
    if room is None or not room.up:
        raise BadRequest(f"Invalid host: No available service named '{given[:255]}'")
    if (
        row["status"] not in ("available", "in-use")
        or row["migration_status"] not in RESTING
        or snapshots.of_volume(tx, row["id"])
        or room.host == row["host"]
    ):
        raise invalid_volume(
            f"Volume {row['id']} status must be available or in-use, must not be migrating, have snapshots, be "
            "replicated, be part of a group and destination host/cluster must be different than the current one"
        )
    if row["status"] == "in-use":
        raise invalid_volume(f"Volume {row['id']} is attached: detach it before it migrates.")
    if not row["host"] or not row["path"]:
        raise invalid_volume(f"Volume {row['id']} has no data that could migrate.")
    changes = {"status": "maintenance", "previous_status": row["status"]} if lock else {}
    now = of.clock.now()
    params = VolumeParams(
        volume_id=row["id"],
        project_id=row["project_id"],
        host=room.host,
        attachment_id=new_uuid(),
        previous=row["status"],
    )
    asking.accept(tx, ctx, of, volume_migrate.SAGA, params)
    volumes.change(tx, row["id"], now, migration_status="starting", **changes)
