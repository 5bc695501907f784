"""Accept a revert: a volume becomes what it was at its latest snapshot."""

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume_params import VolumeParams
from kilonova.volume.embedded.faults import invalid_snapshot, invalid_volume, missing
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import asking, volume_refill
from kilonova.volume.embedded.store import snapshots, volumes


def accept(tx: Tx, ctx: Context, of: Ground, row: Row, snapshot_id: str) -> None:
    """Accept it. BadRequest in Cinder's words; NotFound unless the snapshot is the volume's."""
    taken = snapshots.of_volume(tx, row["id"])
    snapshot = next((s for s in taken if s["id"] == snapshot_id), None)
    if snapshot is None:
        raise missing("snapshot", snapshot_id)
    if taken[-1]["id"] != snapshot_id:
        raise invalid_snapshot(
            f"Specified snapshot {snapshot_id} is not the latest one of volume {row['id']}."
        )
    if snapshot["size_gib"] != row["size_gib"]:
        raise invalid_volume(
            f"Can't revert volume {row['id']} to its latest snapshot: the volume size must be equal to the "
            "snapshot size."
        )
    if snapshot["status"] != "available":
        raise invalid_snapshot("Can't revert to a snapshot that is not available.")
    if row["status"] != "available":
        raise invalid_volume(
            f"Can't revert volume {row['id']} to its latest snapshot: it is {row['status']}, not available."
        )
    volumes.change(tx, row["id"], of.clock.now(), status="reverting", previous_status=row["status"])
    params = VolumeParams(
        volume_id=row["id"], project_id=row["project_id"], snapshot_id=snapshot_id
    )
    asking.accept(tx, ctx, of, volume_refill.SAGA, params)
