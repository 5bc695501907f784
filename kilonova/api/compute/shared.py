"""What the nouns of the compute API share: routes over ranges of microversions, query schemas, paging, errors.

A noun says at which minor version of 2.x each of its schemas begins; ``versioned`` makes the rows of the route table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from kilonova.api.compute.schemas.common import Json
from kilonova.common.errors import BadRequest, NotImplementedHere
from kilonova.http.answer import Describe
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Handler, Route
from kilonova.http.schema import Schema

MAX_LIMIT = 1000
T = TypeVar("T")
R = "os_compute_api:"

# -- query schemas. source: compute API reference; unknown parameters are refused from 2.75 or 2.102 on


def many(item: Json) -> Json:
    """A query parameter that may be repeated."""
    return {"type": "array", "items": item}


def one(item: Json) -> Json:
    """A query parameter that may be given once."""
    return {"type": "array", "items": item, "maxItems": 1}


TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "string", "pattern": "^[0-9]+$", "minLength": 1}
BOOL_TEXT: Json = {
    "type": "string",
    "pattern": "^(?i:true|t|1|on|yes|y|false|f|0|off|no|n)$",
}
MOMENT: Json = {"type": "string", "format": "date-time"}
PAGING: Json = {"limit": many(COUNT), "marker": many(TEXT)}


def query(properties: Mapping[str, Json] | None = None, *, strict: bool = False) -> Json:
    """Return the schema of a query string; strict: unknown parameters are refused."""
    return {
        "type": "object",
        "properties": dict(properties or {}),
        "additionalProperties": not strict,
    }


NO_QUERY: Mapping[int, Json] = {102: query(strict=True)}


def strict_from(minor: int, properties: Mapping[str, Json] | None = None) -> dict[int, Json]:
    """Return query schemas: these parameters from the start, nothing else from 2.``minor`` on."""
    return {1: query(properties), minor: query(properties, strict=True)}


# -- rows of the route table


def versioned(
    method: str,
    path: str,
    handler: Handler,
    rule: str,
    *,
    bodies: Mapping[int, Json | None] | None = None,
    queries: Mapping[int, Json | None] | None = None,
    success: int | Mapping[int, int] = 200,
    since: int = 1,
    until: int | None = None,
    secret: bool = False,
    errors: tuple[int, ...] = (400, 403, 404),
    removed: Mapping[int, tuple[str, ...]] | None = None,
    answer: Describe | Mapping[int, Describe | None] | None = None,
    **more: Any,
) -> list[Route]:
    """Return one row per range of microversions in which body, query and success status stay the same.

    bodies, queries, success: minor version of 2.x -> what holds from it on (None: not checked). until: the last minor.
    removed: minor version -> paths of body properties that end there (TAG-6).
    answer: describes the answer's body (kilonova/http/answer.py), or minor version -> that; None: there is no body.
    Actions take an Idempotency-Key unless they say ``idempotent=""``.
    path is below /v2.1. secret: the body's values are never repeated in a refusal.
    """
    statuses = {1: success} if isinstance(success, int) else success
    if "action" in more:
        more.setdefault("idempotent", "operation" if path.startswith("/servers/") else "record")
    answers = answer if isinstance(answer, Mapping) else {1: answer}
    tables = (bodies or {}, queries or {}, statuses, answers)
    starts = sorted({since, *(k for t in tables for k in t if k > since)})
    if until is not None:
        starts = [s for s in starts if s <= until]
    rows = []
    for i, start in enumerate(starts):
        end = starts[i + 1] - 1 if i + 1 < len(starts) else until
        body, asked = _at(tables[0], start), _at(tables[1], start)
        status: int = _at(tables[2], start) or 200
        rows.append(
            Route(
                method,
                "/v2.1" + path,
                handler,
                rule,
                success=status,
                since=V(2, start),
                until=None if end is None else V(2, end),
                body=None if body is None else Schema(body, secret=secret),
                query=None if asked is None else Schema(asked),
                errors=errors,
                removed=(removed or {}).get(start, ()),
                answer=_at(answers, start),
                **more,
            )
        )
    return rows


def _at(table: Mapping[int, Any], minor: int) -> Any:
    found = [k for k in table if k <= minor]
    return table[max(found)] if found else None


def action(
    path: str, name: str, handler: Handler, rule: str, body: Json, **more: Any
) -> list[Route]:
    """Return the rows of one action (a POST whose body's only key is ``name``)."""
    return versioned("POST", path, handler, rule, bodies={1: body}, action=name, **more)


# -- answers


def not_yet(what: str) -> Handler:
    """Return a handler that says that this cloud does not offer ``what`` yet (501)."""

    def handler(req: Request) -> None:
        raise NotImplementedHere(f"{what} is not offered by this cloud yet.")

    handler.__doc__ = f"Answer 501: {what} is not offered yet."
    return handler


def limit_of(req: Request) -> int:
    """Return how many items a page may have. BadRequest for what is no number."""
    text = req.query.get("limit")
    if text is None:
        return MAX_LIMIT
    if not text.isdigit():
        raise BadRequest(f"limit must be a whole number of at least 0, not {text[:40]!r}")
    return min(int(text), MAX_LIMIT)


def page(
    req: Request,
    items: Sequence[T],
    key: Callable[[T], str],
    missing: str = "marker [{}] not found",
) -> tuple[list[T], bool]:
    """Return the asked page of a list that is at hand, and whether more follow. BadRequest: no such marker."""
    limit, marker = limit_of(req), req.query.get("marker")
    start = 0
    if marker is not None:
        start = next((i + 1 for i, item in enumerate(items) if key(item) == marker), -1)
        if start < 0:
            raise BadRequest(missing.format(marker))
    part = list(items[start : start + limit])
    return part, bool(part) and start + limit < len(items)


def offset_page(req: Request, items: Sequence[T]) -> list[T]:
    """Return the page given by ``limit`` and ``offset``; 0 or no limit means the most that is given at once."""
    text = req.query.get("offset") or "0"
    if not text.isdigit():
        raise BadRequest(f"offset must be a whole number of at least 0, not {text[:40]!r}")
    return list(items[int(text) : int(text) + (limit_of(req) or MAX_LIMIT)])


def next_link(req: Request, path: str, marker: str) -> list[dict[str, str]]:
    """Return the links of a list that has more: the same question, from ``marker`` on."""
    pairs = [(k, v) for k, v in req.query.pairs if k != "marker"]
    href = f"{req.base}/v2.1{path}?{urlencode([*pairs, ('marker', marker)])}"
    return [{"rel": "next", "href": href}]


def links(req: Request, path: str) -> list[dict[str, str]]:
    """Return self and bookmark of a thing at ``/path``."""
    return [
        {"rel": "self", "href": f"{req.base}/v2.1/{path}"},
        {"rel": "bookmark", "href": f"{req.base}/{path}"},
    ]


def whole(value: Any, field: str, low: int = 0, high: int = 0x7FFFFFFF) -> int:
    """Return a number that may have come as text, within its bounds. BadRequest names the field and the bound."""
    number = int(value)
    if number < low:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {str(value)[:80]}. "
            f"{number if abs(number) < 10**20 else 'It'} is less than the minimum of {low}"
        )
    if number > high:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {str(value)[:80]}. "
            f"It is greater than the maximum of {high}"
        )
    return number
