"""addFixedIp and removeFixedIp, until 2.43; later versions attach and detach interfaces."""

from typing import Any

from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, action
from kilonova.common.errors import BadRequest
from kilonova.http.request import Request
from kilonova.network.interface import NoAddressLeft
from kilonova.operations.accept import check_lock
from kilonova.operations.network_events import refresh
from kilonova.operations.services import Services

_RULE = R + "os-multinic:"


def add(req: Request) -> None:
    """Give a server one more address of a network that it is on."""
    services: Services = req.cloud
    server = found(req, _RULE + "add")
    check_lock(req.ctx, server)
    try:
        services.network.add_fixed_ip(server.id, req.body["addFixedIp"]["networkId"])
    except NoAddressLeft as exc:
        raise BadRequest(exc.message) from exc
    refresh(services, server.id)


def remove(req: Request) -> None:
    """Take an address off a server."""
    services: Services = req.cloud
    server = found(req, _RULE + "remove")
    check_lock(req.ctx, server)
    services.network.remove_fixed_ip(server.id, req.body["removeFixedIp"]["address"])
    refresh(services, server.id)


def _body(name: str, what: Json) -> Json:
    return {
        "type": "object",
        "properties": {name: what},
        "required": [name],
        "additionalProperties": False,
    }


_NETWORK: Json = {"type": ["string", "integer"], "pattern": "^[a-zA-Z0-9-]*$", "maxLength": 255}
_ADDRESS: Json = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_ACT = "/servers/{server_id}/action"
_C: dict[str, Any] = {"until": 43, "success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *action(
        _ACT,
        "addFixedIp",
        add,
        _RULE + "add",
        wrap("addFixedIp", _body("networkId", _NETWORK)),
        **_C,
    ),
    *action(
        _ACT,
        "removeFixedIp",
        remove,
        _RULE + "remove",
        wrap("removeFixedIp", _body("address", _ADDRESS)),
        **_C,
    ),
]
RULES = {_RULE + "add": MEMBER, _RULE + "remove": MEMBER}
