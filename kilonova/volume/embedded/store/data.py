"""What hosts should keep, by the records: the data of volumes and snapshots. For audits; nothing is changed."""

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import Q
from kilonova.volume.embedded.schema import TARGET, snapshot, volume
from kilonova.volume.interface import KeptData

MAKING = ("creating", "deleting", "error", "error_deleting", "downloading", "restoring-backup")
"""Of such a volume or snapshot nobody can say whether its data are there."""
_RESTING = (None, "", "none", "success", "error")
_VOLUMES = Q(
    sa.select(
        *(volume.c[n] for n in ("id", "status", "host", "migration_status", "migration_host"))
    )
)
_SNAPSHOTS = Q(sa.select(snapshot.c.id, snapshot.c.status, snapshot.c.host))


def wanted(tx: Tx) -> list[KeptData]:
    """Return one record per volume and snapshot; a migration's target is the volume that it becomes."""
    found = [_of(r) for r in tx.all(_VOLUMES)]
    found += [
        KeptData("snapshot", r["id"], (r["host"],), sure=r["status"] not in MAKING)
        for r in tx.all(_SNAPSHOTS)
    ]
    return found


def _of(row: Row) -> KeptData:
    status = row["migration_status"]
    becomes = (status or "").partition(TARGET)[2]
    hosts = tuple(h for h in (row["host"], row["migration_host"]) if h)
    sure = bool(row["host"]) and row["status"] not in MAKING and status in _RESTING
    return KeptData("volume", becomes or row["id"], hosts, sure=sure)
