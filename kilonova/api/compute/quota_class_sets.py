"""Quota classes. Only the class ``default`` means anything: it is what projects without limits of their own have."""

from typing import Any

from kilonova.api.compute.answers import quotas as a
from kilonova.api.compute.quota_sets import limits_of
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas import quotas as s
from kilonova.api.compute.shared import NO_QUERY, R, versioned, whole
from kilonova.common.errors import BadRequest
from kilonova.db import quotas as db
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services

_GROUPS = ("server_groups", "server_group_members")


def _shown(req: Request) -> list[str]:
    v = req.version
    names: list[str] = [n for n in s.OWN if v >= V(2, 50) or n not in _GROUPS]
    if not v >= V(2, 57):
        names += s.FILES
    if not v >= V(2, 50):
        names += s.NETWORK
    return names


def _values(tx: Tx, name: str) -> dict[str, int]:
    return db.limits(tx, db.CLASS if name == "default" else "class:" + name)


def show(req: Request) -> Any:
    """Show the limits of a class; a class that nobody set has the defaults."""
    services: Services = req.cloud
    name = req.params["name"]
    values = services.world.read(lambda tx: _values(tx, name))
    return {"quota_class_set": {"id": name, **limits_of(values, _shown(req))}}


def update(req: Request) -> Any:
    """Set limits of a class."""
    services: Services = req.cloud
    name = req.params["name"]
    if not 1 <= len(name) <= 255:
        raise BadRequest("quota_class_name must have 1 to 255 characters.")
    wanted = {k: whole(v, k, -1) for k, v in req.body["quota_class_set"].items()}

    def put(tx: Tx) -> dict[str, int]:
        for resource, limit in wanted.items():
            db.set_limit(tx, "class:" + name, "", resource, limit)
        return _values(tx, name)

    return {"quota_class_set": limits_of(services.world.write(put), _shown(req))}


_RULE = R + "os-quota-class-sets:"
_ONE = "/os-quota-class-sets/{name}"
ROUTES = [
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.QUOTA_CLASS),
    *versioned(
        "PUT",
        _ONE,
        update,
        _RULE + "update",
        bodies=s.CLASS,
        removed=s.CLASS_LOST,
        answer=a.QUOTA_CLASS_SET,
    ),
]
RULES = {_RULE + "show": ADMIN, _RULE + "update": ADMIN}
