"""/backups/{id}/export_record, /backups/import_record: a backup's record for another cloud, or for this one anew."""

from typing import Any

from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.volume.embedded import backup_records, view
from kilonova.volume.embedded.routes.common import body_of, both, target, visible
from kilonova.volume.embedded.store import backups
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_IMPORT = body_of(
    "backup-record",
    {
        "backup_service": {"type": "string", "minLength": 1, "maxLength": 255},
        "backup_url": {"type": "string", "minLength": 1, "maxLength": backup_records.MOST_BYTES},
    },
    ["backup_service", "backup_url"],
)
EXPORT, IMPORT = "backup:export-import", "backup:backup-import"


class BackupRecordRoutes:
    """Handlers of backups' records."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        one, new = "/backups/{backup_id}/export_record", "/backups/import_record"
        errors = (400, 403, 413)
        return [
            *both("GET", one, self.export, EXPORT, errors=(400, 403, 404)),
            *both("POST", new, self.bring, IMPORT, 201, errors, body=_IMPORT),
        ]

    def export(self, req: Request) -> dict[str, Any]:
        """Show a backup's record in the form that import_record takes."""

        def read(tx: Tx) -> Row:
            row = visible(tx, req, "backup", backups.find, req.params["backup_id"], "backup:get")
            req.authorize(EXPORT, target(row))
            return row

        return {"backup-record": backup_records.export(self.of, self.of.db.read(read))}

    def bring(self, req: Request) -> dict[str, Any]:
        """Take a backup in by its record, for the caller's project."""
        body = req.body["backup-record"]
        record = backup_records.read(body["backup_service"], body["backup_url"])
        row = self.of.db.write(lambda tx: backup_records.accept(tx, req.ctx, self.of, record))
        return {"backup": view.backup_brief(req, row)}
