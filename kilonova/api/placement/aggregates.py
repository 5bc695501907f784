"""/resource_providers/{uuid}/aggregates (1.1); from 1.19 on a change names the generation that was read."""

from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest
from kilonova.common.ids import canonical_uuid, is_uuid
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.placement import aggregates, providers
from kilonova.placement.providers import Provider

_LIST = {"type": "array", "items": {"type": "string", "format": "uuid"}, "uniqueItems": True}
_SET = Schema(
    {
        "type": "object",
        "properties": {
            "aggregates": _LIST,
            "resource_provider_generation": {"type": "integer"},
        },
        "required": ["aggregates", "resource_provider_generation"],
        "additionalProperties": False,
    }
)


def _shown(req: Request, p: Provider, found: frozenset[str], generation: int) -> Response:
    body: dict[str, Any] = {"aggregates": sorted(found)}
    if req.version >= V(1, 19):
        body["resource_provider_generation"] = generation
    return common.answer(req, body, modified=p.changed_at)


def show(req: Request) -> Response:
    """Show the aggregates that a provider is in."""

    def found(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        return _shown(req, p, aggregates.of(tx, p.id), p.generation)

    return common.read(req, found)


def replace(req: Request) -> Response:
    """Make a provider be in exactly these."""
    generation = req.body["resource_provider_generation"]
    return _replace(req, req.body["aggregates"], generation)


def replace_until_1_18(req: Request) -> Response:
    """Before 1.19 the body is the bare list, and no generation is asked for."""
    given = req.body
    if not isinstance(given, list) or not all(is_uuid(g) for g in given):
        raise BadRequest("Invalid input: the body must be a list of UUIDs.")
    return _replace(req, given, None)


def _replace(req: Request, given: list[str], generation: int | None) -> Response:
    wanted = frozenset(canonical_uuid(g) for g in given)

    def change(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        after = providers.bump(tx, p, common.now(req), generation)
        aggregates.replace(tx, p.id, wanted)
        return _shown(req, providers.get(tx, p.uuid), wanted, after)

    return common.write(req, change)


_OF = "/resource_providers/{uuid}/aggregates"
_P = "placement:resource_providers:aggregates:"
ROUTES = (
    Route("GET", _OF, show, _P + "list", since=V(1, 1), errors=(404,)),
    Route(
        "PUT",
        _OF,
        replace_until_1_18,
        _P + "update",
        since=V(1, 1),
        until=V(1, 18),
        errors=(400, 404),
    ),
    Route("PUT", _OF, replace, _P + "update", since=V(1, 19), body=_SET, errors=(400, 404, 409)),
)
