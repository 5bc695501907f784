"""Soft-deleted servers: after ``reclaim_instance_interval_s`` they are deleted (0: there are none).

The delete is an ordinary operation, accepted as anybody's would be; what cannot be accepted now is tried again.
"""

from kilonova.common.context import service_context
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import servers
from kilonova.operations import server_delete, states
from kilonova.operations.accept import find_server
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.picture import Picture

log = get_logger(__name__)
EVERY_S = 10.0


def look(picture: Picture) -> list[Finding]:
    """A server that may still be restored is no difference."""
    return []


def run(services: Services) -> list[Finding]:
    """Delete what has waited long enough. Light: one query per cell."""
    window = services.setting("reclaim_instance_interval_s", 0.0)
    if window <= 0:
        return []
    before = services.now() - window
    for name in services.real_cells():
        waiting = services.cell(name).read(
            lambda tx: servers.in_state_since(tx, states.SOFT_DELETED, before)
        )
        for row in waiting:
            ctx = service_context(row["project_id"])
            try:
                server_delete.start(services, ctx, find_server(services, ctx, row["uuid"]))
            except KilonovaError as exc:
                log.info(
                    "a soft-deleted server could not be deleted yet",
                    extra={"server": row["uuid"], "why": exc.message},
                )
    return []
