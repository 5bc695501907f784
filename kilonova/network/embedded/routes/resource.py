"""What a resource of the API is made of: its attributes as data, and five functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kilonova.common.clock import iso
from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.http.request import Request
from kilonova.http.schema import Json, Schema
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.schema import tag
from kilonova.network.embedded.store.common import by, listed
from kilonova.network.embedded.store.work import Work

Clause = sa.ColumnElement[bool]
UUID: Json = {"type": "string", "format": "uuid"}
MAYBE_UUID: Json = {"type": ["string", "null"], "format": "uuid"}
NAME: Json = {"type": "string", "maxLength": 255}
TEXT: Json = {"type": "string", "maxLength": 255}
FLAG: Json = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": ["true", "True", "TRUE", "false", "False", "FALSE", "1", "0", 0, 1]},
    ]
}
NUMBER: Json = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]{1,18}$"}]}
TAG: Json = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^,/]+$"}
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DNS: Json = {
    "type": "string",
    "maxLength": 255,
    "pattern": rf"^$|^{_LABEL}(\.{_LABEL})*\.?$",
}
MAYBE_TEXT: Json = {"type": ["string", "null"], "maxLength": 255}


@dataclass(frozen=True)
class Attr:
    """One attribute. column: what it is filtered and sorted by (None: neither). kind: str, bool, int or time.

    post, put: its schema in a body, None where it may not be given. admin_post, admin_put: rule suffix to ask.
    """

    name: str
    column: Any = None
    kind: str = "str"
    post: Json | None = None
    put: Json | None = None
    sort: bool = True


@dataclass
class Act:
    """One write of the API."""

    work: Work
    req: Request
    network: EmbeddedNetwork

    @property
    def live(self) -> Sequence[str]:
        """Hosts that are alive; asked only where a router is placed, and answered from memory."""
        return list(self.network.hosts())

    @property
    def tx(self) -> Tx:
        return self.work.tx


@dataclass(frozen=True)
class Resource:
    """name: as in bodies; plural: as in lists; path: as in URLs; rule: as in policy.

    seen: restricts a caller's reads, None for everything. target: what policy is asked about for a row.
    render: rows to bodies; ``may`` tells whether the caller sees an attribute. filters: those that are no column.
    """

    name: str
    plural: str
    path: str
    table: sa.Table
    attrs: tuple[Attr, ...]
    seen: Callable[[Context], Clause]
    target: Callable[[Tx, Row], dict[str, object]]
    render: Callable[[Tx, Sequence[Row], Callable[[str], bool]], list[dict[str, Any]]]
    create: Callable[[Act, dict[str, Any], str], str]
    update: Callable[[Act, Row, dict[str, Any]], None] | None
    delete: Callable[[Act, Row], None]
    filters: dict[str, Callable[[list[str]], Clause]]
    guarded: tuple[
        str, ...
    ] = ()  # attributes with create_<name>:<attr> and update_<name>:<attr> rules
    defaults: tuple[
        tuple[str, Any], ...
    ] = ()  # given but equal to these, a guarded attribute is not asked about
    bulk: bool = True

    def body(self, method: str) -> Schema:
        """Return the schema of a POST or PUT body."""
        props = {}
        for a in self.attrs:
            schema = a.post if method == "POST" else a.put
            if schema is not None:
                props[a.name] = schema
        required = (
            [n for n in REQUIRED.get(self.name, ()) if n in props] if method == "POST" else []
        )
        one: Json = {"type": "object", "properties": props, "additionalProperties": False}
        if required:
            one["required"] = required
        both: Json = {self.name: one}
        if method == "POST" and self.bulk:
            both[self.plural] = {"type": "array", "items": one, "minItems": 1, "maxItems": 500}
            return Schema(
                {
                    "type": "object",
                    "properties": both,
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                }
            )
        return Schema(
            {
                "type": "object",
                "properties": both,
                "required": [self.name],
                "additionalProperties": False,
            }
        )


REQUIRED: dict[str, tuple[str, ...]] = {
    "subnet": ("network_id",),
    "port": ("network_id",),
    "floatingip": ("floating_network_id",),
    "security_group": ("name",),
    "security_group_rule": ("security_group_id", "direction"),
}


def standard(table: sa.Table, *, project: bool = True, named: bool = True) -> tuple[Attr, ...]:
    """Return the attributes that every resource has."""
    c = table.c
    owner = {"type": "string", "maxLength": 255}
    out = [
        Attr("id", c.id),
        Attr("project_id", c.project_id, post=owner if project else None),
        Attr("tenant_id", c.project_id, post=owner if project else None),
        Attr("description", c.description, post=TEXT, put=TEXT),
        Attr("created_at", c.created_at, "time"),
        Attr("updated_at", c.updated_at, "time"),
        Attr("revision_number", c.revision, "int"),
    ]
    if named:
        out.append(Attr("name", c.name, post=NAME, put=NAME))
    return tuple(out)


_TAGS = Q(sa.select(tag).where(among(tag.c.resource_id, "ids")).order_by(tag.c.tag))


def tags_of(tx: Tx, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the tags of rows."""
    found = by(tx.all(_TAGS, ids=listed(r["id"] for r in rows)), "resource_id")
    return {k: [t["tag"] for t in v] for k, v in found.items()}


def common(row: Row, tags: dict[str, list[str]]) -> dict[str, Any]:
    """Return the rendered standard attributes of a row."""
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "project_id": row["project_id"],
        "tenant_id": row["project_id"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
        "tags": tags.get(row["id"], []),
    }


def flag(value: Any) -> bool:
    """Return a checked FLAG as a boolean."""
    return value if isinstance(value, bool) else str(value).lower() in ("true", "1")


def own(table: sa.Table) -> Callable[[Context], Clause]:
    """Return the restriction to the caller's project."""
    return lambda ctx: table.c.project_id == (ctx.project_id or "")


def plain_target(tx: Tx, row: Row) -> dict[str, object]:
    """Return a policy target that has only an owner."""
    return {"project_id": row["project_id"]}
