"""POST /servers from 2.1 to 2.104, each microversion a delta on the one before (TAG-1, TAG-2, TAG-6).

The truth table of device tags: networks[].tag from 2.32, gone in 2.37-2.41; block_device_mapping_v2[].tag in 2.32 only,
then from 2.42 again.
"""

from typing import Any

from kilonova.api.compute.schemas.common import (
    BOOLEAN,
    DESCRIPTION,
    FQDN,
    HOSTNAME,
    METADATA,
    NAME,
    POSITIVE,
    TAG,
    UUID,
    Json,
)
from kilonova.http.microversion import Microversion, V
from kilonova.http.schema import Schema, extend

_NETWORK: Json = {
    "type": "object",
    "properties": {
        "fixed_ip": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
        "port": {"type": ["string", "null"], "format": "uuid"},
        "uuid": UUID,
    },
    "additionalProperties": False,
}
_BDM: Json = {
    "type": "object",
    "properties": {
        "virtual_name": {"type": "string", "maxLength": 255},
        "volume_id": UUID,
        "snapshot_id": UUID,
        "volume_size": {
            "type": ["integer", "string"],
            "pattern": "^[0-9]+$",
            "minimum": 1,
            "maximum": 2147483647,
        },
        "device_name": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": "^[a-zA-Z0-9._/-]*$",
        },
        "delete_on_termination": BOOLEAN,
        "no_device": {},
        "connection_info": {"type": "string", "maxLength": 16777215},
    },
    "additionalProperties": False,
}
_BDM_V2: Json = {
    "type": "object",
    "properties": {
        **_BDM["properties"],
        "source_type": {"type": "string", "enum": ["volume", "image", "snapshot", "blank"]},
        "uuid": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": "^[a-zA-Z0-9._-]*$",
        },
        "image_id": UUID,
        "destination_type": {"type": "string", "enum": ["local", "volume"]},
        "guest_format": {"type": "string", "maxLength": 255},
        "device_type": {"type": "string", "maxLength": 255},
        "disk_bus": {"type": "string", "maxLength": 255},
        "boot_index": {"type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$"},
    },
    "additionalProperties": False,
}
_HINT_LIST: Json = {
    "oneOf": [
        {"type": "string", "format": "uuid"},
        {"type": "array", "items": UUID, "uniqueItems": True},
    ]
}
_HINTS: Json = {
    "type": "object",
    "properties": {
        "group": UUID,
        "different_host": _HINT_LIST,
        "same_host": _HINT_LIST,
        "query": {"type": ["string", "object", "array"]},
        "target_cell": {"type": "string", "minLength": 1, "maxLength": 255},
        "different_cell": {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
        },
        "build_near_host_ip": {"type": "string", "format": "ipv4"},
        "cidr": {"type": "string", "pattern": r"^/[0-9a-f.:]+$"},
    },
    "additionalProperties": True,
}
_PERSONALITY: Json = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "contents": {"type": "string"}},
        "additionalProperties": False,
    },
}
_SERVER: Json = {
    "type": "object",
    "properties": {
        "name": NAME,
        "imageRef": {"oneOf": [UUID, {"type": "string", "maxLength": 0}]},
        "flavorRef": {"type": ["string", "integer"], "minLength": 1},
        "adminPass": {"type": "string", "maxLength": 255},
        "metadata": METADATA,
        "networks": {"type": "array", "items": _NETWORK},
        "OS-DCF:diskConfig": {"type": "string", "enum": ["AUTO", "MANUAL"]},
        "accessIPv4": {"type": "string", "format": "ipv4"},
        "accessIPv6": {"type": "string", "format": "ipv6"},
        "personality": _PERSONALITY,
        "availability_zone": NAME,
        "block_device_mapping": {"type": "array", "items": _BDM},
        "block_device_mapping_v2": {"type": "array", "items": _BDM_V2},
        "config_drive": BOOLEAN,
        "key_name": NAME,
        "min_count": POSITIVE,
        "max_count": POSITIVE,
        "return_reservation_id": BOOLEAN,
        "security_groups": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 255}},
                "additionalProperties": False,
            },
        },
        "user_data": {"type": "string", "format": "base64", "maxLength": 65535},
    },
    "required": ["name", "flavorRef"],
    "additionalProperties": False,
}
_FIRST: Json = {
    "type": "object",
    "properties": {
        "server": _SERVER,
        "os:scheduler_hints": _HINTS,
        "OS-SCH-HNT:scheduler_hints": _HINTS,
    },
    "required": ["server"],
    "additionalProperties": False,
}
_S = ("properties", "server")
_NET_ITEM = (*_S, "properties", "networks", "items")
_BDM_ITEM = (*_S, "properties", "block_device_mapping_v2", "items")


def _versions() -> list[tuple[Microversion, Json]]:
    out = [(V(2, 1), _FIRST)]

    def change(minor: int, document: Json) -> None:
        out.append((V(2, minor), document))

    def last() -> Json:
        return out[-1][1]

    change(19, extend(last(), at=_S, properties={"description": DESCRIPTION}))
    tagged = extend(last(), at=_NET_ITEM, properties={"tag": TAG})
    change(32, extend(tagged, at=_BDM_ITEM, properties={"tag": TAG}))
    change(33, extend(last(), at=_BDM_ITEM, removed=("tag",)))
    strict = extend(last(), at=_NET_ITEM, removed=("tag",))
    networks = {
        "oneOf": [
            strict["properties"]["server"]["properties"]["networks"],
            {"type": "string", "enum": ["none", "auto"]},
        ]
    }
    change(
        37,
        extend(
            strict,
            at=_S,
            properties={"networks": networks},
            required=("name", "flavorRef", "networks"),
        ),
    )
    item = (*_S, "properties", "networks", "oneOf", 0, "items")
    tagged = extend(last(), at=item, properties={"tag": TAG})
    change(42, extend(tagged, at=_BDM_ITEM, properties={"tag": TAG}))
    tags = {"type": "array", "items": TAG, "maxItems": 50}
    change(52, extend(last(), at=_S, properties={"tags": tags}))
    change(57, extend(last(), at=_S, removed=("personality",)))
    certs = {
        "type": ["array", "null"],
        "minItems": 1,
        "maxItems": 50,
        "uniqueItems": True,
        "items": {"type": "string", "minLength": 1},
    }
    change(63, extend(last(), at=_S, properties={"trusted_image_certificates": certs}))
    volume_type = {"type": ["string", "null"], "minLength": 0, "maxLength": 255}
    change(67, extend(last(), at=_BDM_ITEM, properties={"volume_type": volume_type}))
    place = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9-._]*$"}
    change(74, extend(last(), at=_S, properties={"host": place, "hypervisor_hostname": place}))
    change(90, extend(last(), at=_S, properties={"hostname": HOSTNAME}))
    change(94, extend(last(), at=_S, properties={"hostname": FQDN}))
    return out


VERSIONS: list[tuple[Microversion, Schema]] = [(v, Schema(d)) for v, d in _versions()]
REMOVED = {  # minor version -> what ends there
    33: ("/server/block_device_mapping_v2[]/tag",),
    37: ("/server/networks[]/tag",),
    57: ("/server/personality",),
}


def schema_at(version: Microversion) -> Schema:
    """Return the schema of POST /servers at a microversion."""
    found: Any = None
    for since, schema in VERSIONS:
        if version >= since:
            found = schema
    result: Schema = found
    return result
