"""POST /reshaper (1.30): move inventories and the allocations on them between providers, all or nothing."""

from kilonova.api.placement import allocations, common
from kilonova.api.placement.inventories import PUT_ALL, record_of
from kilonova.common.errors import BadRequest
from kilonova.common.ids import canonical_uuid
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.placement import classes, inventories, providers


def reshape(req: Request) -> None:
    """Add what is new, set the allocations, then take away what is gone: nothing is over capacity at the end."""

    def change(tx: Tx) -> None:
        moment = common.now(req)
        records = {}
        for uuid, body in req.body["inventories"].items():
            p = providers.find(tx, canonical_uuid(uuid))
            if p is None:
                error = BadRequest(f"Resource provider {uuid} in inventories not found")
                error.__dict__["placement_code"] = "placement.resource_provider.not_found"
                raise error
            classes.check(tx, body["inventories"])
            providers.bump(tx, p, moment, body["resource_provider_generation"])
            records[p.id] = {rc: record_of(rc, b, req) for rc, b in body["inventories"].items()}
            for rc, record in records[p.id].items():
                inventories.write(tx, p.id, rc, record)
        allocations.set_consumers(req, tx, req.body["allocations"])
        for provider_id, wanted in records.items():
            inventories.replace(tx, provider_id, wanted)

    common.write(req, change)


def _route(since: int, until: int | None, one: dict[str, object]) -> Route:
    schema = Schema(
        {
            "type": "object",
            "properties": {
                "inventories": {
                    "type": "object",
                    "patternProperties": {common.UUID: PUT_ALL},
                    "additionalProperties": False,
                },
                "allocations": allocations.many_of(one, 0),
            },
            "required": ["inventories", "allocations"],
            "additionalProperties": False,
        }
    )
    return Route(
        "POST",
        "/reshaper",
        reshape,
        "placement:reshaper:reshape",
        success=204,
        since=V(1, since),
        until=None if until is None else V(1, until),
        body=schema,
        errors=(400, 409),
    )


ROUTES = tuple(
    _route(max(since, 30), until, schema)
    for since, until, schema in allocations.BY_VERSION
    if until is None or until >= 30
)
