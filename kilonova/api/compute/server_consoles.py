"""Remote consoles: POST /servers/{id}/remote-consoles from 2.6 on, two actions before. noVNC and serial are offered."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import seen
from kilonova.api.compute.shared import R, action, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.request import Request

_RULE = R + "os-remote-consoles"
_OFFERED = {("vnc", "novnc"), ("serial", "serial")}


def create(req: Request) -> Any:
    """Return a URL that opens a console once, within ten minutes, while this run of the guest goes on."""
    asked = req.body["remote_console"]
    protocol, type_ = asked["protocol"], asked["type"]
    row = seen(req, _RULE)
    if (protocol, type_) not in _OFFERED:
        raise BadRequest(f"Unavailable console type {type_}.")
    url = req.cloud.consoles.make(row, type_)
    return {"remote_console": {"protocol": protocol, "type": type_, "url": url}}


def vnc(req: Request) -> Any:
    """The same for VNC, until 2.5."""
    return _old(req, req.body["os-getVNCConsole"]["type"])


def serial(req: Request) -> Any:
    """The same for the serial port, until 2.5."""
    return _old(req, req.body["os-getSerialConsole"]["type"])


def _old(req: Request, type_: str) -> Any:
    row = seen(req, _RULE)
    return {"console": {"type": type_, "url": req.cloud.consoles.make(row, type_)}}


def _typed(*types: str) -> Json:
    return {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": list(types)}},
        "required": ["type"],
        "additionalProperties": False,
    }


def _remote(protocols: tuple[str, ...], types: tuple[str, ...]) -> Json:
    return wrap(
        "remote_console",
        {
            "type": "object",
            "properties": {
                "protocol": {"type": "string", "enum": list(protocols)},
                "type": {"type": "string", "enum": list(types)},
            },
            "required": ["protocol", "type"],
            "additionalProperties": False,
        },
    )


_PROTOCOLS = ("vnc", "spice", "rdp", "serial")
_TYPES = ("novnc", "xvpvnc", "spice-html5", "rdp-html5", "serial")
# a console is asked for anew each time: its token lives for minutes
_E: dict[str, Any] = {"errors": (400, 403, 404, 409, 503), "idempotent": ""}
ROUTES = [
    *versioned(
        "POST",
        "/servers/{server_id}/remote-consoles",
        create,
        _RULE,
        since=6,
        bodies={
            6: _remote(_PROTOCOLS, _TYPES),
            8: _remote((*_PROTOCOLS, "mks"), (*_TYPES, "webmks")),
            99: _remote((*_PROTOCOLS, "mks"), (*_TYPES, "webmks", "spice-direct")),
        },
        answer=a.REMOTE_CONSOLE,
        **_E,
    ),
    *action(
        "/servers/{server_id}/action",
        "os-getVNCConsole",
        vnc,
        _RULE,
        wrap("os-getVNCConsole", _typed("novnc", "xvpvnc")),
        until=5,
        answer=a.CONSOLE,
        **_E,
    ),
    *action(
        "/servers/{server_id}/action",
        "os-getSerialConsole",
        serial,
        _RULE,
        wrap("os-getSerialConsole", _typed("serial")),
        until=5,
        answer=a.CONSOLE,
        **_E,
    ),
]
RULES = {_RULE: MEMBER}
