"""The forms of Keystone's answers."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row
from kilonova.http.request import Request
from kilonova.identity.embedded.standing import Standing

Json = dict[str, Any]
_EXTRA_MAX = 1 << 16


def moment(seconds: float) -> str:
    """Return a time as Keystone writes it: ``2026-11-21T06:23:00.000000Z``."""
    return iso_micro(seconds) + "Z"


def link(req: Request, *parts: str) -> str:
    """Return an absolute link below /v3."""
    return "/".join([req.base, "v3", *(quote(p, safe="") for p in parts)])


def _below(req: Request, path: str, id_: str) -> str:
    return link(req, *path.split("/"), id_)


def one(req: Request, collection: str, noun: str, record: Json, **more: Any) -> Json:
    """Return ``{noun: record with links}``."""
    return {noun: {**record, "links": {"self": _below(req, collection, record["id"])}, **more}}


def many(
    req: Request,
    collection: str,
    records: Iterable[Json],
    *,
    at: str | None = None,
    linked: bool = True,
) -> Json:
    """Return a list in Keystone's form. ``limit`` and ``marker`` of the query are obeyed.

    linked: False for lines without an id; they are not paged.
    at: the path below /v3 that the records link to, if not ``collection``.
    """
    rows = list(records)
    page, following = _page(req, rows) if linked else (rows, None)
    if linked:
        page = [{**r, "links": {"self": _below(req, at or collection, r["id"])}} for r in page]
    me = f"{req.root}{req.path}"
    return {collection: page, "links": {"next": following, "self": me, "previous": None}}


def _page(req: Request, rows: list[Json]) -> tuple[list[Json], str | None]:
    marker, limit = req.query.get("marker"), req.query.get("limit")
    if marker:
        at = next((i for i, r in enumerate(rows) if r.get("id") == marker), None)
        if at is None:
            raise BadRequest(
                f"Invalid input for query parameters marker: {marker[:64]} was not found."
            )
        rows = rows[at + 1 :]
    if limit is None:
        return rows, None
    if not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0 and len(limit) < 10):
        raise BadRequest("Invalid input for query parameters limit: it must be a positive number.")
    if len(rows) <= int(limit):
        return rows, None
    page = rows[: int(limit)]
    kept = "&".join(
        f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in req.query.pairs if k != "marker"
    )
    return page, f"{req.root}{req.path}?{kept}&marker={quote(page[-1]['id'], safe='')}"


def extra_of(body: Mapping[str, Any], known: Iterable[str]) -> str:
    """Return, encoded, the attributes of a body that have no column; BadRequest when they are too long."""
    rest = {k: v for k, v in body.items() if k not in set(known) | {"id", "links"}}
    data = msgspec.json.encode(rest)
    if len(data) > _EXTRA_MAX:
        raise BadRequest(f"The additional attributes are longer than {_EXTRA_MAX} bytes.")
    return data.decode()


def merged_extra(row: Row, body: Mapping[str, Any], known: Iterable[str]) -> str:
    """Return the additional attributes of a row after an update; null removes one."""
    both = {**msgspec.json.decode(row["extra"]), **msgspec.json.decode(extra_of(body, known))}
    return extra_of({k: v for k, v in both.items() if v is not None}, ())


def domain(row: Row) -> Json:
    """A domain."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "enabled": bool(row["enabled"]),
        "tags": [],
        "options": {},
    }


def project(row: Row) -> Json:
    """A project."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "name": row["name"],
        "domain_id": row["domain_id"],
        "description": row["description"],
        "enabled": bool(row["enabled"]),
        "parent_id": row["parent_id"],
        "is_domain": False,
        "tags": msgspec.json.decode(row["tags"]),
        "options": {},
    }


def user(row: Row) -> Json:
    """A user; never its password."""
    out = {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "name": row["name"],
        "domain_id": row["domain_id"],
        "enabled": bool(row["enabled"]),
        "default_project_id": row["default_project_id"],
        "password_expires_at": None,
        "options": msgspec.json.decode(row["options"]),
    }
    if row["description"] is not None:
        out["description"] = row["description"]
    return out


def group(row: Row) -> Json:
    """A group."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "name": row["name"],
        "domain_id": row["domain_id"],
        "description": row["description"],
    }


def role(row: Row) -> Json:
    """A role."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "name": row["name"],
        "domain_id": row["domain_id"] or None,
        "description": row["description"],
        "options": {"immutable": True} if row["immutable"] else {},
    }


def region(row: Row) -> Json:
    """A region."""
    return {
        "id": row["id"],
        "description": row["description"],
        "parent_region_id": row["parent_region_id"],
    }


def token(standing: Standing, catalog: list[Json] | None) -> Json:
    """A token's body. catalog: None to leave it out."""
    p = standing.payload
    domain_ref = {"id": standing.user_domain.id, "name": standing.user_domain.name}
    out: Json = {
        "methods": list(p.methods),
        "user": {
            "domain": domain_ref,
            "id": standing.user.id,
            "name": standing.user.name,
            "password_expires_at": None,
        },
        "audit_ids": list(p.audit_ids),
        "expires_at": moment(p.expires_at),
        "issued_at": moment(p.issued_at),
    }
    if standing.scope is not None and standing.scope_domain is not None:
        d = standing.scope_domain
        out["project"] = {
            "domain": {"id": d.id, "name": d.name},
            "id": standing.scope.id,
            "name": standing.scope.name,
        }
        out["is_domain"] = False
    elif standing.scope is not None:
        out["domain"] = {"id": standing.scope.id, "name": standing.scope.name}
    elif p.scope_kind == "system":
        out["system"] = {"all": True}
    if p.scope_kind:
        out["roles"] = [{"id": i, "name": n} for i, n in standing.roles.items()]
        if catalog is not None:
            out["catalog"] = catalog
    if standing.credential is not None:
        out["application_credential"] = {
            "id": standing.credential.id,
            "name": standing.credential.name,
            "restricted": standing.restricted,
        }
    return {"token": out}
