"""Who may use a private flavor."""

from typing import Any

from kilonova.api.compute.answers import flavors as a
from kilonova.api.compute.flavors import get
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.common import wrap
from kilonova.api.compute.schemas.flavors import ACCESS
from kilonova.api.compute.shared import NO_QUERY, R, action, versioned
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db import flavors as db
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services


def _list(req: Request, flavorid: str) -> Any:
    services: Services = req.cloud
    projects = services.world.read(lambda tx: db.access(tx, flavorid))
    return {"flavor_access": [{"flavor_id": flavorid, "tenant_id": p} for p in projects]}


def index(req: Request) -> Any:
    """List the projects that may use a private flavor."""
    row = get(req, req.params["flavor_id"])
    if row["is_public"]:
        raise NotFound("Access list not available for public flavors.")
    return _list(req, row["flavorid"])


def add(req: Request) -> Any:
    """Let a project use a private flavor."""
    services: Services = req.cloud
    project = req.body["addTenantAccess"]["tenant"]
    if not services.identity.project_exists(project):
        raise BadRequest(f"Project ID {project} is not a valid project.")
    row = get(req, req.params["flavor_id"])
    flavorid = row["flavorid"]
    if row["is_public"] and req.version >= V(2, 7):
        raise Conflict("Can not add access to a public flavor.")
    if not services.world.write(lambda tx: db.grant(tx, flavorid, project)):
        raise Conflict(
            f"Flavor access already exists for flavor {flavorid} and project {project} combination."
        )
    return _list(req, flavorid)


def remove(req: Request) -> Any:
    """Take a private flavor away from a project, whether the project still exists or not."""
    services: Services = req.cloud
    project = req.body["removeTenantAccess"]["tenant"]
    flavorid = get(req, req.params["flavor_id"])["flavorid"]
    if not services.world.write(lambda tx: db.revoke(tx, flavorid, project)):
        raise NotFound(f"Flavor access not found for {flavorid} / {project} combination.")
    return _list(req, flavorid)


_RULE = R + "os-flavor-access"
_ACT = "/flavors/{flavor_id}/action"
ROUTES = [
    *versioned(
        "GET",
        "/flavors/{flavor_id}/os-flavor-access",
        index,
        _RULE,
        queries=NO_QUERY,
        answer=a.ACCESS,
    ),
    *action(
        _ACT,
        "addTenantAccess",
        add,
        _RULE + ":add_tenant_access",
        wrap("addTenantAccess", ACCESS),
        errors=(400, 403, 404, 409),
        answer=a.ACCESS,
    ),
    *action(
        _ACT,
        "removeTenantAccess",
        remove,
        _RULE + ":remove_tenant_access",
        wrap("removeTenantAccess", ACCESS),
        answer=a.ACCESS,
    ),
]
RULES = {
    _RULE: ADMIN,
    _RULE + ":add_tenant_access": ADMIN,
    _RULE + ":remove_tenant_access": ADMIN,
}
