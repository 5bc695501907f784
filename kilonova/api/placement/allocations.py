"""/allocations: what consumers hold; set for one, for several in one transaction (1.13), deleted."""

from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import canonical_uuid, is_uuid
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema, extend
from kilonova.placement import allocations, claims, classes, providers
from kilonova.placement.allocations import ConsumerChanged

NOBODY = "00000000-0000-0000-0000-000000000000"  # project and user of what was written before 1.8

_AMOUNTS: Json = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        common.CLASS: {"type": "integer", "minimum": 1, "maximum": common.MAX_INT}
    },
    "additionalProperties": False,
}
_ID: Json = {"type": "string", "minLength": 1, "maxLength": 255}
_PUT_0: Json = {
    "type": "object",
    "properties": {
        "allocations": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "resource_provider": {
                        "type": "object",
                        "properties": {"uuid": {"type": "string", "format": "uuid"}},
                        "required": ["uuid"],
                        "additionalProperties": False,
                    },
                    "resources": _AMOUNTS,
                },
                "required": ["resource_provider", "resources"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["allocations"],
    "additionalProperties": False,
}
_PUT_8 = extend(
    _PUT_0,
    properties={"project_id": _ID, "user_id": _ID},
    required=["allocations", "project_id", "user_id"],
)
_BY_PROVIDER: Json = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        common.UUID: {
            "type": "object",
            "properties": {"generation": {"type": "integer"}, "resources": _AMOUNTS},
            "required": ["resources"],
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
_PUT_12 = extend(_PUT_8, properties={"allocations": _BY_PROVIDER})
_DELETABLE = extend(_PUT_12, properties={"allocations": {**_BY_PROVIDER, "minProperties": 0}})
_PUT_28 = extend(
    _DELETABLE,
    properties={"consumer_generation": {"type": ["integer", "null"]}},
    required=["allocations", "project_id", "user_id", "consumer_generation"],
)
_PUT_34 = extend(
    _PUT_28,
    properties={
        "mappings": {
            "type": "object",
            "patternProperties": {
                "^[a-zA-Z0-9_-]{0,64}$": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "format": "uuid"},
                }
            },
        }
    },
)
_PUT_38 = extend(
    _PUT_34,
    properties={
        "consumer_type": {
            "type": "string",
            "pattern": "^[A-Z0-9_]+$",
            "minLength": 1,
            "maxLength": 255,
        }
    },
    required=["allocations", "project_id", "user_id", "consumer_generation", "consumer_type"],
)
BY_VERSION = ((12, 27, _DELETABLE), (28, 33, _PUT_28), (34, 37, _PUT_34), (38, None, _PUT_38))


def many_of(one: Json, least: int = 1) -> Json:
    """Return the schema of several consumers' allocations."""
    return {
        "type": "object",
        "minProperties": least,
        "patternProperties": {common.UUID: one},
        "additionalProperties": False,
    }


def show(req: Request) -> Response:
    """Show what a consumer holds; empty for one that holds nothing or is unknown."""
    uuid = req.params["consumer"]

    def found(tx: Tx) -> Response:
        key = canonical_uuid(uuid) if is_uuid(uuid) else uuid
        held = allocations.held_by(tx, key)
        body: dict[str, Any] = {
            "allocations": {
                p: {"generation": h.generation, "resources": h.amounts} for p, h in held.items()
            }
        }
        owner = allocations.consumer(tx, key)
        if held and owner is not None and req.version >= V(1, 12):
            body |= {"project_id": owner.project_id, "user_id": owner.user_id}
            if req.version >= V(1, 28):
                body["consumer_generation"] = owner.generation
            if req.version >= V(1, 38):
                body["consumer_type"] = owner.type
        return common.answer(req, body)

    return common.read(req, found)


