"""Accept the migration of a volume to another host. source: Cinder, volume API, os-migrate_volume."""

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.volume.embedded import attaching, placing
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import asking, volume_migrate
from kilonova.volume.embedded.schema import TARGET
from kilonova.volume.embedded.store import attachments, snapshots, volumes

RESTING = (None, "", "none", "deleting", "error", "success")


def accept(tx: Tx, ctx: Context, of: Ground, row: Row, given: str, *, lock: bool) -> None:
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
        _check_held(tx, row)
    if not row["host"] or not row["path"]:
        raise invalid_volume(f"Volume {row['id']} has no data that could migrate.")
    locks = lock and row["status"] == "available"
    changes = {"status": "maintenance", "previous_status": row["status"]} if locks else {}
    now = of.clock.now()
    params = VolumeParams(
        volume_id=row["id"],
        project_id=row["project_id"],
        host=room.host,
        attachment_id=new_uuid(),
        target_id=new_uuid() if row["status"] == "in-use" else None,
        previous=row["status"],
    )
    asking.accept(tx, ctx, of, volume_migrate.SAGA, params)
    volumes.change(tx, row["id"], now, migration_status="starting", **changes)


def _check_held(tx: Tx, row: Row) -> None:
    """Raise BadRequest unless one server has the volume and writes it: only a guest's host can let it go over."""
    held = attachments.of_volume(tx, row["id"])
    if len(held) != 1:
        raise invalid_volume(f"Volume {row['id']} is attached more than once: it does not migrate.")
    if not held[0]["server_id"] or held[0]["mode"] != "rw" or held[0]["status"] != "attached":
        raise invalid_volume(f"Volume {row['id']} is not written by a server: detach it first.")


def complete(tx: Tx, of: Ground, old: Row, new: Row | None, *, error: bool) -> str:
    """Hear from compute that a guest went over to the other host's data, or did not; return which volume it has now.

    Conflict: the migration was given up, or is no such one. source: Cinder, os-migrate_volume_completion.
    """
    now = of.clock.now()
    if new is None or new["migration_status"] != f"{TARGET}{old['id']}":
        if new is None and (error or old["migration_status"] in ("completing", "success")):
            return str(old["id"])  # said before
        raise Conflict(f"Volume {old['id']} does not migrate to that volume.")
    if error:
        if old["migration_status"] == volume_migrate.MIGRATING:
            volumes.change(tx, old["id"], now, migration_status=volume_migrate.ERROR)
        return str(old["id"])
    if old["migration_status"] != volume_migrate.MIGRATING:
        raise Conflict(f"The migration of volume {old['id']} was given up.")
    for held in attachments.of_volume(tx, old["id"]):
        attaching.end(tx, of.exports, held, now)
    for held in attachments.of_volume(tx, new["id"]):
        attachments.change(tx, held["id"], now, volume_id=old["id"])
    kept = {k: new[k] for k in ("host", "path", "format", "export_generation")}
    volumes.change(
        tx,
        old["id"],
        now,
        migration_status=volume_migrate.COMPLETING,
        migration_host=old["host"],
        status=attaching.resting(tx, old["id"]),
        **kept,
    )
    volumes.drop(tx, new["id"])
    return str(old["id"])
