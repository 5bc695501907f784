"""The rows of the route table for servers."""

from kilonova.api.compute.answers import servers as a
from kilonova.api.compute.schemas import server_create, server_queries
from kilonova.api.compute.schemas.common import (
    DESCRIPTION,
    FQDN,
    HOSTNAME,
    NAME,
    Json,
    action,
    wrap,
)
from kilonova.api.compute.servers import changing, creating, reading
from kilonova.api.compute.shared import NO_QUERY, versioned
from kilonova.http.microversion import Microversion, V
from kilonova.http.routing import Handler, Route
from kilonova.http.schema import Schema, extend

_P = "os_compute_api:"


def _create_routes() -> list[Route]:
    versions = server_create.VERSIONS
    rows = []
    for i, (since, schema) in enumerate(versions):
        until = before(versions[i + 1][0]) if i + 1 < len(versions) else None
        rows.append(
            Route(
                "POST",
                "/v2.1/servers",
                creating.create,
                _P + "servers:create",
                success=202,
                errors=(400, 403, 404, 409, 413, 422, 501),
                since=since,
                until=until,
                body=schema,
                idempotent="own",
                removed=server_create.REMOVED.get(since.minor, ()),
                answer=a.CREATE,
            )
        )
    return rows


def before(version: Microversion) -> Microversion:
    """Return the microversion just before this one."""
    return V(version.major, version.minor - 1)


_UPDATE: Json = {
    "type": "object",
    "properties": {
        "name": NAME,
        "OS-DCF:diskConfig": {"type": "string", "enum": ["AUTO", "MANUAL"]},
        "accessIPv4": {"type": ["string", "null"], "format": "ipv4"},
        "accessIPv6": {"type": ["string", "null"], "format": "ipv6"},
    },
    "additionalProperties": False,
}
_U1 = wrap("server", _UPDATE)
_U19 = extend(_U1, at=("properties", "server"), properties={"description": DESCRIPTION})
_U90 = extend(_U19, at=("properties", "server"), properties={"hostname": HOSTNAME})
_U94 = extend(_U90, at=("properties", "server"), properties={"hostname": FQDN})
_ZONE: Json = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_U104 = extend(_U94, at=("properties", "server"), properties={"pinned_availability_zone": _ZONE})
_UPDATES = [
    (V(2, 1), _U1),
    (V(2, 19), _U19),
    (V(2, 90), _U90),
    (V(2, 94), _U94),
    (V(2, 104), _U104),
]


def _update_routes() -> list[Route]:
    rows = []
    for i, (since, document) in enumerate(_UPDATES):
        until = before(_UPDATES[i + 1][0]) if i + 1 < len(_UPDATES) else None
        rows.append(
            Route(
                "PUT",
                "/v2.1/servers/{server_id}",
                changing.update,
                _P + "servers:update",
                errors=(400, 403, 404, 409),
                since=since,
                until=until,
                body=Schema(document),
                answer=a.UPDATE,
            )
        )
    return rows


def act(name: str, handler: Handler, rule: str, inner: Json | None = None, **kw: object) -> Route:
    """Return the route of one server action."""
    return Route(
        "POST",
        "/v2.1/servers/{server_id}/action",
        handler,
        _P + rule,
        success=202,
        errors=(400, 403, 404, 409),
        body=Schema(action(name, inner)),
        action=name,
        idempotent="operation",
        **kw,  # type: ignore[arg-type]
    )


_REBOOT: Json = {
    "type": "object",
    "properties": {"type": {"enum": ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]}},
    "required": ["type"],
    "additionalProperties": False,
}
_LOCK: Json = {
    "type": ["object", "null"],
    "properties": {"locked_reason": {"type": "string", "minLength": 1, "maxLength": 255}},
    "additionalProperties": False,
}

_LIST = {75: server_queries.LIST}
ROUTES = [
    *versioned(
        "GET", "/servers", reading.index, _P + "servers:index", queries=_LIST, answer=a.LIST
    ),
    *versioned(
        "GET",
        "/servers/detail",
        reading.detail,
        _P + "servers:detail",
        queries=_LIST,
        answer=a.DETAIL,
    ),
    *versioned(
        "GET",
        "/servers/{server_id}",
        reading.show,
        _P + "servers:show",
        queries=NO_QUERY,
        answer=a.SHOW,
    ),
    *_create_routes(),
    *_update_routes(),
    Route(
        "DELETE",
        "/v2.1/servers/{server_id}",
        changing.delete,
        _P + "servers:delete",
        success=204,
        errors=(403, 404, 409),
    ),
    act("os-start", changing.start, "servers:start"),
    act("os-stop", changing.stop, "servers:stop"),
    act("reboot", changing.reboot, "servers:reboot", _REBOOT),
    act("pause", changing.pause, "os-pause-server:pause"),
    act("unpause", changing.unpause, "os-pause-server:unpause"),
    act("suspend", changing.suspend, "os-suspend-server:suspend"),
    act("resume", changing.resume, "os-suspend-server:resume"),
    act("lock", changing.lock, "os-lock-server:lock", until=V(2, 72)),
    act("lock", changing.lock, "os-lock-server:lock", _LOCK, since=V(2, 73)),
    act("unlock", changing.unlock, "os-lock-server:unlock"),
    act("forceDelete", changing.force_delete, "os-deferred-delete:force"),
]
RULES = {_P + "os-deferred-delete:force": "rule:project_member_or_admin"}
