"""rescue and unrescue: boot a server from another image, its own disks behind that one, and back."""

import secrets
from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import UUID, Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import server_rescue, server_unrescue

_RESCUE, _UNRESCUE = R + "os-rescue", R + "os-unrescue"


def rescue(req: Request) -> Any:
    """Boot a server from a rescue image, its own one if none is named."""
    server, asked = found(req, _RESCUE), req.body["rescue"] or {}
    password = asked.get("adminPass") or secrets.token_urlsafe(9)
    backed, image = req.version >= V(2, 87), asked.get("rescue_image_ref")
    server_rescue.start(req.cloud, req.ctx, server, image, password, volume_backed=backed)
    return {"adminPass": password}


def unrescue(req: Request) -> None:
    """Boot a rescued server from its own disk again."""
    server_unrescue.start(req.cloud, req.ctx, found(req, _UNRESCUE))


_BODY: Json = {
    "type": ["object", "null"],
    "properties": {
        "adminPass": {"type": "string", "maxLength": 255},
        "rescue_image_ref": UUID,
    },
    "additionalProperties": False,
}
_A = "/servers/{server_id}/action"
_E = (400, 403, 404, 409)
ROUTES = [
    *versioned(
        "POST",
        _A,
        rescue,
        _RESCUE,
        bodies={1: wrap("rescue", _BODY)},
        action="rescue",
        errors=_E,
        answer=a.ADMIN_PASSWORD,
        secret=True,
    ),
    *versioned(
        "POST",
        _A,
        unrescue,
        _UNRESCUE,
        bodies={1: wrap("unrescue", {})},
        action="unrescue",
        success=202,
        errors=_E,
    ),
]
RULES = {_RESCUE: MEMBER, _UNRESCUE: MEMBER}
