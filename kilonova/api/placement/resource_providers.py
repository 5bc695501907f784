"""/resource_providers: create, list with filters, show, rename and re-parent, delete."""

from typing import Any

import sqlalchemy as sa

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest
from kilonova.common.ids import canonical_uuid, is_uuid, new_uuid
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema, extend
from kilonova.placement import classes, loading, providers, traits
from kilonova.placement.candidates import Group
from kilonova.placement.loading import ProviderRow
from kilonova.placement.providers import Provider
from kilonova.placement.schema import provider_aggregate as pa
from kilonova.placement.schema import provider_trait as pt
from kilonova.placement.schema import resource_provider as rp

_CREATE: Json = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 200},
        "uuid": {"type": "string", "format": "uuid"},
    },
    "required": ["name"],
    "additionalProperties": False,
}
_CREATE_14 = extend(
    _CREATE, properties={"parent_provider_uuid": {"type": ["string", "null"], "format": "uuid"}}
)
_UPDATE = extend(_CREATE, removed=["uuid"])
_UPDATE_14 = extend(_CREATE_14, removed=["uuid"])


def shown(req: Request, p: Provider) -> dict[str, Any]:
    """Return a provider as its version shows it."""
    v = req.version
    rels = ["inventories", "usages"]
    rels += ["aggregates"] if v >= V(1, 1) else []
    rels += ["traits"] if v >= V(1, 6) else []
    rels += ["allocations"] if v >= V(1, 11) else []
    out: dict[str, Any] = {
        "uuid": p.uuid,
        "name": p.name,
        "generation": p.generation,
        "links": [{"rel": "self", "href": common.url_of(req, p.uuid)}]
        + [{"rel": r, "href": common.url_of(req, p.uuid, r)} for r in rels],
    }
    if v >= V(1, 14):
        out |= {"parent_provider_uuid": p.parent, "root_provider_uuid": p.root}
    return out


def create(req: Request) -> Response:
    """Make a provider; up to 1.19 answered 201 without a body, then 200 with it."""
    uuid = canonical_uuid(req.body["uuid"]) if req.body.get("uuid") else new_uuid()
    parent = req.body.get("parent_provider_uuid")
    made = common.write(
        req,
        lambda tx: providers.create(
            tx,
            uuid=uuid,
            name=req.body["name"],
            parent=canonical_uuid(parent) if parent else None,
            now=common.now(req),
        ),
    )
    where = common.url_of(req, uuid)
    if req.version >= V(1, 20):
        return common.answer(req, shown(req, made), modified=made.changed_at, location=where)
    return Response(status=201, headers={"Location": where})


def show(req: Request) -> Response:
    """Show one provider."""
    p = common.read(req, lambda tx: common.provider_of(req, tx))
    return common.answer(req, shown(req, p), modified=p.changed_at)


def update(req: Request) -> Response:
    """Rename it; from 1.14 on give it a parent, from 1.37 on move it in or out of a tree."""
    body = req.body

    def change(tx: Tx) -> Provider:
        p = common.provider_of(req, tx)
        parent = p.parent
        if "parent_provider_uuid" in body:
            given = body["parent_provider_uuid"]
            parent = canonical_uuid(given) if given else None
        return providers.update(
            tx,
            p,
            name=body["name"],
            parent=parent,
            may_reparent=req.version >= V(1, 37),
            now=common.now(req),
        )

    p = common.write(req, change)
    return common.answer(req, shown(req, p), modified=p.changed_at)


def delete(req: Request) -> None:
    """Delete it; 409 while something is allocated from it or it has children."""
    common.write(req, lambda tx: providers.delete(tx, common.provider_of(req, tx), common.now(req)))


