"""rebuild: make a server anew on its host, of the same or of another image, from 2.1 to 2.104."""

import secrets
from typing import Any

import msgspec

from kilonova.api.compute.answers import servers as a
from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import (
    BOOLEAN,
    DESCRIPTION,
    FQDN,
    HOSTNAME,
    METADATA,
    NAME,
    UUID,
    Json,
    true,
    wrap,
)
from kilonova.api.compute.servers.changing import keep_disk_config, shown
from kilonova.api.compute.servers.creating import canonical
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.servers.reading import find
from kilonova.api.compute.shared import R, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.schema import extend
from kilonova.operations import metadata, server_rebuild

_RULE = R + "servers:rebuild"
_CERTS = _RULE + ":trusted_certs"
_COLUMNS = {  # field -> column
    "name": "name",
    "description": "description",
    "hostname": "hostname",
    "metadata": "metadata",
    "accessIPv4": "access_ip_v4",
    "accessIPv6": "access_ip_v6",
}


def rebuild(req: Request) -> Any:
    """Make a server anew: its root disk from the image, its record as asked for."""
    server, asked = found(req, _RULE), req.body["rebuild"]
    if asked.get("personality"):
        raise BadRequest("personality: file injection is not supported; use user_data.")
    columns: dict[str, Any] = {c: asked[f] for f, c in _COLUMNS.items() if f in asked}
    if "name" in columns:
        columns["name"] = columns["name"].strip()
    for column in ("access_ip_v4", "access_ip_v6"):
        if column in columns:
            columns[column] = canonical(columns[column])
    if "trusted_image_certificates" in asked:
        req.authorize(_CERTS)
        certs = asked["trusted_image_certificates"]
        columns["trusted_certs"] = msgspec.json.encode(certs).decode()
    password = asked.get("adminPass") or secrets.token_urlsafe(9)
    changed = server_rebuild.start(
        req.cloud,
        req.ctx,
        server,
        server_rebuild.Rebuild(
            image_ref=asked["imageRef"],
            admin_password=password,
            columns=columns,
            preserve_ephemeral=true(asked.get("preserve_ephemeral", False)),
            key_name=(asked["key_name"] or "") if "key_name" in asked else None,
            user_data=(asked["user_data"] or "") if "user_data" in asked else None,
            reimage=req.version >= V(2, 93),
        ),
    )
    keep_disk_config(req, server, asked)
    if server.row is not None:  # as it was accepted, however soon it is done
        changed |= {"vm_state": server.row["vm_state"], "task_state": "rebuilding"}
    return _told(req, server.id, changed, password)


def _told(req: Request, server_id: str, changed: dict[str, Any], password: str) -> Response:
    """Answer with the server as it will be, being rebuilt."""
    row = find(req, server_id)
    new = {**dict(row), **changed, "user_data": row["user_data"]}
    out = shown(req, new, frozenset(("key_name",)) if req.version >= V(2, 54) else frozenset())
    out["adminPass"] = password
    out.pop("OS-EXT-SRV-ATTR:user_data", None)  # a rebuild shows it as user_data
    if req.version >= V(2, 57):
        asked = req.body["rebuild"]
        kept = asked if "user_data" in asked else metadata.user_data_of(req.cloud, [row])
        out["user_data"] = kept.get("user_data" if "user_data" in asked else server_id)
    return Response({"server": out}, headers={"Location": req.url("v2.1", "servers", server_id)})


_PERSONALITY: Json = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "contents": {"type": "string"}},
        "additionalProperties": False,
    },
}
_FIRST: Json = wrap(
    "rebuild",
    {
        "type": "object",
        "properties": {
            "name": NAME,
            "imageRef": UUID,
            "adminPass": {"type": "string", "maxLength": 255},
            "metadata": METADATA,
            "preserve_ephemeral": BOOLEAN,
            "OS-DCF:diskConfig": {"type": "string", "enum": ["AUTO", "MANUAL"]},
            "accessIPv4": {"type": "string", "format": "ipv4"},
            "accessIPv6": {"type": "string", "format": "ipv6"},
            "personality": _PERSONALITY,
        },
        "required": ["imageRef"],
        "additionalProperties": False,
    },
)
_AT = ("properties", "rebuild")
_KEY: Json = {**NAME, "type": ["string", "null"]}
_DATA: Json = {"type": ["string", "null"], "format": "base64", "maxLength": 65535}
_CERT_LIST: Json = {
    "type": ["array", "null"],
    "minItems": 1,
    "maxItems": 50,
    "uniqueItems": True,
    "items": {"type": "string", "minLength": 1},
}


def _bodies() -> dict[int, Json | None]:
    b19 = extend(_FIRST, at=_AT, properties={"description": DESCRIPTION})
    b54 = extend(b19, at=_AT, properties={"key_name": _KEY})
    b57 = extend(b54, at=_AT, properties={"user_data": _DATA}, removed=("personality",))
    b63 = extend(b57, at=_AT, properties={"trusted_image_certificates": _CERT_LIST})
    b90 = extend(b63, at=_AT, properties={"hostname": HOSTNAME})
    b94 = extend(b90, at=_AT, properties={"hostname": FQDN})
    return {1: _FIRST, 19: b19, 54: b54, 57: b57, 63: b63, 90: b90, 94: b94}


ROUTES = versioned(
    "POST",
    "/servers/{server_id}/action",
    rebuild,
    _RULE,
    bodies=_bodies(),
    action="rebuild",
    success=202,
    errors=(400, 403, 404, 409, 501),
    answer=a.REBUILD,
    removed={57: ("/rebuild/personality",)},
)
RULES = {_RULE: MEMBER, _CERTS: MEMBER}
