"""/os-quota-sets, /os-quota-class-sets and /limits."""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.volume.embedded.routes.common import both, truth
from kilonova.volume.embedded.store import quotas
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_LIMIT: Json = {
    "type": ["integer", "string"],
    "pattern": "^(-1|[0-9]{1,9})$",
    "minimum": -1,
    "maximum": 2147483647,
}


def _body(name: str) -> Schema:
    properties = {
        "skip_validation": {},
        "tenant_id": {"type": ["string", "null"]},
        "id": {},
        "class_name": {},
    }
    inner: Json = {
        "type": "object",
        "properties": properties,
        "additionalProperties": {"anyOf": [{"type": "null"}, _LIMIT]},
        "maxProperties": 500,
    }
    return Schema({"type": "object", "properties": {name: inner}, "required": [name]})


_SET, _CLASS = _body("quota_set"), _body("quota_class_set")
_IGNORED = {"skip_validation", "tenant_id", "id", "class_name"}
_S = "volume_extension:quotas:"


class QuotaRoutes:
    """Limits of projects; a caller sees its own, an administrator all."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        one, kind = "/os-quota-sets/{project}", "/os-quota-class-sets/{name}"
        classes = "volume_extension:quota_classes:"
        return [
            *both("GET", one, self.show, _S + "show", errors=(403,)),
            *both("GET", one + "/defaults", self.defaults, _S + "show", errors=(403,)),
            *both("PUT", one, self.put, _S + "update", errors=(400, 403), body=_SET),
            *both("DELETE", one, self.delete, _S + "delete", errors=(403,)),
            *both("GET", kind, self.show_class, classes + "get", errors=(403,)),
            *both("PUT", kind, self.put_class, classes + "update", errors=(400, 403), body=_CLASS),
            *both("GET", "/limits", self.limits, "limits_extension:used_limits"),
        ]

    def _project(self, req: Request) -> str:
        project = req.params["project"]
        req.authorize(_S + "show", {"project_id": project})
        return project

    def show(self, req: Request) -> dict[str, Any]:
        """Show a project's limits; ``usage=True``: with what is used."""
        project = self._project(req)
        usage = truth(req.query.get("usage", "false"))

        def read(tx: Tx) -> dict[str, Any]:
            limits = quotas.limits(tx, project)
            if not usage:
                return {"id": project, **limits}
            used = quotas.used(tx, project)
            both_: dict[str, Any] = {
                n: {"limit": limit, "in_use": used.get(n, 0), "reserved": 0}
                for n, limit in limits.items()
            }
            return {"id": project, **both_}

        return {"quota_set": self.of.db.read(read)}

    def defaults(self, req: Request) -> dict[str, Any]:
        """Show the limits of a project without its own."""
        project = self._project(req)
        return {"quota_set": {"id": project, **self.of.db.read(quotas.class_limits)}}

    def put(self, req: Request) -> dict[str, Any]:
        """Set a project's limits."""
        project = req.params["project"]
        self._write(req, "project", project, req.body["quota_set"])
        return {"quota_set": self.of.db.read(lambda tx: quotas.limits(tx, project))}

    def _write(self, req: Request, kind: str, owner: str, given: dict[str, Any]) -> None:
        if len(owner) > 255:
            raise BadRequest("The name is too long.")
        values = {k: int(v) for k, v in given.items() if k not in _IGNORED and v is not None}

        def write(tx: Tx) -> None:
            unknown = sorted(values.keys() - set(quotas.names(tx)))
            if unknown:
                raise BadRequest(f"Bad key(s) in quota set: {', '.join(unknown)[:255]}")
            quotas.put(tx, kind, owner, values)

        self.of.db.write(write)

    def delete(self, req: Request) -> None:
        """Go back to the defaults."""
        project = req.params["project"]
        self.of.db.write(lambda tx: quotas.reset(tx, "project", project))

    def show_class(self, req: Request) -> dict[str, Any]:
        """Show a class's limits; "default" holds for projects without their own."""
        name = req.params["name"]
        limits = self.of.db.read(lambda tx: quotas.class_limits(tx, name))
        return {"quota_class_set": {"id": name, **limits}}

    def put_class(self, req: Request) -> dict[str, Any]:
        """Set a class's limits."""
        name = req.params["name"]
        self._write(req, "class", name, req.body["quota_class_set"])
        return {"quota_class_set": self.of.db.read(lambda tx: quotas.class_limits(tx, name))}

    def limits(self, req: Request) -> dict[str, Any]:
        """Show the caller's limits and what it uses; an administrator may name a project."""
        named = req.query.get("project_id") if req.ctx.is_admin else None
        project = named or req.project()

        def read(tx: Tx) -> dict[str, int]:
            limit, used = quotas.limits(tx, project), quotas.used(tx, project)
            return {
                "maxTotalVolumes": limit["volumes"],
                "maxTotalSnapshots": limit["snapshots"],
                "maxTotalVolumeGigabytes": limit["gigabytes"],
                "maxTotalBackups": limit["backups"],
                "maxTotalBackupGigabytes": limit["backup_gigabytes"],
                "totalVolumesUsed": used["volumes"],
                "totalGigabytesUsed": used["gigabytes"],
                "totalSnapshotsUsed": used["snapshots"],
                "totalBackupsUsed": used["backups"],
                "totalBackupGigabytesUsed": used["backup_gigabytes"],
            }

        return {"limits": {"rate": [], "absolute": self.of.db.read(read)}}
