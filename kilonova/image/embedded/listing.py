"""Glance's list of images: who sees what, filters, sorting, paging by key.

source: Glance v2 API, "List images".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kilonova.common.clock import parse_iso
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Tx
from kilonova.db.portable import whole
from kilonova.http.request import Query
from kilonova.image.embedded import records
from kilonova.image.embedded import schema as s
from kilonova.objects.image import Image

DEFAULT_LIMIT, MAX_LIMIT = 25, 1000
MOST_FILTERS = 64
VISIBILITIES = ("public", "private", "shared", "community", "all")
MEMBER_STATES = ("accepted", "pending", "rejected", "all")
STATUSES = ("queued", "saving", "uploading", "importing", "active", "deactivated")
_c = s.image.c
_SORTABLE: dict[str, Any] = {
    "name": sa.func.coalesce(_c.name, ""),
    "status": _c.status,
    "container_format": sa.func.coalesce(_c.container_format, ""),
    "disk_format": sa.func.coalesce(_c.disk_format, ""),
    "size": sa.func.coalesce(_c.size, -1),
    "id": _c.id,
    "created_at": _c.created_at,
    "updated_at": _c.updated_at,
    "visibility": _c.visibility,
    "owner": sa.func.coalesce(_c.owner, ""),
    "min_disk": _c.min_disk,
    "min_ram": _c.min_ram,
    "protected": _c.protected,
}
_IN = ("id", "name", "status", "container_format", "disk_format")
_TEXTS = {n: _c[n] for n in (*_IN, "owner", "checksum", "os_hash_value", "os_hash_algo")}
_NUMBERS = {"size": _c.size, "min_disk": _c.min_disk, "min_ram": _c.min_ram}
_FLAGS = {"protected": _c.protected, "os_hidden": _c.hidden}
_TIMES = {"created_at": _c.created_at, "updated_at": _c.updated_at}
_PAGING = ("limit", "marker", "sort", "sort_key", "sort_dir")
_OPERATORS: dict[str, Callable[[Any, float], Any]] = {
    "gt": lambda c, v: c > v,
    "gte": lambda c, v: c >= v,
    "lt": lambda c, v: c < v,
    "lte": lambda c, v: c <= v,
    "eq": lambda c, v: c == v,
    "neq": lambda c, v: c != v,
}


@dataclass
class Ask:
    """A list request, understood. order: (sort key, "asc" or "desc"), always ending in the id."""

    conditions: list[Any] = field(default_factory=list)
    visibility: str | None = None
    member_status: str = "accepted"
    limit: int = DEFAULT_LIMIT
    marker: str | None = None
    order: list[tuple[str, str]] = field(default_factory=list)


def parse(query: Query) -> Ask:
    """Read the query string; BadRequest that names the parameter."""
    ask = Ask()
    hidden = False
    for name, value in query.pairs:
        if name in _PAGING:
            continue
        hidden = hidden or name == "os_hidden"
        if name == "visibility":
            ask.visibility = _one_of(name, value, VISIBILITIES)
        elif name == "member_status":
            ask.member_status = _one_of(name, value, MEMBER_STATES)
        elif name == "tag":
            tagged = sa.select(s.tag.c.image_id).where(s.tag.c.tag == value)
            ask.conditions.append(_c.id.in_(tagged))
        else:
            ask.conditions.append(_condition(name, value))
    if len(ask.conditions) > MOST_FILTERS:  # a database plans for each of them
        raise BadRequest(f"At most {MOST_FILTERS} filters are taken at once.")
    if not hidden:
        ask.conditions.append(_c.hidden == 0)
    ask.marker = query.get("marker")
    ask.limit = _limit(query.get("limit"))
    ask.order = _order(query)
    return ask


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise BadRequest(
            f"Invalid {name} value: {value:.60}; one of {', '.join(allowed)} is allowed."
        )
    return value


def _condition(name: str, value: str) -> Any:
    if name in _TEXTS:
        column = _TEXTS[name]
        if name in _IN and value.startswith("in:"):
            return column.in_(_split(value[3:]))
        return column == value
    if name in _TIMES:
        return _time(name, value)
    if name in ("size_min", "size_max"):
        n = _number(name, value)
        return _c.size >= n if name == "size_min" else _c.size <= n
    if name in _NUMBERS:
        return _NUMBERS[name] == _number(name, value)
    if name in _FLAGS:
        if value.lower() not in ("true", "false"):
            raise BadRequest(f"Invalid value {value[:60]!r} for {name}: true or false is allowed.")
        return _FLAGS[name] == (1 if value.lower() == "true" else 0)
    having = sa.select(s.prop.c.image_id).where(s.prop.c.name == name, s.prop.c.value == value)
    return _c.id.in_(having)


def _split(text: str) -> list[str]:
    """Split ``a,"b,c",d``; BadRequest for quotes that do not match."""
    out, word, quoted = [], "", False
    for ch in text:
        if ch == '"':
            quoted = not quoted
        elif ch == "," and not quoted:
            out.append(word)
            word = ""
        else:
            word += ch
    if quoted:
        raise BadRequest("Invalid filter value: the quote is not closed.")
    return [*out, word]


def _time(name: str, value: str) -> Any:
    operator, colon, moment = value.partition(":")
    if not colon or operator not in _OPERATORS:
        operator, moment = "eq", value
    try:
        seconds = parse_iso(moment)
    except ValueError as exc:
        raise BadRequest(f"Invalid time value for {name}: {moment[:60]!r}") from exc
    return _OPERATORS[operator](whole(_TIMES[name]), int(seconds))


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise BadRequest(f"Invalid value {value[:60]!r} for {name}: a whole number is needed.")
    return int(value)


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.startswith("-"):
        raise BadRequest("limit param must be positive")
    return min(_number("limit", text), MAX_LIMIT)


def _order(query: Query) -> list[tuple[str, str]]:
    keys, dirs = query.all("sort_key"), query.all("sort_dir")
    if (both := query.get("sort")) is not None:
        if keys or dirs:
            raise BadRequest("Old and new sorting syntax cannot be combined")
        for part in both.split(","):
            key, _, direction = part.strip().partition(":")
            keys.append(key)
            dirs.append(direction or "desc")
    keys = keys or ["created_at"]
    if len(dirs) > 1 and len(dirs) != len(keys):
        raise BadRequest("Number of sort dirs does not match the number of sort keys")
    if len(dirs) <= 1:
        dirs = (dirs or ["desc"]) * len(keys)
    order: list[tuple[str, str]] = []
    for key, direction in zip(keys, dirs, strict=True):
        _one_of("sort key", key, tuple(_SORTABLE))
        _one_of("sort direction", direction, ("asc", "desc"))
        if key not in [k for k, _ in order]:
            order.append((key, direction))
    for key in ("created_at", "id"):
        if key not in [k for k, _ in order]:
            order.append((key, order[0][1]))
    return order


def select(tx: Tx, ctx: Context, ask: Ask) -> tuple[list[Image], bool]:
    """Return one page and whether there is more. BadRequest for a marker that the caller cannot see."""
    conditions = [*ask.conditions, *_visible(ctx, ask)]
    if ask.marker is not None:
        marker = records.find(tx, ask.marker)
        if marker is None or not records.is_seen_by(tx, marker, ctx):
            raise BadRequest(f"Invalid marker: {ask.marker:.64}")
        conditions.append(_after(tx, ask))
    statement = sa.select(s.image).where(*conditions).limit(ask.limit + 1)
    statement = statement.order_by(
        *(_SORTABLE[k].asc() if d == "asc" else _SORTABLE[k].desc() for k, d in ask.order)
    )
    rows = tx.select(statement)
    page = rows[: ask.limit]
    tags: dict[str, list[str]] = {r["id"]: [] for r in page}
    wanted = sa.select(s.tag).where(s.tag.c.image_id.in_(list(tags))).order_by(s.tag.c.tag)
    for row in tx.select(wanted) if tags else ():
        tags[row["image_id"]].append(row["tag"])
    return [records.to_object(r, tags[r["id"]]) for r in page], len(rows) > ask.limit > 0


def _visible(ctx: Context, ask: Ask) -> list[Any]:
    mine = _c.owner == ctx.project_id if ctx.project_id is not None else sa.false()
    members = sa.select(s.member.c.image_id).where(s.member.c.member_id == (ctx.project_id or ""))
    if ask.member_status != "all":
        members = members.where(s.member.c.status == ask.member_status)
    shared = sa.and_(_c.visibility == "shared", _c.id.in_(members))
    out: list[Any] = []
    if not ctx.is_admin:
        out.append(sa.or_(mine, _c.visibility.in_(["public", "community"]), shared))
    if ask.visibility is None:
        out.append(sa.or_(_c.visibility.in_(["public", "private", "shared"]), mine))
    elif ask.visibility == "shared":
        out.append(sa.and_(_c.visibility == "shared", sa.or_(mine, shared)))
    elif ask.visibility != "all":
        out.append(_c.visibility == ask.visibility)
    return out


def _after(tx: Tx, ask: Ask) -> Any:
    """Everything behind the marker: for keys a, b: a past it, or a the same and b past it."""
    columns = [_SORTABLE[k].label(f"k{i}") for i, (k, _) in enumerate(ask.order)]
    (at,) = tx.select(sa.select(*columns).where(_c.id == ask.marker))
    either: list[Any] = []
    same: list[Any] = []
    for i, (key, direction) in enumerate(ask.order):
        column, value = _SORTABLE[key], at[i]
        either.append(sa.and_(*same, column > value if direction == "asc" else column < value))
        same.append(column == value)
    return sa.or_(*either)
