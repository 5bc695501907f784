"""``kilonova audit``: every reconciler, dry. On a system without faults it finds nothing, at any moment (R21)."""

from types import ModuleType
from typing import Any

from kilonova.operations.services import Services
from kilonova.reconcile import (
    allocations,
    attachments,
    cleanups,
    disk_files,
    guest_parts,
    guests,
    hosts,
    live,
    mappings,
    ports,
    retention,
    secrets,
)
from kilonova.reconcile.finding import Finding, settled
from kilonova.reconcile.picture import Picture

RECONCILERS: tuple[ModuleType, ...] = (
    live,
    mappings,
    allocations,
    guests,
    guest_parts,
    disk_files,
    ports,
    attachments,
    cleanups,
    secrets,
    hosts,
    retention,
)


def look(services: Services) -> list[Finding]:
    """Look once with every reconciler."""
    picture = Picture(services)
    picture.guests  # noqa: B018 - what others have is read before our own records
    picture.parts  # noqa: B018
    picture.claims  # noqa: B018
    picture.bindings  # noqa: B018
    picture.attachments  # noqa: B018
    found = [f for reconciler in RECONCILERS for f in reconciler.look(picture)]
    found = settled(found, picture)
    for name in dict.fromkeys(picture.unread):
        found.append(
            Finding(
                kind="not_read",
                subject=name,
                where=name,
                message=f"{name} does not answer: what is there is unknown, and was not compared.",
            )
        )
    return found


def run(services: Services) -> list[dict[str, Any]]:
    """Return every difference in JSON values; changes nothing.

    What is found is looked for once more: a difference counts when it is there both times, so that what operations
    were about to write while we read is none.
    """
    first = look(services)
    if not first:
        return []
    again = {f.key for f in look(services)}
    return [f.shown() for f in first if f.key in again]
