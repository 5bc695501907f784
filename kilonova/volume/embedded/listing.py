"""Lists as Cinder's clients ask for them: filters, sort keys, pages by marker, limit and offset, counts.

source: Block Storage API v3 reference, "Filtering" and "Sorting"; cinder.api.common.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from kilonova.common.clock import parse_iso
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import member
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.volume.embedded.faults import invalid_input
from kilonova.volume.embedded.routes.common import truth

MAX_LIMIT = 1000
_SKIP = {
    *("limit", "marker", "offset", "sort", "sort_key", "sort_dir", "all_tenants", "with_count"),
    *("project_id", "tenant_id"),
}
_TIMES: Mapping[str, Callable[[Any, Any], Any]] = {
    "gt": lambda c, v: c > v,
    "gte": lambda c, v: c >= v,
    "lt": lambda c, v: c < v,
    "lte": lambda c, v: c <= v,
    "eq": lambda c, v: c == v,
    "neq": lambda c, v: c != v,
}


@dataclass(frozen=True)
class Noun:
    """What can be asked of one table. texts: filter name -> column; jsons: filter name -> JSON column of pairs.

    flags: filter name -> integer column. sorts: sort key -> column. rule: of seeing every project's.
    """

    table: sa.Table
    plural: str
    texts: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    jsons: Mapping[str, Any] = field(default_factory=dict)
    sorts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One page. count: of all that fit, when that was asked."""

    rows: list[Row]
    links: list[dict[str, str]]
    count: int | None = None


def page(tx: Tx, req: Request, noun: Noun, *, more: Sequence[Any] = ()) -> Page:
    """Return the page of what the caller may see. BadRequest that names the parameter."""
    conditions = [*_owned(req, noun), *_filters(req, noun), *more]
    limit, offset = _number(req, "limit", MAX_LIMIT), _number(req, "offset", 0)
    order = _order(req, noun)
    base = sa.select(noun.table).where(*conditions)
    marker = req.query.get("marker")
    statement = base
    if marker:
        statement = statement.where(_after(tx, noun, order, marker))
    for column, descending in order:
        statement = statement.order_by(column.desc() if descending else column.asc())
    rows = tx.select(statement.limit(min(limit, MAX_LIMIT) + 1).offset(offset))
    shown = rows[: min(limit, MAX_LIMIT)]
    full = len(rows) > len(shown) or ("limit" in req.query and len(shown) == limit)
    links = _next(req, noun, shown) if shown and full else []
    count = None
    if req.version >= V(3, 45) and truth(req.query.get("with_count", "false")):
        count = tx.select(sa.select(sa.func.count()).select_from(base.subquery()))[0][0]
    return Page(shown, links, count)