def of_provider(req: Request) -> Response:
    """Show who holds what of a provider."""

    def found(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        out: dict[str, Any] = {}
        for consumer, (generation, amounts) in allocations.used_by_provider(tx, p.id).items():
            out[consumer] = {"resources": amounts}
            if req.version >= V(1, 28):
                out[consumer]["consumer_generation"] = generation
        body = {"allocations": out, "resource_provider_generation": p.generation}
        return common.answer(req, body)

    return common.read(req, found)


def put(req: Request) -> None:
    """Set what one consumer holds; from 1.28 on an empty set gives everything back."""
    uuid = req.params["consumer"]
    if not is_uuid(uuid):
        raise BadRequest(f"Malformed consumer_uuid: {uuid[:60]}")
    write_all(req, {uuid: req.body})


def put_until_1_11(req: Request) -> None:
    """Before 1.12 the body was a list."""
    merged: dict[str, Any] = {}
    for item in req.body["allocations"]:
        merged[item["resource_provider"]["uuid"]] = {"resources": item["resources"]}
    req.body = {"project_id": NOBODY, "user_id": NOBODY, **req.body, "allocations": merged}
    put(req)


def post(req: Request) -> None:
    """Set what several consumers hold, all or nothing."""
    write_all(req, req.body)


def write_all(req: Request, data: dict[str, Any]) -> None:
    """Set several consumers' allocations in one transaction."""
    common.write(req, lambda tx: set_consumers(req, tx, data))


def set_consumers(req: Request, tx: Tx, data: dict[str, Any]) -> None:
    """Set what each consumer holds: first everything is given back, then taken, so they may swap.

    Raises BadRequest for unknown providers and classes, OverCapacity, ConsumerChanged.
    """
    moment = common.now(req)
    wanted = {canonical_uuid(c): body for c, body in data.items()}
    classes.check(
        tx,
        {rc for b in wanted.values() for a in b["allocations"].values() for rc in a["resources"]},
    )
    for consumer, body in wanted.items():
        _check_consumer(req, tx, consumer, body)
    for consumer in wanted:
        for held in allocations.held_by(tx, consumer).values():
            providers.touch(tx, held.provider_id, moment)
        allocations.drop_rows(tx, consumer)
    for consumer, body in wanted.items():
        if not body["allocations"]:
            allocations.drop_consumer(tx, consumer)
            continue
        amounts = {canonical_uuid(p): a["resources"] for p, a in body["allocations"].items()}
        try:
            claims.claim(
                tx,
                consumer=consumer,
                project=body["project_id"],
                user=body["user_id"],
                amounts=amounts,
                consumer_type=body.get("consumer_type"),
                now=moment,
            )
        except claims.UnknownProvider as exc:
            raise BadRequest(
                f"Allocation for resource provider {exc.facts['provider']!s} that does not exist."
            ) from exc
        except claims.OverCapacity as exc:
            raise claims.OverCapacity(
                f"Unable to allocate inventory: {exc.message}", **exc.facts
            ) from exc


def _check_consumer(req: Request, tx: Tx, consumer: str, body: dict[str, Any]) -> None:
    if not req.version >= V(1, 28):
        return
    found, given = allocations.consumer(tx, consumer), body["consumer_generation"]
    have = None if found is None else found.generation
    if given != have:
        raise ConsumerChanged(
            f"consumer generation conflict - expected {'null' if have is None else have} but got "
            f"{'null' if given is None else given}"
        )


def delete(req: Request) -> None:
    """Give back everything that a consumer holds; 404 when it holds nothing."""
    uuid = req.params["consumer"]

    def change(tx: Tx) -> None:
        key = canonical_uuid(uuid) if is_uuid(uuid) else uuid
        if claims.release(tx, key, now=common.now(req)).repeated:
            raise NotFound(f"No allocations for consumer '{uuid[:60]}'")

    common.write(req, change)


_LOST_12 = ("/allocations[]/resource_provider", "/allocations[]/resources")  # it became an object


def _puts() -> list[Route]:
    path, rule, errors = "/allocations/{consumer}", "placement:allocations:update", (400, 409)
    out = [
        Route(
            "PUT",
            path,
            put_until_1_11,
            rule,
            success=204,
            since=V(1, since),
            until=V(1, until),
            body=Schema(schema),
            errors=errors,
        )
        for since, until, schema in ((0, 7, _PUT_0), (8, 11, _PUT_8))
    ]
    out += [
        Route(
            "PUT",
            path,
            put,
            rule,
            success=204,
            since=V(1, since),
            until=None if until is None else V(1, until),
            body=Schema(_PUT_12 if since == 12 else schema),
            errors=errors,
            removed=_LOST_12 if since == 12 else (),
        )
        for since, until, schema in BY_VERSION
    ]
    return out


def _posts() -> list[Route]:
    return [
        Route(
            "POST",
            "/allocations",
            post,
            "placement:allocations:manage",
            success=204,
            since=V(1, max(since, 13)),
            until=None if until is None else V(1, until),
            body=Schema(many_of(schema)),
            errors=(400, 409),
        )
        for since, until, schema in BY_VERSION
    ]


ROUTES = (
    Route("GET", "/allocations/{consumer}", show, "placement:allocations:list", since=V(1, 0)),
    *_puts(),
    Route(
        "DELETE",
        "/allocations/{consumer}",
        delete,
        "placement:allocations:delete",
        success=204,
        since=V(1, 0),
        errors=(404,),
    ),
    *_posts(),
    Route(
        "GET",
        "/resource_providers/{uuid}/allocations",
        of_provider,
        "placement:resource_providers:allocations:list",
        since=V(1, 0),
        errors=(404,),
    ),
)
