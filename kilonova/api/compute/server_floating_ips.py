"""addFloatingIp and removeFloatingIp, until 2.43; later versions use the network API."""

from typing import Any

from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, action
from kilonova.http.request import Request
from kilonova.operations.accept import check_lock
from kilonova.operations.network_events import refresh
from kilonova.operations.services import Services

_RULE = R + "os-floating-ips:"


def add(req: Request) -> None:
    """Lead a floating address to a server."""
    services: Services = req.cloud
    server, body = found(req, _RULE + "add"), req.body["addFloatingIp"]
    check_lock(req.ctx, server)
    services.network.associate_floating_ip(
        req.ctx, server.id, body["address"], body.get("fixed_address")
    )
    refresh(services, server.id)


def remove(req: Request) -> None:
    """Take a floating address off a server."""
    services: Services = req.cloud
    server, body = found(req, _RULE + "remove"), req.body["removeFloatingIp"]
    check_lock(req.ctx, server)
    services.network.disassociate_floating_ip(req.ctx, server.id, body["address"])
    refresh(services, server.id)


_IP: Json = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}


def _body(*names: str) -> Json:
    return {
        "type": "object",
        "properties": dict.fromkeys(names, _IP),
        "required": ["address"],
        "additionalProperties": False,
    }


_ACT = "/servers/{server_id}/action"
_C: dict[str, Any] = {"until": 43, "success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *action(
        _ACT,
        "addFloatingIp",
        add,
        _RULE + "add",
        wrap("addFloatingIp", _body("address", "fixed_address")),
        **_C,
    ),
    *action(
        _ACT,
        "removeFloatingIp",
        remove,
        _RULE + "remove",
        wrap("removeFloatingIp", _body("address")),
        **_C,
    ),
]
RULES = {_RULE + "add": MEMBER, _RULE + "remove": MEMBER}
