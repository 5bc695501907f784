"""/resource_providers/{uuid}/inventories: all of a provider, or one class.

Changes name the generation that was read.
"""

from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema, extend
from kilonova.placement import classes, inventories, providers
from kilonova.placement.inventories import Inventory
from kilonova.placement.providers import Provider

_INT: Json = {"type": "integer", "maximum": common.MAX_INT}
RECORD: Json = {
    "type": "object",
    "properties": {
        "resource_provider_generation": {"type": "integer"},
        "total": {**_INT, "minimum": 1},
        "reserved": {**_INT, "minimum": 0},
        "min_unit": {**_INT, "minimum": 1},
        "max_unit": {**_INT, "minimum": 1},
        "step_size": {**_INT, "minimum": 1},
        "allocation_ratio": {"type": "number", "minimum": 0, "maximum": 3.40282e38},
    },
    "required": ["total"],
    "additionalProperties": False,
}
_PUT_ONE = extend(RECORD, required=["total", "resource_provider_generation"])
_POST = extend(
    RECORD,
    properties={"resource_class": {"type": "string", "pattern": common.CLASS}},
    required=["total", "resource_class"],
)
PUT_ALL: Json = {
    "type": "object",
    "properties": {
        "resource_provider_generation": {"type": "integer"},
        "inventories": {
            "type": "object",
            "patternProperties": {common.CLASS: RECORD},
            "additionalProperties": False,
        },
    },
    "required": ["resource_provider_generation", "inventories"],
    "additionalProperties": False,
}


def record_of(resource_class: str, body: dict[str, Any], req: Request) -> Inventory:
    """Return the inventory that a body asks for. Raises BadRequest when nothing could be taken from it."""
    out = Inventory(
        total=body["total"],
        reserved=body.get("reserved", 0),
        min_unit=body.get("min_unit", 1),
        max_unit=body.get("max_unit", common.MAX_INT),
        step_size=body.get("step_size", 1),
        allocation_ratio=float(body.get("allocation_ratio", 1.0)),
    )
    inventories.check(resource_class, out, may_reserve_all=req.version >= V(1, 26))
    return out


def shown(record: Inventory) -> dict[str, Any]:
    """Return one class as the API shows it."""
    return {
        "total": record.total,
        "reserved": record.reserved,
        "min_unit": record.min_unit,
        "max_unit": record.max_unit,
        "step_size": record.step_size,
        "allocation_ratio": record.allocation_ratio,
    }


def _all(req: Request, tx: Tx, p: Provider) -> Response:
    body = {
        "resource_provider_generation": p.generation,
        "inventories": {rc: shown(r) for rc, r in inventories.of(tx, p.id).items()},
    }
    return common.answer(req, body, modified=p.changed_at)


def list_(req: Request) -> Response:
    """Show all classes."""
    return common.read(req, lambda tx: _all(req, tx, common.provider_of(req, tx)))


def show(req: Request) -> Response:
    """Show one class."""

    def found(tx: Tx) -> Response:
        p, rc = common.provider_of(req, tx), req.params["resource_class"]
        record = inventories.of(tx, p.id).get(rc)
        if record is None:
            raise NotFound(f"No inventory of class {rc[:60]} for {p.uuid}")
        body = shown(record) | {"resource_provider_generation": p.generation}
        return common.answer(req, body, modified=p.changed_at)

    return common.read(req, found)


def replace(req: Request) -> Response:
    """Make the inventory exactly this; 409 for another generation, or a class that goes and is used."""

    def change(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        given = req.body["inventories"]
        classes.check(tx, given)
        providers.bump(tx, p, common.now(req), req.body["resource_provider_generation"])
        inventories.replace(tx, p.id, {rc: record_of(rc, b, req) for rc, b in given.items()})
        return _all(req, tx, providers.get(tx, p.uuid))

    return common.write(req, change)


def add(req: Request) -> Response:
    """Add one class; 409 when it is there."""
    rc = req.body["resource_class"]

    def change(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        classes.check(tx, [rc])
        if rc in inventories.of(tx, p.id):
            raise Conflict(f"Update conflict: Inventory of {rc} already exists.")
        generation = providers.bump(
            tx, p, common.now(req), req.body.get("resource_provider_generation")
        )
        record = record_of(rc, req.body, req)
        inventories.write(tx, p.id, rc, record)
        body = shown(record) | {"resource_provider_generation": generation}
        where = common.url_of(req, p.uuid, "inventories", rc)
        return common.answer(req, body, status=201, location=where)

    return common.write(req, change)


def set_one(req: Request) -> Response:
    """Change one class that is there."""
    rc = req.params["resource_class"]

    def change(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        if rc not in inventories.of(tx, p.id):
            raise BadRequest(f"No inventory of class {rc[:60]} found for update.")
        generation = providers.bump(
            tx, p, common.now(req), req.body["resource_provider_generation"]
        )
        record = record_of(rc, req.body, req)
        inventories.write(tx, p.id, rc, record)
        return common.answer(req, shown(record) | {"resource_provider_generation": generation})

    return common.write(req, change)


def remove_one(req: Request) -> None:
    """Remove one class; 409 while it is used."""

    def change(tx: Tx) -> None:
        p = common.provider_of(req, tx)
        inventories.remove(tx, p.id, req.params["resource_class"])
        providers.touch(tx, p.id, common.now(req))

    common.write(req, change)


def remove_all(req: Request) -> None:
    """Remove all classes; 409 while one is used."""

    def change(tx: Tx) -> None:
        p = common.provider_of(req, tx)
        inventories.replace(tx, p.id, {})
        providers.touch(tx, p.id, common.now(req))

    common.write(req, change)


_ALL = "/resource_providers/{uuid}/inventories"
_ONE = _ALL + "/{resource_class}"
_P = "placement:resource_providers:inventories:"
_ERRORS = (400, 404, 409)
ROUTES = (
    Route("GET", _ALL, list_, _P + "list", since=V(1, 0), errors=(404,)),
    Route(
        "POST",
        _ALL,
        add,
        _P + "create",
        success=201,
        since=V(1, 0),
        body=Schema(_POST),
        errors=_ERRORS,
    ),
    Route("PUT", _ALL, replace, _P + "update", since=V(1, 0), body=Schema(PUT_ALL), errors=_ERRORS),
    Route("DELETE", _ALL, remove_all, _P + "delete", success=204, since=V(1, 5), errors=(404, 409)),
    Route("GET", _ONE, show, _P + "show", since=V(1, 0), errors=(404,)),
    Route(
        "PUT", _ONE, set_one, _P + "update", since=V(1, 0), body=Schema(_PUT_ONE), errors=_ERRORS
    ),
    Route("DELETE", _ONE, remove_one, _P + "delete", success=204, since=V(1, 0), errors=(404, 409)),
)
