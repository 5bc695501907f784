"""Shelved servers that stay on their host: after ``shelved_offload_time_s`` they leave it (0: at once, -1: never).

Offloading is an ordinary operation, accepted as anybody's would be; what cannot be accepted now is tried again.
"""

from kilonova.common.context import service_context
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import servers
from kilonova.operations import server_shelve_offload, states
from kilonova.operations.accept import find_server
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.picture import Picture

log = get_logger(__name__)
EVERY_S = 10.0


def look(picture: Picture) -> list[Finding]:
    """A server that waits is no difference."""
    return []


def run(services: Services) -> list[Finding]:
    """Offload what has waited long enough. Light: one query per cell."""
    window = services.setting("shelved_offload_time_s", 0.0)
    if window <= 0:
        return []
    before = services.now() - window
    for name in services.real_cells():
        waiting = services.cell(name).read(
            lambda tx: servers.in_state_since(tx, states.SHELVED, before)
        )
        for row in waiting:
            ctx = service_context(row["project_id"])
            try:
                found = find_server(services, ctx, row["uuid"])
                server_shelve_offload.start(services, ctx, found)
            except KilonovaError as exc:
                log.info(
                    "a shelved server could not be offloaded yet",
                    extra={"server": row["uuid"], "why": exc.message},
                )
    return []
