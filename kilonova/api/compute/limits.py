"""Absolute limits of a project and what it uses of them. There are no rate limits."""

from typing import Any

from kilonova.api.compute.answers import quotas as a
from kilonova.api.compute.rules import ADMIN, ANY
from kilonova.api.compute.shared import TEXT, R, many, strict_from, versioned
from kilonova.db import quotas, usage
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services

_MAX = {
    "ram": "maxTotalRAMSize",
    "instances": "maxTotalInstances",
    "cores": "maxTotalCores",
    "key_pairs": "maxTotalKeypairs",
    "metadata_items": "maxServerMeta",
    "server_groups": "maxServerGroups",
    "server_group_members": "maxServerGroupMembers",
}
_FILES = {
    "injected_files": "maxPersonality",
    "injected_file_content_bytes": "maxPersonalitySize",
}
_NETWORK = {
    "maxTotalFloatingIps": -1,
    "maxSecurityGroups": -1,
    "maxSecurityGroupRules": -1,
    "totalFloatingIpsUsed": 0,
    "totalSecurityGroupsUsed": 0,
}
_USED = {
    "totalRAMUsed": "ram",
    "totalCoresUsed": "cores",
    "totalInstancesUsed": "instances",
    "totalServerGroupsUsed": "server_groups",
}


def index(req: Request) -> Any:
    """Show the limits of the caller's project; an admin may name another."""
    services: Services = req.cloud
    v = req.version
    other = req.query.get("tenant_id")
    if other is not None:
        req.authorize(R + "limits:other_project")
    project = other or req.ctx.project_id or ""

    def read(tx: Tx) -> tuple[dict[str, int], dict[str, int]]:
        return quotas.limits(tx, project), usage.in_use(tx, project)

    limits, used = services.world.read(read)
    out = {_MAX[k]: n for k, n in limits.items() if k in _MAX}
    if not v >= V(2, 57):
        out |= {_FILES[k]: n for k, n in limits.items() if k in _FILES}
    if not v >= V(2, 39):
        out["maxImageMeta"] = limits["metadata_items"]
    if not v >= V(2, 36):
        out |= _NETWORK
    out |= {label: used[name] for label, name in _USED.items()}
    return {"limits": {"rate": [], "absolute": out}}


_RULE = R + "limits"
ROUTES = versioned(
    "GET",
    "/limits",
    index,
    _RULE,
    queries=strict_from(75, {"tenant_id": many(TEXT)}),
    answer=a.LIMITS,
)
RULES = {_RULE: ANY, _RULE + ":other_project": ADMIN}
