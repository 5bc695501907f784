"""What a backup is made of: a full one, and each incremental one that adds to the one before, oldest first."""

from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import ImageSource
from kilonova.saga.definition import Run, StepFailed
from kilonova.volume.embedded.operations.asking import service
from kilonova.volume.embedded.operations.images import source_image
from kilonova.volume.embedded.store import backups

MOST = 24
"""Backups in one chain: a restore reads them all."""


def rows(tx: Tx, backup_id: str) -> list[Row]:
    """Return a backup's chain, the full one first. StepFailed when a part of it is not there."""
    found: list[Row] = []
    wanted: str | None = backup_id
    while wanted is not None:
        row = backups.find(tx, wanted)
        if row is None or row["location"] is None or len(found) >= MOST:
            raise StepFailed("The backup is not whole.")
        found.append(row)
        wanted = row["parent_id"]
    return found[::-1]


def sources(run: Run, backup_id: str, host: str) -> tuple[ImageSource, ...]:
    """Return where a host gets a backup's chain from, the full one first."""
    chain = service(run).db.read(lambda tx: rows(tx, backup_id))
    found = [source_image(run, str(row["location"]), host) for row in chain]
    return tuple(source for source in found if source is not None)
