"""Extra specs of a flavor. From 2.86 on a spec of a known namespace must be known and its value must fit."""

from typing import Any

import msgspec

from kilonova.api.compute.answers import flavors as a
from kilonova.api.compute.flavors import get
from kilonova.api.compute.rules import ADMIN, READER
from kilonova.api.compute.schemas.common import wrap
from kilonova.api.compute.schemas.extra_specs import check
from kilonova.api.compute.schemas.flavors import EXTRA_SPECS
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db import flavors as db
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services


def _checked(req: Request, specs: dict[str, Any]) -> dict[str, str]:
    """Return specs as text. BadRequest for a value that is too long or, from 2.86, not a valid one."""
    out = {}
    for name, value in specs.items():
        text = value if isinstance(value, str) else str(value)
        if len(text) > 255:
            raise BadRequest(f"extra_specs value of {name} has more than 255 characters.")
        if req.version >= V(2, 86):
            check(name, text)
        out[name] = text
    return out


def _change(req: Request, *, put: dict[str, str] | None = None, drop: str | None = None) -> None:
    services: Services = req.cloud
    flavorid = req.params["flavor_id"]
    get(req, flavorid)

    def write(tx: Tx) -> None:
        row = db.find(tx, flavorid)
        if row is None:
            raise NotFound(f"Flavor {flavorid} could not be found.")
        specs = msgspec.json.decode(row["extra_specs"])
        if drop is not None:
            if drop not in specs:
                raise _missing(flavorid, drop)
            del specs[drop]
        specs.update(put or {})
        db.update(tx, flavorid, extra_specs=msgspec.json.encode(specs).decode())

    services.world.write(write)


def _missing(flavorid: str, name: str) -> NotFound:
    return NotFound(f"Flavor {flavorid} has no extra specs with key {name}.")


def _specs(req: Request) -> dict[str, str]:
    row = get(req, req.params["flavor_id"])
    specs: dict[str, str] = msgspec.json.decode(row["extra_specs"])
    return specs


def index(req: Request) -> Any:
    """List the extra specs of a flavor."""
    return {"extra_specs": _specs(req)}


def show(req: Request) -> Any:
    """Show one extra spec."""
    name, specs = req.params["spec"], _specs(req)
    if name not in specs:
        raise _missing(req.params["flavor_id"], name)
    return {name: specs[name]}


def create(req: Request) -> Any:
    """Add extra specs to those that a flavor has."""
    _change(req, put=_checked(req, req.body["extra_specs"]))
    return req.body


def update(req: Request) -> Any:
    """Set one extra spec."""
    name = req.params["spec"]
    specs = _checked(req, req.body)
    if name not in specs:
        raise BadRequest("Request body and URI mismatch")
    _change(req, put=specs)
    return req.body


def delete(req: Request) -> None:
    """Remove one extra spec."""
    _change(req, drop=req.params["spec"])


_PATH = "/flavors/{flavor_id}/os-extra_specs"
_RULE = R + "os-flavor-extra-specs:"
_ONE = {**EXTRA_SPECS, "minProperties": 1, "maxProperties": 1}
ROUTES = [
    *versioned("GET", _PATH, index, _RULE + "index", queries=NO_QUERY, answer=a.SPECS),
    *versioned("GET", _PATH + "/{spec}", show, _RULE + "show", queries=NO_QUERY, answer=a.SPEC),
    *versioned(
        "POST",
        _PATH,
        create,
        _RULE + "create",
        bodies={1: wrap("extra_specs", EXTRA_SPECS)},
        answer=a.SPECS_MADE,
        idempotent="record",
    ),
    *versioned("PUT", _PATH + "/{spec}", update, _RULE + "update", bodies={1: _ONE}, answer=a.SPEC),
    *versioned("DELETE", _PATH + "/{spec}", delete, _RULE + "delete"),
]
RULES = {_RULE + n: READER for n in ("index", "show")} | {
    _RULE + n: ADMIN for n in ("create", "update", "delete")
}
