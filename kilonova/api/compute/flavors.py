"""Flavors: list, show, create, describe, delete. Extra specs and access are in files of their own."""

from typing import Any

import msgspec

from kilonova.api.compute.answers import flavors as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas import flavors as s
from kilonova.api.compute.schemas.common import true
from kilonova.api.compute.shared import NO_QUERY, R, links, next_link, page, versioned, whole
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import flavors as db
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.objects.server import FlavorRecord
from kilonova.operations import notices
from kilonova.operations.services import Services

_SORT = {
    "flavorid": "flavorid",
    "id": "flavorid",
    "name": "name",
    "memory_mb": "memory_mib",
    "vcpus": "vcpus",
    "root_gb": "root_gib",
    "ephemeral_gb": "ephemeral_gib",
    "swap": "swap_mib",
    "rxtx_factor": "rxtx_factor",
    "is_public": "is_public",
    "disabled": "disabled",
    "description": "description",
    "created_at": "created_at",
    "updated_at": "created_at",
    "vcpu_weight": "flavorid",
}


def get(req: Request, flavorid: str) -> Row:
    """Return a flavor that the caller may see; NotFound alike for missing and private ones."""
    services: Services = req.cloud
    ctx = req.ctx
    row = services.world.read(
        lambda tx: db.find_for(tx, flavorid, ctx.project_id, admin=ctx.is_admin)
    )
    if row is None:
        raise NotFound(f"Flavor {flavorid} could not be found.")
    return row


def shape(req: Request, row: Row, *, specs: bool) -> dict[str, Any]:
    """Return a whole flavor as the version has it."""
    v = req.version
    out: dict[str, Any] = {
        "id": row["flavorid"],
        "name": row["name"],
        "ram": row["memory_mib"],
        "disk": row["root_gib"],
        "swap": row["swap_mib"] or (0 if v >= V(2, 75) else ""),
        "OS-FLV-EXT-DATA:ephemeral": row["ephemeral_gib"],
        "vcpus": row["vcpus"],
        "os-flavor-access:is_public": bool(row["is_public"]),
        "links": links(req, f"flavors/{row['flavorid']}"),
    }
    if not v >= V(2, 102):
        out["OS-FLV-DISABLED:disabled"] = bool(row["disabled"])
        out["rxtx_factor"] = row["rxtx_factor"] or ""
    if v >= V(2, 55):
        out["description"] = row["description"]
    if specs:
        out["extra_specs"] = msgspec.Raw(row["extra_specs"].encode())
    return out


def _with_specs(req: Request) -> bool:
    return req.version >= V(2, 61) and req.may(R + "os-flavor-extra-specs:index")


def _basic(req: Request, row: Row) -> dict[str, Any]:
    out = {
        "id": row["flavorid"],
        "name": row["name"],
        "links": links(req, f"flavors/{row['flavorid']}"),
    }
    if req.version >= V(2, 55):
        out["description"] = row["description"]
    return out


def index(req: Request) -> Any:
    """List flavors: id, name and links."""
    return _list(req, detail=False)


def detail(req: Request) -> Any:
    """List flavors with all their fields."""
    return _list(req, detail=True)


def _list(req: Request, *, detail: bool) -> Any:
    rows, more = page(req, _found(req), lambda r: str(r["flavorid"]))
    specs = detail and _with_specs(req)
    found = [shape(req, r, specs=specs) if detail else _basic(req, r) for r in rows]
    out: dict[str, Any] = {"flavors": found}
    if more:
        path = "/flavors/detail" if detail else "/flavors"
        out["flavors_links"] = next_link(req, path, rows[-1]["flavorid"])
    return out


def _found(req: Request) -> list[Row]:
    """Return every flavor that the query asks for and the caller may see, sorted."""
    services: Services = req.cloud
    ctx, q = req.ctx, req.query
    public = _is_public(q.get("is_public")) if ctx.is_admin else True
    low_ram, low_disk = _number(req, "minRam"), _number(req, "minDisk")
    rows = services.world.read(
        lambda tx: db.list_(
            tx, project_id=ctx.project_id, is_public=public, min_disk=low_disk, min_ram=low_ram
        )
    )
    if not ctx.is_admin:
        rows = [r for r in rows if not r["disabled"]]
    name = q.get("name")
    if name is not None and req.version >= V(2, 102):
        rows = [r for r in rows if r["name"] == name]
    column = _SORT.get(q.get("sort_key") or "flavorid", "flavorid")
    reverse = (q.get("sort_dir") or "asc") == "desc"
    by_id = sorted(rows, key=lambda r: str(r["flavorid"]), reverse=reverse)
    return sorted(by_id, key=lambda r: (r[column] is not None, r[column] or 0), reverse=reverse)


