"""Tags of a server, from 2.26 on: at most 50, each of 1 to 60 characters without comma and slash."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import TAG
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import R, versioned
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row
from kilonova.http.request import Request, Response
from kilonova.http.schema import Schema
from kilonova.operations.records import Decide, change_by

MOST = 50
_RULE = R + "os-server-tags:"
_TAG = Schema(TAG)


def _of(row: Any) -> list[str]:
    tags: list[str] = msgspec.json.decode(row["tags"])
    return tags


def _change(req: Request, rule: str, verb: str, decide: Decide) -> list[str]:
    server = found(req, _RULE + rule)
    return _of(change_by(req.cloud, req.ctx, server, verb, decide, while_busy=True))


def index(req: Request) -> Any:
    """List a server's tags."""
    return {"tags": _of(seen(req, _RULE + "index"))}


def show(req: Request) -> None:
    """Tell whether a server has a tag: 204 or 404."""
    tag, row = req.params["tag"], seen(req, _RULE + "show")
    if tag not in _of(row):
        raise NotFound(f"Server {row['uuid']} has no tag '{tag}'")


def update(req: Request) -> Response:
    """Add a tag: 201, or 204 when the server had it."""
    tag, had = req.params["tag"], []
    if not _TAG.fits(tag):
        raise BadRequest(
            f"Tag '{tag[:80]}' is invalid. It must be a string of 1 to 60 characters without '/' and ','."
        )

    def decide(row: Row) -> Mapping[str, Any]:
        tags = _of(row)
        if len(tags) >= MOST:
            raise BadRequest(f"The number of tags exceeded the per-server limit {MOST}")
        if tag in tags:
            had.append(tag)
            return {}
        return {"tags": [*tags, tag]}

    _change(req, "update", "update tag", decide)
    if had:
        return Response(status=204)
    place = f"{req.base}/v2.1/servers/{req.params['server_id']}/tags/{quote(tag, safe='')}"
    return Response(status=201, headers={"Location": place})


def update_all(req: Request) -> Any:
    """Replace a server's tags."""
    wanted = req.body["tags"]
    return {"tags": _change(req, "update_all", "update tags", lambda row: {"tags": wanted})}


def delete(req: Request) -> None:
    """Remove a tag."""
    tag, server_id = req.params["tag"], req.params["server_id"]

    def decide(row: Row) -> Mapping[str, Any]:
        tags = _of(row)
        if tag not in tags:
            raise NotFound(f"Instance {server_id} has no tag '{tag}'")
        return {"tags": [t for t in tags if t != tag]}

    _change(req, "delete", "delete tag", decide)


def delete_all(req: Request) -> None:
    """Remove every tag."""
    _change(req, "delete_all", "delete tags", lambda row: {"tags": []})


_ALL, _ONE = "/servers/{server_id}/tags", "/servers/{server_id}/tags/{tag}"
_BODY = {
    26: {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": TAG, "maxItems": MOST}},
        "required": ["tags"],
        "additionalProperties": False,
    }
}
_C: dict[str, Any] = {"since": 26, "errors": (400, 403, 404, 409)}
ROUTES = [
    # unlike others, these take unknown query parameters in 2.102 too: so does Nova
    *versioned("GET", _ALL, index, _RULE + "index", since=26, answer=a.TAGS),
    *versioned("GET", _ONE, show, _RULE + "show", since=26, success=204),
    *versioned("PUT", _ALL, update_all, _RULE + "update_all", bodies=_BODY, answer=a.TAGS, **_C),
    *versioned("PUT", _ONE, update, _RULE + "update", success=201, **_C),
    *versioned("DELETE", _ALL, delete_all, _RULE + "delete_all", success=204, **_C),
    *versioned("DELETE", _ONE, delete, _RULE + "delete", success=204, **_C),
]
RULES = {_RULE + n: READER for n in ("index", "show")} | {
    _RULE + n: MEMBER for n in ("update_all", "update", "delete_all", "delete")
}
