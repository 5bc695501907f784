"""Host aggregates, for admins; from 2.41 with their uuid."""

from typing import Any

from kilonova.api.compute.answers import aggregates as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas import aggregates as s
from kilonova.api.compute.schemas.common import wrap
from kilonova.api.compute.shared import NO_QUERY, R, action, not_yet, versioned
from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db import aggregates as db
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import aggregates
from kilonova.operations.services import Services


def _id(req: Request) -> int:
    text = req.params["aggregate_id"]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
        raise BadRequest("Invalid input received: id must be an integer")
    return int(text)


def _basic(req: Request, row: Row) -> dict[str, Any]:
    out = {
        "id": row["id"],
        "name": row["name"],
        "availability_zone": db.metadata(row).get(aggregates.ZONE),
        "created_at": iso_micro(row["created_at"]),
        "updated_at": None if row["updated_at"] is None else iso_micro(row["updated_at"]),
        "deleted": False,
        "deleted_at": None,
    }
    if req.version >= V(2, 41):
        out["uuid"] = row["uuid"]
    return out


def _shape(req: Request, row: Row, hosts: list[str]) -> dict[str, Any]:
    return {**_basic(req, row), "hosts": hosts, "metadata": db.metadata(row)}


def _whole(req: Request, row: Row) -> Any:
    services: Services = req.cloud
    hosts = services.world.read(lambda tx: db.hosts(tx, row["id"]))
    return {"aggregate": _shape(req, row, hosts)}


def index(req: Request) -> Any:
    """List all aggregates."""
    services: Services = req.cloud
    rows, hosts = services.world.read(lambda tx: (db.all_(tx), db.hosts_of_all(tx)))
    return {"aggregates": [_shape(req, r, hosts.get(r["id"], [])) for r in rows]}


def show(req: Request) -> Any:
    """Show one aggregate."""
    services: Services = req.cloud
    id_ = _id(req)
    row = services.world.read(lambda tx: db.find(tx, id_))
    if row is None:
        raise NotFound(f"Aggregate {id_} could not be found.")
    return _whole(req, row)


def create(req: Request) -> Any:
    """Make an aggregate; with a zone its hosts will be in that zone."""
    body = req.body["aggregate"]
    zone = body.get("availability_zone")
    row = aggregates.create(req.cloud, body["name"].strip(), zone.strip() if zone else None)
    return {"aggregate": _basic(req, row)}


def update(req: Request) -> Any:
    """Rename an aggregate or give it another zone."""
    changes = {k: v.strip() if v else v for k, v in req.body["aggregate"].items()}
    return _whole(req, aggregates.update(req.cloud, _id(req), changes))


def delete(req: Request) -> None:
    """Delete an aggregate that has no hosts."""
    aggregates.delete(req.cloud, _id(req))


def add_host(req: Request) -> Any:
    """Take a host in."""
    host = req.body["add_host"]["host"]
    return _whole(req, aggregates.add_host(req.cloud, _id(req), host))


def remove_host(req: Request) -> Any:
    """Take a host out."""
    host = req.body["remove_host"]["host"]
    return _whole(req, aggregates.remove_host(req.cloud, _id(req), host))


def set_metadata(req: Request) -> Any:
    """Set metadata keys; null drops one."""
    changes = req.body["set_metadata"]["metadata"]
    return _whole(req, aggregates.set_metadata(req.cloud, _id(req), changes))


def images(req: Request) -> None:
    """Fetch images to the hosts of an aggregate ahead of time: not offered yet."""
    show(req)
    ids = [i["id"] for i in req.body["cache"]]
    if len(set(ids)) != len(ids):
        raise BadRequest("Duplicate images in request")
    not_yet("Caching images on the hosts of an aggregate")(req)


_RULE = R + "os-aggregates:"
_ONE = "/os-aggregates/{aggregate_id}"
_ACTIONS = (
    ("add_host", add_host, s.HOST),
    ("remove_host", remove_host, s.HOST),
    ("set_metadata", set_metadata, s.METADATA),
)
ROUTES = [
    *versioned("GET", "/os-aggregates", index, _RULE + "index", queries=NO_QUERY, answer=a.LIST),
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.SHOW),
    *versioned(
        "POST",
        "/os-aggregates",
        create,
        _RULE + "create",
        bodies={1: s.CREATE},
        errors=(400, 403, 409),
        answer=a.CREATE,
        idempotent="record",
    ),
    *versioned(
        "PUT",
        _ONE,
        update,
        _RULE + "update",
        bodies={1: s.UPDATE},
        errors=(400, 403, 404, 409),
        answer=a.SHOW,
    ),
    *versioned("DELETE", _ONE, delete, _RULE + "delete"),
    *(
        route
        for name, handler, body in _ACTIONS
        for route in action(
            _ONE + "/action",
            name,
            handler,
            _RULE + name,
            wrap(name, body),
            errors=(400, 403, 404, 409),
            answer=a.SHOW,
        )
    ),
    *versioned(
        "POST",
        _ONE + "/images",
        images,
        "compute:aggregates:images",
        bodies={81: s.IMAGES},
        since=81,
        success=202,
        errors=(400, 403, 404, 501),
    ),
]
RULES = {
    _RULE + n: ADMIN
    for n in (
        "index",
        "show",
        "create",
        "update",
        "delete",
        "add_host",
        "remove_host",
        "set_metadata",
    )
} | {"compute:aggregates:images": ADMIN}