def _number(req: Request, name: str) -> int:
    text = req.query.get(name)
    if text is None:
        return 0
    try:
        return max(-1, min(int(text), 2**62))
    except ValueError:
        raise BadRequest(f"Invalid {name} filter [{text[:80]}]") from None


def _is_public(text: str | None) -> bool | None:
    if text is None:
        return True
    low = text.strip().lower()
    if low == "none":
        return None
    if low in ("1", "t", "true", "on", "y", "yes"):
        return True
    if low in ("0", "f", "false", "off", "n", "no"):
        return False
    raise BadRequest(f"Invalid is_public filter [{text[:80]}]")


def show(req: Request) -> Any:
    """Show one flavor."""
    return {"flavor": shape(req, get(req, req.params["flavor_id"]), specs=_with_specs(req))}


def create(req: Request) -> Any:
    """Create a flavor; an id is minted when none or "auto" is given."""
    services: Services = req.cloud
    body = req.body["flavor"]
    name = body["name"].strip()
    given = body.get("id")
    flavorid = new_uuid() if given in (None, "auto", "") else str(given).strip()
    flavor = FlavorRecord(
        flavorid=flavorid,
        name=name,
        vcpus=whole(body["vcpus"], "vcpus", 1),
        memory_mib=whole(body["ram"], "ram", 1),
        root_gib=whole(body["disk"], "disk"),
        ephemeral_gib=whole(body.get("OS-FLV-EXT-DATA:ephemeral", 0), "OS-FLV-EXT-DATA:ephemeral"),
        swap_mib=whole(body.get("swap", 0), "swap"),
        rxtx_factor=_factor(body.get("rxtx_factor", 1.0)),
        is_public=true(body.get("os-flavor-access:is_public", True)),
        description=body.get("description"),
    )

    def put(tx: Tx) -> Row | None:
        if db.find(tx, flavorid) is not None:
            raise Conflict(f"Flavor with ID {flavorid} already exists.")
        if db.named(tx, name) is not None:
            raise Conflict(f"Flavor with name {name} already exists.")
        db.add(tx, flavor, services.now())
        row = db.find(tx, flavorid)
        notices.flavor(tx, "flavor.create", row, services.now())
        return row

    row = services.world.write(put)
    return {"flavor": shape(req, row, specs=_with_specs(req))}


def _factor(value: Any) -> float:
    number = float(value)
    if not 0 < number <= 3.40282e38:
        raise BadRequest("rxtx_factor: it must be greater than 0 and at most 3.40282e+38")
    return number


def update(req: Request) -> Any:
    """Change a flavor's description; nothing else of a flavor ever changes."""
    services: Services = req.cloud
    flavorid = req.params["flavor_id"]
    get(req, flavorid)
    text = req.body["flavor"]["description"]

    def put(tx: Tx) -> None:
        db.update(tx, flavorid, description=text)
        notices.flavor(tx, "flavor.update", db.find(tx, flavorid), services.now())

    services.world.write(put)
    return {"flavor": shape(req, get(req, flavorid), specs=_with_specs(req))}


def delete(req: Request) -> None:
    """Delete a flavor; servers keep the copy that they were built with."""
    services: Services = req.cloud
    flavorid = req.params["flavor_id"]

    def drop(tx: Tx) -> bool:
        notices.flavor(tx, "flavor.delete", db.find(tx, flavorid), services.now())
        return db.remove(tx, flavorid)

    if not services.world.write(drop):
        raise NotFound(f"Flavor {flavorid} could not be found.")


_M = R + "os-flavor-manage:"
_ANY = R + "flavors"  # Nova asks no rule here: who has a token may list what it may use
ROUTES = [
    *versioned("GET", "/flavors", index, _ANY, queries=s.LIST, answer=a.LIST),
    *versioned("GET", "/flavors/detail", detail, _ANY, queries=s.LIST, answer=a.DETAIL),
    *versioned("GET", "/flavors/{flavor_id}", show, _ANY, queries=NO_QUERY, answer=a.SHOW),
    *versioned(
        "POST",
        "/flavors",
        create,
        _M + "create",
        bodies=s.CREATE,
        errors=(400, 403, 409),
        removed={102: ("/flavor/rxtx_factor",)},
        answer=a.SHOW,
        idempotent="record",
    ),
    *versioned(
        "PUT",
        "/flavors/{flavor_id}",
        update,
        _M + "update",
        bodies={55: s.UPDATE},
        since=55,
        answer=a.SHOW,
    ),
    *versioned("DELETE", "/flavors/{flavor_id}", delete, _M + "delete", success=202),
]
RULES = {_ANY: "@", _M + "create": ADMIN, _M + "update": ADMIN, _M + "delete": ADMIN}
