"""Compute services (os-services), for admins: one nova-compute per host; enable, disable, force down, delete."""

from typing import Any

from kilonova.api.compute.answers import hosts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas import services as s
from kilonova.api.compute.schemas.common import true
from kilonova.api.compute.shared import TEXT, R, many, strict_from, versioned
from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import is_uuid
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import compute_hosts
from kilonova.operations.compute_hosts import ComputeHost
from kilonova.operations.services import Services

BINARY = "nova-compute"


def _shape(req: Request, h: ComputeHost) -> dict[str, Any]:
    if h.number is None and req.version >= V(2, 69):
        return {"binary": BINARY, "host": h.host, "status": "UNKNOWN"}
    return _known(req, h)


def _known(req: Request, h: ComputeHost) -> dict[str, Any]:
    services: Services = req.cloud
    out: dict[str, Any] = {
        "binary": BINARY,
        "host": h.host,
        "id": h.uuid if req.version >= V(2, 53) else h.number,
        "zone": services.scheduling.zone_of(h.host),
        "status": "disabled" if h.state.disabled else "enabled",
        "state": "up" if services.hosts.is_up(h.host) else "down",
        "updated_at": iso_micro(h.state.seen_at),
        "disabled_reason": h.state.disabled_reason,
    }
    if req.version >= V(2, 11):
        out["forced_down"] = h.state.forced_down
    return out


def index(req: Request) -> Any:
    """List compute services, all or those of a host or binary."""
    host, binary = req.query.get("host"), req.query.get("binary")
    found = compute_hosts.list_all(req.cloud)
    if binary and binary != BINARY:
        found = []
    if not req.version >= V(2, 69):
        found = [h for h in found if h.number is not None]
    return {"services": [_shape(req, h) for h in found if not host or h.host == host]}


def _only_compute(binary: str) -> None:
    if binary != BINARY:
        raise BadRequest(
            f"Updating a {binary} service is not supported. Only {BINARY} services can be updated."
        )


def act(req: Request) -> Any:
    """Enable, disable or force down by host name (until 2.52); the path names the action."""
    services: Services = req.cloud
    name, body = req.params["service_id"], req.body
    host, binary = body["host"], body["binary"]
    answer: dict[str, Any] = {"host": host, "binary": binary}
    changes: dict[str, Any]
    if name == "enable":
        answer["status"], changes = "enabled", {"disabled": False}
    elif name in ("disable", "disable-log-reason"):
        changes = {"disabled": True}
        if name == "disable-log-reason":
            if "disabled_reason" not in body:
                raise BadRequest("Missing disabled reason field")
            changes["reason"] = body["disabled_reason"]
            answer["disabled_reason"] = body["disabled_reason"]
        answer["status"] = "disabled"
    elif name == "force-down" and req.version >= V(2, 11):
        if "forced_down" not in body:
            raise BadRequest("Missing forced_down field")
        changes = {"forced_down": true(body["forced_down"])}
        answer |= changes
    else:
        raise NotFound("Unknown action")
    _only_compute(binary)
    if services.hosts.find(host) is None:
        raise NotFound(f"Host '{host}' is not mapped to any cell")
    services.hosts.set_service(host, **changes)
    return {"service": answer}


def update(req: Request) -> Any:
    """Enable, disable or force down by uuid (from 2.53)."""
    services: Services = req.cloud
    found, body = _by_uuid(req, "Service {} could not be found."), req.body
    changes: dict[str, Any] = {}
    status, reason = body.get("status"), body.get("disabled_reason")
    if status == "enabled":
        if reason:
            raise BadRequest("Specifying 'disabled_reason' with status 'enabled' is invalid.")
        changes["disabled"] = False
    elif status == "disabled":
        changes |= {"disabled": True, "reason": reason}
    if "forced_down" in body:
        changes["forced_down"] = true(body["forced_down"])
    if not changes:
        raise BadRequest(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified."
        )
    state = services.hosts.set_service(found.host, **changes)
    return {"service": _known(req, ComputeHost(state, found.number))}  # its cell has just answered


def _by_uuid(req: Request, missing: str) -> ComputeHost:
    text = req.params["service_id"]
    if not is_uuid(text):
        raise BadRequest(f"Invalid uuid {text}")
    found = compute_hosts.by_uuid(req.cloud, text)
    if found is None:
        raise NotFound(missing.format(text))
    return found


def delete(req: Request) -> None:
    """Take a host without servers out of the cloud."""
    text = req.params["service_id"]
    if req.version >= V(2, 53):
        found: ComputeHost | None = _by_uuid(req, "Service {} not found.")
    else:
        if not text.isdigit() or len(text) > 11:
            raise BadRequest("Invalid input received: id must be an integer")
        found = compute_hosts.by_number(req.cloud, int(text), "Service")
    if found is None:
        raise NotFound(f"Service {text} not found.")
    compute_hosts.remove(req.cloud, found)


_RULE = R + "os-services:"
_ONE = "/os-services/{service_id}"
_LIST = strict_from(75, {"host": many(TEXT), "binary": many(TEXT)})
ROUTES = [
    *versioned("GET", "/os-services", index, _RULE + "list", queries=_LIST, answer=a.SERVICES),
    *versioned(
        "PUT", _ONE, act, _RULE + "update", bodies=s.UPDATE, until=52, answer=a.SERVICE_ACTED
    ),
    *versioned(
        "PUT",
        _ONE,
        update,
        _RULE + "update",
        bodies=s.UPDATE,
        since=53,
        removed={53: ("/binary", "/host")},
        answer=a.SERVICE,
    ),
    *versioned("DELETE", _ONE, delete, _RULE + "delete", success=204, errors=(400, 403, 404, 409)),
]
RULES = {_RULE + n: ADMIN for n in ("list", "update", "delete")}
