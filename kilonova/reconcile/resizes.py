"""Resizes that nobody confirmed: after ``resize_confirm_window_s`` the conductor does it (0: never).

Confirming is an ordinary operation, accepted as anybody's would be; what cannot be accepted now is tried again.
"""

from kilonova.common.config import Settings
from kilonova.common.context import service_context
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import migrations
from kilonova.operations import confirm_resize
from kilonova.operations.accept import find_server
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.picture import Picture

log = get_logger(__name__)
EVERY_S = 10.0


def look(picture: Picture) -> list[Finding]:
    """A resize that waits is no difference."""
    return []


def run(services: Services) -> list[Finding]:
    """Confirm what has waited long enough. Light: one indexed query per cell."""
    settings: Settings | None = services.settings.get("settings")
    window = 0.0 if settings is None else settings.resize_confirm_window_s
    if window <= 0:
        return []
    before = services.now() - window
    for name in services.real_cells():
        waiting = services.cell(name).read(lambda tx: migrations.finished_before(tx, before))
        for move in waiting:
            ctx = service_context(move["project_id"])
            try:
                found = find_server(services, ctx, move["server"])
                if found.mapping["cell"] == name:  # else it went to another cell, and waits there
                    confirm_resize.start(services, ctx, found)
            except KilonovaError as exc:
                log.info(
                    "a resize could not be confirmed yet",
                    extra={"server": move["server"], "why": exc.message},
                )
    return []
