"""Cells, for ``kilonova cell``: list, add, move, disable, enable, delete."""

from typing import Any

from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.operations import cell_delete, cells
from kilonova.reconcile import hosts

RULES = {f"kilonova:cells:{verb}": "rule:context_is_admin" for verb in ("list", "change")}
_ADD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 64},
        "url": {"type": "string", "minLength": 1, "maxLength": 2048},
    },
    "required": ["name", "url"],
    "additionalProperties": False,
}
_CHANGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "disabled": {"type": "boolean"},
        "url": {"type": "string", "minLength": 1, "maxLength": 2048},
    },
    "minProperties": 1,
    "additionalProperties": False,
}


def index(req: Request) -> Any:
    """List cells."""
    return {"cells": cells.shown(req.cloud)}


def add(req: Request) -> Any:
    """Add a cell by its database's URL; it is used at once."""
    name = req.body["name"]
    cells.add(req.cloud, name, req.body["url"])
    return {"cell": _one(req, name)}


def change(req: Request) -> Any:
    """Say where a cell's database is now; take a cell out of scheduling, or back in."""
    name, asked = req.params["name"], req.body
    if "url" in asked:
        cells.set_url(req.cloud, name, asked["url"])
    if "disabled" in asked:
        cells.set_disabled(req.cloud, name, disabled=asked["disabled"])
    return {"cell": _one(req, name)}


def delete(req: Request) -> None:
    """Forget a cell without servers; with ``force`` its hosts go too, and its database need not answer."""
    force = req.query.get("force", "") in ("1", "true", "True")
    cell_delete.delete(req.cloud, req.params["name"], force=force)


def discover(req: Request) -> Any:
    """Look for hosts that a cell has and no mapping names, or that lack their provider; ask them to register."""
    return {"findings": [f.shown() for f in hosts.run(req.cloud)]}


def _one(req: Request, name: str) -> Any:
    return next(c for c in cells.shown(req.cloud) if c["name"] == name)


_C = "kilonova:cells:change"
ROUTES = (
    Route("GET", "/v1/cells", index, "kilonova:cells:list"),
    Route(
        "POST",
        "/v1/cells",
        add,
        _C,
        success=201,
        errors=(400, 403, 409),
        body=Schema(_ADD, secret=True),
    ),
    Route(
        "PUT",
        "/v1/cells/{name}",
        change,
        _C,
        errors=(400, 403, 404, 409),
        body=Schema(_CHANGE, secret=True),
    ),
    Route("POST", "/v1/hosts/discover", discover, _C, errors=(403,)),
    Route("DELETE", "/v1/cells/{name}", delete, _C, success=204, errors=(403, 404, 409)),
)
