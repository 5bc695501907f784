"""External events: what network and volume services tell of a server's ports and volumes."""

from typing import Any

from kilonova.api.compute.answers import others as a
from kilonova.api.compute.schemas.common import UUID, Json
from kilonova.api.compute.shared import R, versioned
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.http.request import Request, Response
from kilonova.operations.network_events import refresh
from kilonova.operations.services import CELL0, Services
from kilonova.operations.volume_events import extended

_REFRESHING = ("network-changed", "network-vif-deleted")
_TAGGED = ("volume-extended", "power-update", "accelerator-request-bound", "volume-reimaged")


def create(req: Request) -> Response:
    """Take events in: each is answered with a code of its own; 207 when not all were taken."""
    services: Services = req.cloud
    events: list[dict[str, Any]] = req.body["events"]
    wanted = {e["server_uuid"] for e in events}

    def read(tx: Tx) -> dict[str, Any]:
        return {i: mappings.find(tx, i) for i in wanted}

    found = services.world.read(read)
    out = []
    for event in events:
        code = _code(event, found[event["server_uuid"]])
        status = event.get("status", "completed") if code == 200 else "failed"
        out.append({**event, "status": "completed" if code == 200 else status, "code": code})
    changed = {e["server_uuid"] for e in out if e["code"] == 200 and e["name"] in _REFRESHING}
    for server_id in sorted(changed):
        refresh(services, server_id)
    for e in out:
        if e["code"] == 200 and e["name"] == "volume-extended" and services.has_volumes:
            extended(services, e["server_uuid"], e["tag"])
    whole = all(e["code"] == 200 for e in out)
    return Response(body={"events": out}, status=200 if whole else 207)


def _code(event: dict[str, Any], mapping: Any) -> int:
    if mapping is None:
        return 404
    if event["name"] in _TAGGED and event.get("tag") is None:
        return 400
    if mapping["host"] is None or mapping["cell"] in (None, CELL0):
        return 422
    return 200


_NAMES = ["network-changed", "network-vif-plugged", "network-vif-unplugged", "network-vif-deleted"]


def _body(*more: str) -> Json:
    item: Json = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [*_NAMES, *more]},
            "server_uuid": UUID,
            "status": {"type": "string", "enum": ["failed", "completed", "in-progress"]},
            "tag": {"type": "string", "maxLength": 255},
        },
        "required": ["name", "server_uuid"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"events": {"type": "array", "minItems": 1, "items": item}},
        "required": ["events"],
        "additionalProperties": False,
    }


_LATE = ((51, "volume-extended"), (76, "power-update"), (82, "accelerator-request-bound"))
_LATER = (*_LATE, (93, "volume-reimaged"))
_RULE = R + "os-server-external-events:create"
ROUTES = versioned(
    "POST",
    "/os-server-external-events",
    create,
    _RULE,
    bodies={1: _body()} | {n: _body(*(name for m, name in _LATER if m <= n)) for n, _ in _LATER},
    errors=(207, 400, 403),
    answer=a.EVENTS,
)
RULES = {_RULE: "rule:service_or_admin", "service_or_admin": "rule:service_api or role:admin"}
