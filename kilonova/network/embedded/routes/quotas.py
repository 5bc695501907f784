"""/quotas"""

from typing import Any

from kilonova.db.engine import Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.store import quotas

_LIMIT: Json = {"anyOf": [{"type": "integer", "minimum": -1, "maximum": 2147483647},
                          {"type": "string", "pattern": "^(-1|[0-9]{1,9})$"}]}  # fmt: skip
_BODY = Schema(
    {
        "type": "object",
        "properties": {
            "quota": {
                "type": "object",
                "properties": {
                    **dict.fromkeys(quotas.DEFAULTS, _LIMIT),
                    "tenant_id": {"type": "string"},
                    "project_id": {"type": "string"},
                    "force": {"type": "boolean"},
                    "check_limit": {"type": "boolean"},
                },
                "additionalProperties": False,
            }
        },
        "required": ["quota"],
        "additionalProperties": False,
    }
)


class Quotas:
    """Limits of projects; a caller sees its own, an admin all."""

    def __init__(self, network: EmbeddedNetwork) -> None:
        self.network = network

    def routes(self) -> list[Route]:
        """Return the rows for the table of routes."""
        base = "/v2.0/quotas"
        one = base + "/{project}"
        read = "get_network"  # every reader of a project sees its own limits; others are asked about below
        return [
            Route("GET", base, self.list, "get_quota", errors=(403,)),
            Route("GET", base + "/tenant", self.mine, read),
            Route("GET", base + "/project", self.mine, read),
            Route("GET", one, self.show, read, errors=(403,)),
            Route("GET", one + "/default", self.default, read, errors=(403,)),
            Route("GET", one + "/details", self.details, read, errors=(403,)),
            Route("GET", one + "/details.json", self.details, read, errors=(403,)),
            Route("PUT", one, self.put, "update_quota", errors=(400, 403), body=_BODY),
            Route("DELETE", one, self.delete, "delete_quota", 204, (403, 404)),
        ]

    def _project(self, req: Request) -> str:
        project = req.params["project"]
        if project != req.ctx.project_id:
            req.authorize("get_quota", {"project_id": project})
        return project

    def _limits(self, project: str) -> dict[str, int]:
        return self.network.database.read(
            lambda tx: quotas.limits(tx, project, self.network.quota_defaults)
        )

    def mine(self, req: Request) -> dict[str, Any]:
        """Say whose quota ``/quotas/{id}`` would be without an id."""
        key = req.path.rsplit("/", 1)[-1]
        return {key: {f"{key}_id": req.project()}}

    def list(self, req: Request) -> dict[str, Any]:
        """List the limits of projects that have their own."""
        names = self.network.database.read(quotas.projects)
        return {"quotas": [{**self._limits(p), "tenant_id": p, "project_id": p} for p in names]}

    def show(self, req: Request) -> dict[str, Any]:
        """Show a project's limits."""
        return {"quota": self._limits(self._project(req))}

    def default(self, req: Request) -> dict[str, Any]:
        """Show the limits of a project without its own."""
        self._project(req)
        return {"quota": dict(self.network.quota_defaults)}

    def details(self, req: Request) -> dict[str, Any]:
        """Show limits with what is used."""
        project = self._project(req)

        def body(tx: Tx) -> dict[str, Any]:
            limits = quotas.limits(tx, project, self.network.quota_defaults)
            return {
                name: {"limit": limit, "used": quotas.used(tx, project, name), "reserved": 0}
                for name, limit in limits.items()
            }

        return {"quota": self.network.database.read(body)}

    def put(self, req: Request) -> dict[str, Any]:
        """Set limits."""
        project = req.params["project"]
        values = {k: int(v) for k, v in req.body["quota"].items() if k in quotas.DEFAULTS}
        self.network.write(lambda w: quotas.put(w.tx, project, values))
        return {"quota": self._limits(project)}

    def delete(self, req: Request) -> None:
        """Go back to the defaults."""
        project = req.params["project"]
        self.network.write(lambda w: quotas.reset(w.tx, project))
