"""What a backup is made of: a full one, and each incremental one that adds to the one before, oldest first."""

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import ImageSource
from kilonova.saga.definition import Run, StepFailed
from kilonova.volume.embedded.operations.asking import service
from kilonova.volume.embedded.store import backups
from kilonova.volume.embedded.targets import Target

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


def check_usable(tx: Tx, row: Row) -> None:
    """Raise BadRequest unless a volume can be made of a backup now, and of all that it adds to."""
    backups.check_usable(row)
    try:
        rows(tx, row["id"])
    except StepFailed as exc:
        raise BadRequest(
            "Invalid backup: a backup that it adds to is not there, or not whole."
        ) from exc


def sources(run: Run, backup_id: str, host: str) -> tuple[ImageSource, ...]:
    """Return where a host gets a backup's chain from, the full one first."""
    chain = service(run).db.read(lambda tx: rows(tx, backup_id))
    return tuple(target_of(run, row).source(run, row, host) for row in chain)


def target_of(run: Run, row: Row) -> Target:
    """Return where a backup is kept. StepFailed when this release does not know it."""
    found = service(run).targets.get(row["container"])
    if found is None:
        raise StepFailed("The backup is kept where nobody here knows.")
    return found
