"""/resource_classes (1.2)."""

from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.placement import classes, names

_NAMED = Schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^CUSTOM_[A-Z0-9_]+$", "maxLength": 255}
        },
        "required": ["name"],
        "additionalProperties": False,
    }
)


def _where(req: Request, name: str) -> str:
    return "/" + req.base.removeprefix(req.root).strip("/") + "/resource_classes/" + name


def _shown(req: Request, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": _where(req, name)}]}


def list_(req: Request) -> Response:
    """List all classes."""
    found = common.read(req, classes.every)
    return common.answer(req, {"resource_classes": [_shown(req, n) for n in found]})


def create(req: Request) -> Response:
    """Make a CUSTOM_ class; 409 when it is there."""
    name = req.body["name"]
    if not common.write(req, lambda tx: classes.make(tx, name, common.now(req))):
        raise Conflict(f"Conflicting resource class already exists: {name}")
    return Response(status=201, headers={"Location": _where(req, name)})


def show(req: Request) -> Response:
    """Show one class."""
    name = req.params["name"]
    if not common.read(req, lambda tx: classes.exists(tx, name)):
        raise NotFound(f"No such resource class {name[:60]}.")
    return common.answer(req, _shown(req, name))


def ensure(req: Request) -> Response:
    """Make a CUSTOM_ class: 201, or 204 when it is there."""
    name = req.params["name"]
    if names.CUSTOM.fullmatch(name) is None:
        raise BadRequest(f"{name[:60]!r} does not match '^CUSTOM_[A-Z0-9_]+$'.")
    made = common.write(req, lambda tx: classes.make(tx, name, common.now(req)))
    return Response(status=201 if made else 204, headers={"Location": _where(req, name)})


def rename_until_1_6(req: Request) -> Response:
    """Before 1.7 a PUT renamed a CUSTOM_ class."""
    old, new = req.params["name"], req.body["name"]

    def change(tx: Tx) -> None:
        if old in names.standard_classes():
            raise BadRequest(f"Cannot update standard resource class {old}")
        classes.rename(tx, old, new, common.now(req))

    common.write(req, change)
    return common.answer(req, _shown(req, new))


def delete(req: Request) -> None:
    """Delete a CUSTOM_ class that no provider has inventory of."""
    common.write(req, lambda tx: classes.forget(tx, req.params["name"]))


_ALL, _ONE = "/resource_classes", "/resource_classes/{name}"
_P = "placement:resource_classes:"
ROUTES = (
    Route("GET", _ALL, list_, _P + "list", since=V(1, 2)),
    Route(
        "POST",
        _ALL,
        create,
        _P + "create",
        success=201,
        since=V(1, 2),
        body=_NAMED,
        errors=(400, 409),
    ),
    Route("GET", _ONE, show, _P + "show", since=V(1, 2), errors=(404,)),
    Route(
        "PUT",
        _ONE,
        rename_until_1_6,
        _P + "update",
        since=V(1, 2),
        until=V(1, 6),
        body=_NAMED,
        errors=(400, 404, 409),
    ),
    Route("PUT", _ONE, ensure, _P + "update", success=201, since=V(1, 7), errors=(204, 400)),
    Route(
        "DELETE", _ONE, delete, _P + "delete", success=204, since=V(1, 2), errors=(400, 404, 409)
    ),
)
