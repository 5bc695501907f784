"""Quotas of a project and of its users; defaults; what is in use.

The quotas of the old network (until 2.35) are shown without a limit: the network service has its own. -1: no limit.
"""

from collections.abc import Iterable
from typing import Any

from kilonova.api.compute.answers import quotas as a
from kilonova.api.compute.rules import ADMIN, ANY, READER
from kilonova.api.compute.schemas import quotas as s
from kilonova.api.compute.schemas.common import true
from kilonova.api.compute.shared import R, versioned, whole
from kilonova.common.errors import BadRequest
from kilonova.db import quotas as db
from kilonova.db import usage
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services


def shown(req: Request) -> list[str]:
    """Return the resources that the version shows."""
    v = req.version
    names: list[str] = [*s.OWN]
    if not v >= V(2, 57):
        names += s.FILES
    if not v >= V(2, 36):
        names += s.NETWORK
    return names


def _project(req: Request) -> str:
    """Return the project of the path. BadRequest when there is none such, as Nova answers."""
    services: Services = req.cloud
    project = req.params["project_id"]
    if not services.identity.project_exists(project):
        raise BadRequest(f"Project ID {project} is not a valid project.")
    return project


def limits_of(values: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """Return the limits of these resources; those of the old network are not limited here."""
    return {n: values.get(n, -1) for n in names}


def show(req: Request) -> Any:
    """Show a project's limits, or those of a user in it."""
    services: Services = req.cloud
    project, user = _project(req), req.query.get("user_id") or ""
    values = services.world.read(lambda tx: db.limits(tx, project, user))
    return {"quota_set": {"id": project, **limits_of(values, shown(req))}}


def detail(req: Request) -> Any:
    """Show limits with what is in use."""
    services: Services = req.cloud
    project, user = _project(req), req.query.get("user_id")

    def read(tx: Tx) -> tuple[dict[str, int], dict[str, int]]:
        return db.limits(tx, project, user or ""), usage.in_use(tx, project, user)

    values, used = services.world.read(read)
    parts = {
        name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
        for name, limit in limits_of(values, shown(req)).items()
    }
    return {"quota_set": {"id": project, **parts}}


def defaults(req: Request) -> Any:
    """Show the limits of a project that has none of its own."""
    services: Services = req.cloud
    project = _project(req)
    values = services.world.read(lambda tx: db.limits(tx, db.CLASS))
    return {"quota_set": {"id": project, **limits_of(values, shown(req))}}


def update(req: Request) -> Any:
    """Set limits of a project, or of a user in it; all of them or, when one is wrong, none."""
    services: Services = req.cloud
    project, user = _project(req), req.query.get("user_id") or ""
    body = dict(req.body["quota_set"])
    force = true(body.pop("force", False))
    wanted = {k: whole(v, k, -1) for k, v in body.items()}

    def put(tx: Tx) -> dict[str, int]:
        if not force:
            _check(tx, project, user, wanted)
        for name, limit in wanted.items():
            db.set_limit(tx, project, user, name, limit)
        return db.limits(tx, project, user)

    return {"quota_set": limits_of(services.world.write(put), shown(req))}


def _check(tx: Tx, project: str, user: str, wanted: dict[str, int]) -> None:
    """Refuse a limit below what is in use, and a user's limit above the project's."""
    used = usage.in_use(tx, project, user or None)
    above = db.limits(tx, project) if user else {}
    for name, limit in wanted.items():
        low, high = used.get(name, 0), above.get(name, -1)
        if 0 <= limit < low:
            raise BadRequest(
                f"Quota limit {limit} for {name} must be greater than or equal to already used "
                f"and reserved {low}."
            )
        if high >= 0 and (limit < 0 or limit > high):
            raise BadRequest(
                f"Quota limit {limit} for {name} must be less than or equal to {high}."
            )


def delete(req: Request) -> None:
    """Go back to the defaults: of one user, or of the project and all its users."""
    services: Services = req.cloud
    project, user = req.params["project_id"], req.query.get("user_id")

    def drop(tx: Tx) -> None:
        if user:
            db.reset(tx, project, user)
        else:
            usage.forget_project(tx, project)

    if project != db.CLASS:
        services.world.write(drop)


def _target(req: Request) -> dict[str, object]:
    return {"project_id": req.params["project_id"]}


_RULE = R + "os-quota-sets:"
_ONE = "/os-quota-sets/{project_id}"
ROUTES = [
    *versioned(
        "GET", _ONE, show, _RULE + "show", queries=s.BY_USER, target=_target, answer=a.QUOTAS
    ),
    *versioned(
        "GET",
        _ONE + "/detail",
        detail,
        _RULE + "detail",
        queries=s.BY_USER,
        target=_target,
        answer=a.QUOTAS_DETAIL,
    ),
    # unlike others, this one takes unknown query parameters in 2.102 too: so does Nova
    *versioned(
        "GET", _ONE + "/defaults", defaults, _RULE + "defaults", target=_target, answer=a.QUOTAS
    ),
    *versioned(
        "PUT",
        _ONE,
        update,
        _RULE + "update",
        bodies=s.UPDATE,
        removed=s.UPDATE_LOST,
        queries=s.BY_USER,
        target=_target,
        answer=a.QUOTAS_SET,
    ),
    *versioned(
        "DELETE", _ONE, delete, _RULE + "delete", queries=s.BY_USER, success=202, target=_target
    ),
]
RULES = {
    _RULE + "show": READER,
    _RULE + "detail": READER,
    _RULE + "defaults": ANY,
    _RULE + "update": ADMIN,
    _RULE + "delete": ADMIN,
}
