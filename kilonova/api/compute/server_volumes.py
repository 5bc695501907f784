"""Volume attachments of a server. This cloud has no block storage yet: there are none, and none can be made."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import BOOLEAN, TAG, UUID, Json, wrap
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import COUNT, NO_QUERY, R, many, not_yet, strict_from, versioned
from kilonova.common.errors import NotFound
from kilonova.http.request import Request
from kilonova.http.schema import extend

_RULE = R + "os-volumes-attachments:"


def index(req: Request) -> Any:
    """List a server's volume attachments."""
    seen(req, _RULE + "index")
    return {"volumeAttachments": []}


def _missing(req: Request) -> NotFound:
    return NotFound(
        f"Instance {req.params['server_id']} is not attached to volume {req.params['volume_id']}"
    )


def show(req: Request) -> None:
    """Show one attachment: there is none."""
    seen(req, _RULE + "show")
    raise _missing(req)


def attach(req: Request) -> None:
    """Attach a volume: not offered yet."""
    found(req, _RULE + "create")
    not_yet("Attaching a volume to a server")(req)


def update(req: Request) -> None:
    """Change an attachment: there is none."""
    found(req, _RULE + "update")
    raise _missing(req)


def detach(req: Request) -> None:
    """Detach a volume: there is none."""
    found(req, _RULE + "delete")
    raise _missing(req)


_V = ("properties", "volumeAttachment")
_C1: Json = wrap(
    "volumeAttachment",
    {
        "type": "object",
        "properties": {
            "volumeId": UUID,
            "device": {
                "type": ["string", "null"],
                "pattern": "(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$",
            },
        },
        "required": ["volumeId"],
        "additionalProperties": False,
    },
)
_C49 = extend(_C1, at=_V, properties={"tag": TAG})
_C79 = extend(_C49, at=_V, properties={"delete_on_termination": BOOLEAN})
_ALL = "/servers/{server_id}/os-volume_attachments"
_ONE = _ALL + "/{volume_id}"
_LIST = strict_from(75, {"limit": many(COUNT), "offset": many(COUNT)})
_E = (400, 403, 404, 409, 501)
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "index", queries=_LIST, answer=a.VOLUMES),
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.VOLUME),
    *versioned(
        "POST",
        _ALL,
        attach,
        _RULE + "create",
        bodies={1: _C1, 49: _C49, 79: _C79},
        success={1: 200, 101: 202},
        answer={1: a.VOLUME_ATTACHED, 101: None},
        errors=_E,
    ),
    *versioned("PUT", _ONE, update, _RULE + "update", success=202, errors=_E),
    *versioned("DELETE", _ONE, detach, _RULE + "delete", success=202, errors=_E),
]
RULES = {_RULE + n: READER for n in ("index", "show")} | {
    _RULE + n: MEMBER for n in ("create", "update", "delete")
}
RULES[_RULE + "swap"] = "rule:service_api or rule:context_is_admin"
