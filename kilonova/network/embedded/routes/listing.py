"""Lists as Neutron's clients lean on them: filters on attributes, tags, fields, sort, limit, marker, page_reverse."""

from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from kilonova.common.clock import parse_iso
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.network.embedded.faults import Refused, invalid, missing
from kilonova.network.embedded.routes.resource import Attr, Clause, Resource
from kilonova.network.embedded.schema import tag

_CONTROL = ("fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse")
_TAGS = ("tags", "tags-any", "not-tags", "not-tags-any")


def rows(
    tx: Tx, req: Request, res: Resource, restrict: Clause | None
) -> tuple[list[Row], int | None]:
    """Return one page of rows and the limit that was asked for."""
    clauses = _filters(req, res)
    if restrict is not None:
        clauses.append(restrict)
    keys = _sort(req, res)
    limit = _limit(req)
    back = (req.query.get("page_reverse") or "").lower() in ("true", "1")
    if back:
        keys = [(c, not down) for c, down in keys]
    marker = req.query.get("marker")
    if marker and limit is not None:
        at = tx.select(
            sa.select(res.table).where(
                res.table.c.id == marker, *([] if restrict is None else [restrict])
            )
        )
        if not at:
            raise missing(res.name, marker)
        clauses.append(_after(keys, at[0]))
    statement = sa.select(res.table).where(*clauses)
    for column, down in keys:
        statement = statement.order_by(column.desc() if down else column.asc())
    if limit is not None:
        statement = statement.limit(limit)
    found = tx.select(statement)
    return (found[::-1] if back else found), limit


def _after(keys: list[tuple[Any, bool]], at: Row) -> Clause:
    """Return the rows that come after one, in the order of the keys; NULL sorts as lowest."""
    options = []
    for i, (column, down) in enumerate(keys):
        same = [_same(c, at[c.name]) for c, _ in keys[:i]]
        value = at[column.name]
        if value is None:
            beyond = sa.false() if down else column.is_not(None)
        elif down:
            beyond = sa.or_(column < value, column.is_(None)) if column.nullable else column < value
        else:
            beyond = column > value
        options.append(sa.and_(*same, beyond))
    return sa.or_(*options)


def _same(column: Any, value: Any) -> Clause:
    clause: Clause = column.is_(None) if value is None else column == value
    return clause


def _limit(req: Request) -> int | None:
    text = req.query.get("limit")
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or len(text) > 12:
        raise Refused(
            "BadRequest",
            f"Bad limit request: Limit must be an integer 0 or greater and not '{text[:40]}'.",
        )
    return value or None


def _sort(req: Request, res: Resource) -> list[tuple[Any, bool]]:
    names, ways = req.query.all("sort_key"), req.query.all("sort_dir")
    if ways and len(ways) != len(names):
        raise Refused("BadRequest", "The number of sort_keys and sort_dirs must be same")
    known = {a.name: a for a in res.attrs if a.column is not None and a.sort}
    keys: list[tuple[Any, bool]] = []
    for i, name in enumerate(names):
        if name not in known:
            raise Refused("BadRequest", f"'{name[:60]}' is an invalid attribute for sort key")
        way = ways[i] if ways else "asc"
        if way not in ("asc", "desc"):
            raise Refused(
                "BadRequest",
                f"'{way[:60]}' is an invalid value for sort_dirs, valid value is 'asc' and 'desc'",
            )
        keys.append((known[name].column, way == "desc"))
    if not names:
        keys.append((res.table.c.created_at, False))
    if not any(c is res.table.c.id for c, _ in keys):
        keys.append((res.table.c.id, False))
    return keys


def _filters(req: Request, res: Resource) -> list[Clause]:
    known = {a.name: a for a in res.attrs if a.column is not None}
    clauses: list[Clause] = []
    unknown = []
    for name in req.query.names():
        values = req.query.all(name)
        if name in _CONTROL:
            continue
        if name in _TAGS:
            clauses.append(_tagged(res, name, values))
        elif name == "changed_since":
            clauses.append(_changed_since(res, values[-1]))
        elif name in res.filters:
            clauses.append(res.filters[name](values))
        elif name in known:
            clauses.append(_matches(known[name], values))
        else:
            unknown.append(name)
    if unknown:
        raise Refused(
            "HTTPBadRequest", f"{[u[:60] for u in unknown]} is invalid attribute for filtering"
        )
    return clauses


def _matches(a: Attr, values: list[str]) -> Clause:
    if a.kind == "bool":
        return sa.or_(*[a.column == int(_flag(a.name, v)) for v in values])
    if a.kind == "int":
        return sa.or_(*[a.column == _int(a.name, v) for v in values])
    if a.kind == "time":
        return sa.or_(*[sa.func.floor(a.column) == _time(a.name, v) for v in values])
    options: list[Clause] = [a.column == v for v in values]
    if "" in values and a.column.nullable:
        options.append(a.column.is_(None))
    return sa.or_(*options)


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise invalid(f"{name}: '{text[:40]}' cannot be converted to boolean")


def _int(name: str, text: str) -> int:
    if text.lstrip("-").isdecimal() and len(text) < 18:
        return int(text)
    raise invalid(f"{name}: '{text[:40]}' is not an integer")


def _time(name: str, text: str) -> float:
    try:
        return parse_iso(text)
    except ValueError:
        raise invalid(f"{name}: '{text[:40]}' is not a time in ISO 8601") from None


def _changed_since(res: Resource, text: str) -> Clause:
    clause: Clause = res.table.c.updated_at >= _time("changed_since", text)
    return clause


def _tagged(res: Resource, name: str, values: list[str]) -> Clause:
    wanted = [t for v in values for t in v.split(",")]

    def has(t: str) -> Clause:
        return sa.exists().where(tag.c.resource_id == res.table.c.id, tag.c.tag == t)

    every, some = sa.and_(*map(has, wanted)), sa.or_(*map(has, wanted))
    return {"tags": every, "tags-any": some, "not-tags": ~every, "not-tags-any": ~some}[name]


def links(req: Request, res: Resource, page: list[Row], limit: int | None) -> list[dict[str, str]]:
    """Return next and previous links of a page that was limited."""
    if limit is None:
        return []
    kept = [(k, v) for k, v in req.query.pairs if k not in ("marker", "page_reverse")]
    back = (req.query.get("page_reverse") or "").lower() in ("true", "1")

    def link(rel: str, row: Row, reverse: bool) -> dict[str, str]:
        pairs = [*kept, ("marker", row["id"])] + ([("page_reverse", "True")] if reverse else [])
        text = "&".join(f"{quote(k, safe=':')}={quote(v)}" for k, v in pairs)
        return {"rel": rel, "href": f"{req.base}/v2.0/{res.path}?{text}"}

    out = []
    full = len(page) >= limit
    if page and (full if not back else req.query.get("marker")):
        out.append(link("next", page[-1], False))
    if page and (req.query.get("marker") if not back else full):
        out.append(link("previous", page[0], True))
    return out


def only(req: Request, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the fields that were asked for."""
    wanted = {f for v in req.query.all("fields") for f in v.split(",") if f}
    return [{k: v for k, v in b.items() if k in wanted} for b in bodies] if wanted else bodies