def answer(noun: Noun, found: Page, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the list's body."""
    out: dict[str, Any] = {noun.plural: items}
    if found.links:
        out[f"{noun.plural}_links"] = found.links
    if found.count is not None:
        out["count"] = found.count
    return out


def all_projects(req: Request) -> bool:
    """Tell whether the caller asks, and may, see every project's."""
    asked = req.query.get("all_tenants")
    if asked is None or not req.ctx.is_admin:
        return False
    if asked.lower() not in ("0", "1", "true", "false", "t", "f", "yes", "no", "on", "off", ""):
        raise invalid_input(f"all_tenants param: {asked[:60]!r} is not a boolean.")
    return asked == "" or truth(asked)


def _owned(req: Request, noun: Noun) -> list[Any]:
    if "project_id" not in noun.table.c:
        return []
    column = noun.table.c.project_id
    if all_projects(req):
        named = req.query.get("project_id") or req.query.get("tenant_id")
        return [column == named] if named else []
    return [column == req.project()]


def _filters(req: Request, noun: Noun) -> list[Any]:
    out: list[Any] = []
    for name, value in req.query.pairs:
        if name in _SKIP:
            continue
        plain, like = name.rstrip("~"), name.endswith("~")
        plain = {"display_name": "name", "volume_type": "volume_type_name"}.get(plain, plain)
        if plain in noun.texts:
            column = noun.texts[plain]
            out.append(column.icontains(value, autoescape=True) if like else column == value)
        elif plain in noun.flags:
            if value.lower() not in ("true", "false", "0", "1"):
                raise invalid_input(f"{name[:40]}={value[:60]}: it must be true or false.")
            out.append(noun.flags[plain] == int(truth(value)))
        elif plain in noun.jsons:
            out += _pairs(noun.jsons[plain], name, value)
        elif plain in ("created_at", "updated_at") and plain in noun.table.c:
            out += _times(noun.table.c[plain], name, value)
    return out


def _pairs(column: Any, name: str, text: str) -> list[Any]:
    """Read ``{'key': 'value'}``, as clients write a dictionary, and ask that each pair is in a JSON object."""
    import ast

    try:
        wanted = ast.literal_eval(text)
        pairs = {str(k): str(v) for k, v in wanted.items()}
    except (ValueError, SyntaxError, MemoryError, RecursionError, AttributeError, TypeError) as exc:
        raise invalid_input(f"{name[:40]} must be a dictionary.") from exc
    if len(pairs) > 64:
        raise invalid_input(f"{name[:40]} has too many items.")
    out = []
    for key, value in pairs.items():
        out.append(member(column, key) == value)
    return out


def _times(column: Any, name: str, text: str) -> list[Any]:
    out = []
    for part in text.split(","):
        operator, colon, moment = part.partition(":")
        if not colon or operator not in _TIMES:
            operator, moment = "eq", part
        try:
            at = parse_iso(moment)
        except ValueError as exc:
            raise invalid_input(
                f"Invalid value for {name[:40]}: {moment[:60]!r} is no time."
            ) from exc
        out.append(_TIMES[operator](column, at))
    return out


def _number(req: Request, name: str, default: int) -> int:
    text = req.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        negative = text.startswith("-") and text[1:].isdigit()
        raise BadRequest(f"{name} param must be {'positive' if negative else 'an integer'}")
    if len(text) > 10:
        raise BadRequest(f"{name} param is out of range")
    return int(text)


def _order(req: Request, noun: Noun) -> list[tuple[Any, bool]]:
    keys: list[tuple[str, str]] = []
    text = req.query.get("sort")
    if text is not None and ("sort_key" in req.query or "sort_dir" in req.query):
        raise BadRequest(
            "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter."
        )
    if text is not None:
        for part in text.split(","):
            key, _, direction = part.strip().partition(":")
            keys.append((key, direction or "desc"))
    else:
        keys.append(
            (req.query.get("sort_key") or "created_at", req.query.get("sort_dir") or "desc")
        )
    out = []
    columns = {"created_at": noun.table.c.created_at, "id": noun.table.c.id, **noun.sorts}
    for key, direction in keys:
        if key not in columns:
            raise invalid_input(f"Sort key is invalid: {key[:40]}")
        if direction not in ("asc", "desc"):
            raise invalid_input(
                f"Unknown sort direction, must be 'desc' or 'asc': {direction[:40]}"
            )
        least = "" if isinstance(columns[key].type, sa.String) else 0
        out.append((sa.func.coalesce(columns[key], least), direction == "desc"))
    return [*out, (noun.table.c.id, out[-1][1])]


def _after(tx: Tx, noun: Noun, order: list[tuple[Any, bool]], marker: str) -> Any:
    found = tx.select(
        sa.select(*(c.label(f"k{i}") for i, (c, _) in enumerate(order))).where(
            noun.table.c.id == marker
        )
    )
    if not found:
        raise NotFound(f"marker [{marker[:64]}] could not be found.")
    clauses: list[Any] = []
    equal: list[Any] = []
    for (column, descending), value in zip(order, found[0], strict=True):
        beyond = column < value if descending else column > value
        clauses.append(sa.and_(*equal, beyond))
        equal.append(column == value)
    return sa.or_(*clauses)


def _next(req: Request, noun: Noun, shown: list[Row]) -> list[dict[str, str]]:
    pairs = [(k, v) for k, v in req.query.pairs if k not in ("marker", "offset")]
    query = urlencode([*pairs, ("marker", shown[-1]["id"])])
    path = req.path.partition("/v3")[2]
    return [{"rel": "next", "href": f"{req.base}/v3{path}?{query}"}]
