"""POST /volumes/{id}/action: os-migrate_volume and its completion, for administrators."""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.volume.embedded import migrating
from kilonova.volume.embedded.routes.common import FLAG, ID, TEXT, action_of, both, truth
from kilonova.volume.embedded.routes.volumes import VolumeRoutes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_RULE = "volume_extension:volume_admin_actions:migrate_volume"
_BODY = action_of(
    "os-migrate_volume",
    {
        "host": TEXT,
        "cluster": TEXT,
        "force_host_copy": FLAG,
        "lock_volume": FLAG,
    },
)
_RULE_DONE = "volume_extension:volume_admin_actions:migrate_volume_completion"
_DONE = action_of("os-migrate_volume_completion", {"new_volume": ID, "error": FLAG}, ["new_volume"])


class MigrationRoutes:
    """Handlers of what brings volumes to other hosts."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of
        self.volumes = VolumeRoutes(of)

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        path, errors = "/volumes/{volume_id}/action", (400, 403, 404)
        name, done = "os-migrate_volume", "os-migrate_volume_completion"
        return [
            *both("POST", path, self.migrate, _RULE, 202, errors, body=_BODY, action=name),
            *both("POST", path, self.complete, _RULE_DONE, 202, (*errors, 409), body=_DONE, action=done),
        ]  # fmt: skip

    def migrate(self, req: Request) -> None:
        """Bring a volume to another host: its data are always copied by the hosts."""
        body: dict[str, Any] = req.body["os-migrate_volume"]
        if body.get("cluster"):
            raise BadRequest("Invalid input received: cluster: hosts form no clusters here.")
        if not body.get("host"):
            raise BadRequest("Invalid input received: host: it must be named.")

        def write(tx: Tx) -> None:
            row = self.volumes.find(tx, req, _RULE)
            lock = truth(body.get("lock_volume") or False)
            migrating.accept(tx, req.ctx, self.of, row, body["host"], lock=lock)

        self.of.db.write(write)

    def complete(self, req: Request) -> dict[str, Any]:
        """Hear from compute how a migration of a volume that a server has ended."""
        body: dict[str, Any] = req.body["os-migrate_volume_completion"]
        old = self.of.db.read(lambda tx: self.volumes.find(tx, req, _RULE_DONE))
        error = truth(body.get("error") or False)
        kept = self.of.complete_migration(old["id"], body["new_volume"], error=error)
        return {"save_volume_id": kept}
