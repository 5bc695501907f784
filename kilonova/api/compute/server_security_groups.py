"""Security groups of a server: list, add, remove. The groups themselves are the network service's."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import Json
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import NO_QUERY, R, action, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.request import Request
from kilonova.objects.port import GroupInfo, GroupRule
from kilonova.operations.accept import check_lock
from kilonova.operations.network_events import refresh
from kilonova.operations.services import Services

_RULE = R + "os-security-groups:"


def _rule(parent: str, r: GroupRule) -> dict[str, Any]:
    protocol = None if r.protocol is None else r.protocol.upper()
    low, high = r.port_min, r.port_max
    if protocol == "ICMP" and low is None and high is None:
        low = high = -1
    group = {}
    if r.remote_group is not None:
        group = {"name": r.remote_group[0], "tenant_id": r.remote_group[1]}
    return {
        "id": r.id,
        "parent_group_id": parent,
        "ip_protocol": protocol,
        "from_port": low,
        "to_port": high,
        "group": group,
        "ip_range": {} if r.cidr is None else {"cidr": r.cidr},
    }


def _shape(g: GroupInfo) -> dict[str, Any]:
    return {
        "id": g.id,
        "description": g.description,
        "name": g.name,
        "tenant_id": g.project_id,
        "rules": [_rule(g.id, r) for r in g.rules],
    }


def index(req: Request) -> Any:
    """List the security groups on a server's ports."""
    services: Services = req.cloud
    server = seen(req, _RULE + "list")
    groups = services.network.describe_groups(server["uuid"])
    groups.sort(key=lambda g: (g.project_id, g.name))
    return {"security_groups": [_shape(g) for g in groups]}


def _change(req: Request, rule: str, key: str, *, add: bool) -> None:
    services: Services = req.cloud
    server = found(req, _RULE + rule)
    name = req.body[key]["name"].strip()
    if not name:
        raise BadRequest("Security group name cannot be empty")
    check_lock(req.ctx, server)
    services.network.set_security_group(req.ctx, server.id, name, add)
    refresh(services, server.id)


def add(req: Request) -> None:
    """Put a server's ports into a group."""
    _change(req, "add", "addSecurityGroup", add=True)


def remove(req: Request) -> None:
    """Take a server's ports out of a group."""
    _change(req, "remove", "removeSecurityGroup", add=False)


def _body(key: str) -> Json:
    name: Json = {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 1}},
        "required": ["name"],
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {key: name}, "required": [key]}


_ACT = "/servers/{server_id}/action"
_C: dict[str, Any] = {"success": 202, "errors": (400, 403, 404, 409)}
ROUTES = [
    *versioned(
        "GET",
        "/servers/{server_id}/os-security-groups",
        index,
        _RULE + "list",
        queries=NO_QUERY,
        answer=a.SECURITY_GROUPS,
    ),
    *action(_ACT, "addSecurityGroup", add, _RULE + "add", _body("addSecurityGroup"), **_C),
    *action(
        _ACT, "removeSecurityGroup", remove, _RULE + "remove", _body("removeSecurityGroup"), **_C
    ),
]
RULES = {_RULE + "list": READER, _RULE + "add": MEMBER, _RULE + "remove": MEMBER}
