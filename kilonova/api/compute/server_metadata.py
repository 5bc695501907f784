"""Metadata of a server; the guest sees a change at once."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import METADATA, wrap
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import BadRequest, NotFound, QuotaExceeded
from kilonova.db import quotas
from kilonova.db.engine import Row
from kilonova.http.request import Request
from kilonova.operations.accept import Found
from kilonova.operations.records import change_by
from kilonova.operations.services import Services

_RULE = R + "server-metadata:"


def _of(row: Any) -> dict[str, str]:
    meta: dict[str, str] = msgspec.json.decode(row["metadata"])
    return meta


def _write(req: Request, server: Found, new: Mapping[str, str], *, keep: bool) -> dict[str, str]:
    """Set keys, keeping the others or not; return all of them. QuotaExceeded: too many."""
    services: Services = req.cloud
    mapping = server.mapping
    limits = services.world.read(
        lambda tx: quotas.limits(tx, mapping["project_id"], mapping["user_id"])
    )
    most = limits["metadata_items"]

    def decide(row: Row) -> Mapping[str, Any]:
        have = _of(row)
        wanted = {**have, **new} if keep else dict(new)
        if 0 <= most < len(wanted):
            raise QuotaExceeded(f"Maximum number of metadata items exceeds {most}")
        return {} if wanted == have else {"metadata": msgspec.json.encode(wanted).decode()}

    return _of(change_by(services, req.ctx, server, "update metadata", decide))


def index(req: Request) -> Any:
    """List a server's metadata."""
    return {"metadata": _of(seen(req, _RULE + "index"))}


def show(req: Request) -> Any:
    """Show one metadata item."""
    key, meta = req.params["key"], _of(seen(req, _RULE + "show"))
    if key not in meta:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: meta[key]}}


def create(req: Request) -> Any:
    """Add items to a server's metadata."""
    server = found(req, _RULE + "create")
    return {"metadata": _write(req, server, req.body["metadata"], keep=True)}


def update_all(req: Request) -> Any:
    """Replace a server's metadata."""
    server = found(req, _RULE + "update_all")
    return {"metadata": _write(req, server, req.body["metadata"], keep=False)}


def update(req: Request) -> Any:
    """Set one item."""
    server, item = found(req, _RULE + "update"), req.body["meta"]
    if req.params["key"] not in item:
        raise BadRequest("Request body and URI mismatch")
    _write(req, server, item, keep=True)
    return {"meta": item}


def delete(req: Request) -> None:
    """Delete one item."""
    server, key = found(req, _RULE + "delete"), req.params["key"]

    def decide(row: Row) -> Mapping[str, Any]:
        meta = _of(row)
        if key not in meta:
            raise NotFound("Metadata item was not found")
        del meta[key]
        return {"metadata": msgspec.json.encode(meta).decode()}

    change_by(req.cloud, req.ctx, server, "delete metadata", decide)


_ALL, _ONE = "/servers/{server_id}/metadata", "/servers/{server_id}/metadata/{key}"
_BODY = {1: wrap("metadata", METADATA)}
_ITEM = {1: wrap("meta", {**METADATA, "minProperties": 1, "maxProperties": 1})}
_C: dict[str, Any] = {"errors": (400, 403, 404, 409)}
_WHOLE = {**_C, "bodies": _BODY, "answer": a.METADATA}
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "index", queries=NO_QUERY, answer=a.METADATA),
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.META),
    *versioned("POST", _ALL, create, _RULE + "create", **_WHOLE),
    *versioned("PUT", _ALL, update_all, _RULE + "update_all", **_WHOLE),
    *versioned("PUT", _ONE, update, _RULE + "update", bodies=_ITEM, answer=a.META, **_C),
    *versioned("DELETE", _ONE, delete, _RULE + "delete", success=204, **_C),
]
RULES = {_RULE + n: READER for n in ("index", "show")} | {
    _RULE + n: MEMBER for n in ("create", "update_all", "update", "delete")
}