def list_(req: Request) -> Response:
    """List providers; filters by version: 1.3 member_of, 1.4 resources, 1.14 in_tree, 1.18 required."""
    v = req.version
    allowed = {"name", "uuid"}
    allowed |= {"member_of"} if v >= V(1, 3) else set()
    allowed |= {"resources"} if v >= V(1, 4) else set()
    allowed |= {"in_tree"} if v >= V(1, 14) else set()
    allowed |= {"required"} if v >= V(1, 18) else set()
    many = {"member_of"} if v >= V(1, 24) else set()
    many |= {"required"} if v >= V(1, 39) else set()
    common.only(req, allowed, many)
    found = common.read(req, lambda tx: _found(req, tx))
    newest = max((p.changed_at for p in found), default=None)
    return common.answer(
        req, {"resource_providers": [shown(req, p) for p in found]}, modified=newest
    )


def _found(req: Request, tx: Tx) -> list[Provider]:
    q, v = req.query, req.version
    stmt: Any = providers.shown()
    if (name := q.get("name")) is not None:
        stmt = stmt.where(rp.c.name == name)
    if (uuid := q.get("uuid")) is not None:
        if not is_uuid(uuid):
            raise BadRequest(f"Invalid query string parameters: {uuid[:60]!r} is not a UUID")
        stmt = stmt.where(rp.c.uuid == canonical_uuid(uuid))
    if (tree := q.get("in_tree")) is not None:
        member = rp.alias("member")
        root = sa.select(member.c.root).where(member.c.uuid == common.tree(tree))
        stmt = stmt.where(rp.c.root == root.scalar_subquery())
    wanted, unwanted = common.required(
        q.all("required"), forbidden=v >= V(1, 22), any_of=v >= V(1, 39)
    )
    traits.check(tx, {t for w in wanted for t in w} | unwanted)
    inside, outside = common.member_of(q.all("member_of"), forbidden=v >= V(1, 32))
    for any_of in wanted:
        stmt = stmt.where(_has(pt.c.provider, pt.c.trait, any_of))
    if unwanted:
        stmt = stmt.where(~_has(pt.c.provider, pt.c.trait, unwanted))
    for any_of in inside:
        stmt = stmt.where(_has(pa.c.provider, pa.c.aggregate, any_of))
    if outside:
        stmt = stmt.where(~_has(pa.c.provider, pa.c.aggregate, outside))
    rows = [providers.from_row(r) for r in tx.select(stmt.order_by(rp.c.id))]
    if "resources" not in q:
        return rows
    need = common.resources(q.get("resources") or "")
    classes.check(tx, need)
    giving = {
        r.uuid
        for r in loading.providers(tx, [p.id for p in rows])
        if _gives(r, Group(resources=need))
    }
    return [p for p in rows if p.uuid in giving]


def _has(key: Any, value: Any, any_of: frozenset[str]) -> Any:
    return sa.exists(sa.select(1).where(key == rp.c.id, value.in_(sorted(any_of))))


def _gives(row: ProviderRow, group: Group) -> bool:
    slots = row.node().slots
    return all(rc in slots and slots[rc].gives(n) for rc, n in group.resources.items())


_RP = "/resource_providers"
_ONE = "/resource_providers/{uuid}"
_P = "placement:resource_providers:"
ROUTES = (
    Route("GET", _RP, list_, _P + "list", since=V(1, 0), errors=(400,)),
    Route(
        "POST",
        _RP,
        create,
        _P + "create",
        since=V(1, 0),
        until=V(1, 13),
        body=Schema(_CREATE),
        errors=(400, 409),
    ),
    Route(
        "POST",
        _RP,
        create,
        _P + "create",
        since=V(1, 14),
        body=Schema(_CREATE_14),
        errors=(400, 409),
    ),
    Route("GET", _ONE, show, _P + "show", since=V(1, 0), errors=(404,)),
    Route(
        "PUT",
        _ONE,
        update,
        _P + "update",
        since=V(1, 0),
        until=V(1, 13),
        body=Schema(_UPDATE),
        errors=(400, 404, 409),
    ),
    Route(
        "PUT",
        _ONE,
        update,
        _P + "update",
        since=V(1, 14),
        body=Schema(_UPDATE_14),
        errors=(400, 404, 409),
    ),
    Route("DELETE", _ONE, delete, _P + "delete", success=204, since=V(1, 0), errors=(404, 409)),
)
