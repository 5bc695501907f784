"""Our own API at /kilonova/v1: operations, explanations, audit. What has no counterpart in OpenStack's APIs."""

from collections.abc import Mapping
from typing import Any

from kilonova.api.operations import cells, drains
from kilonova.api.operations.events import list_events
from kilonova.api.operations.status import show_status
from kilonova.api.operations.versions import show_versions
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Database, Row
from kilonova.http import errors as forms
from kilonova.http.policy import Policy
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.service import Service
from kilonova.operations.services import Services
from kilonova.reconcile import audit as audits
from kilonova.saga import history, journal
from kilonova.saga.definition import find

_RULES = {
    "context_is_admin": "role:admin",
    **cells.RULES,
    "kilonova:operations:list": "role:reader",
    "kilonova:operations:show": "role:reader",
    "kilonova:operations:cancel": "role:member",
    "kilonova:events:list": "role:reader",
    "kilonova:events:list:all_projects": "rule:context_is_admin",
    "kilonova:explain": "role:member",
    "kilonova:audit": "rule:context_is_admin",
    "kilonova:cleanups": "rule:context_is_admin",
    "kilonova:versions": "rule:context_is_admin",
    "kilonova:status": "rule:context_is_admin",
    **drains.RULES,
}


def homes(services: Services) -> dict[str, Database]:
    """Return every database that journals operations."""
    return services.homes()


def _find(req: Request) -> tuple[str, Row]:
    services: Services = req.cloud
    wanted = req.params["operation_id"]
    for name, db in homes(services).items():
        row = db.read(lambda tx: journal.find_row(tx, wanted))
        if row is not None and (row["project_id"] == req.ctx.project_id or req.ctx.is_admin):
            return name, row
    raise NotFound(f"Operation {wanted:.40} could not be found.")


def list_operations(req: Request) -> Any:
    """List operations, newest first; admins may ask for all projects."""
    services: Services = req.cloud
    everyone = req.ctx.is_admin and req.query.get("all_projects") is not None
    project = None if everyone else req.project()
    limit = req.query.get("limit", "100") or "100"
    if not limit.isdigit() or not 1 <= int(limit) <= 1000:
        raise BadRequest("limit must be from 1 to 1000")
    live = req.query.get("live") is not None
    found: list[dict[str, Any]] = []
    for name, db in homes(services).items():
        rows = db.read(
            lambda tx: journal.list_(
                tx,
                project_id=project,
                resource=req.query.get("resource"),
                live=True if live else None,
                limit=int(limit),
            )
        )
        found += [
            {**history.summary(r, services.now(), admin=req.ctx.is_admin), "database": name}
            for r in rows
        ]
    found.sort(key=lambda o: o["accepted_at"], reverse=True)
    return {"operations": found[: int(limit)]}


def show_operation(req: Request) -> Any:
    """Show one operation: its steps, what it waits for, what would be undone."""
    services: Services = req.cloud
    home, row = _find(req)
    shown = homes(services)[home].read(
        lambda tx: history.show(tx, row["id"], services.now(), admin=req.ctx.is_admin)
    )
    return {"operation": {**shown, "database": home}}


def cancel_operation(req: Request) -> None:
    """Ask an operation to unwind at its next step boundary."""
    services: Services = req.cloud
    home, row = _find(req)
    saga = find(row["kind"], row["version"])
    if saga is not None and not saga.cancellable:
        raise Conflict(f"An operation of kind {row['kind']} cannot be cancelled.")
    asked = homes(services)[home].write(
        lambda tx: journal.request_cancel(
            tx, row["id"], now=services.now(), nudge=services.engine.nudge
        )
    )
    if not asked:
        raise Conflict("The operation has ended.")


def audit(req: Request) -> Any:
    """Compare all records with each other and with the hosts; changes nothing."""
    findings = audits.run(req.cloud)
    return {"findings": findings, "clean": not findings}


def explain(req: Request) -> Any:
    """Decide where a server would go, claiming nothing; the full table is for admins."""
    services: Services = req.cloud
    from kilonova.api.compute.servers.creating import dry_run

    return dry_run(req, services)


def service(overrides: Mapping[str, str] | None = None) -> Service:
    """Return the service. overrides: a policy file's content.

    What asks for a server without making one (explain) answers by the rules of the compute API.
    """
    from kilonova.api.compute.service import defaults

    return Service(
        name="kilonova",
        mount="/kilonova",
        routes=(
            Route("GET", "/v1/operations", list_operations, "kilonova:operations:list"),
            Route(
                "GET", "/v1/operations/{operation_id}", show_operation, "kilonova:operations:show"
            ),
            Route(
                "POST",
                "/v1/operations/{operation_id}/cancel",
                cancel_operation,
                "kilonova:operations:cancel",
                success=202,
                errors=(403, 404, 409),
            ),
            Route("GET", "/v1/status", show_status, "kilonova:status"),
            Route("GET", "/v1/events", list_events, "kilonova:events:list", errors=(400, 403, 503)),
            Route("GET", "/v1/versions", show_versions, "kilonova:versions"),
            Route("GET", "/v1/audit", audit, "kilonova:audit"),
            Route("POST", "/v1/explain", explain, "kilonova:explain", errors=(400, 403)),
            *drains.ROUTES,
            *cells.ROUTES,
        ),
        policy=Policy({**defaults(), **_RULES}, overrides),
        render=forms.compute,
    )
