"""What the compute API answers, as schemas: exactly the fields that a microversion has. For the API document.

A field has the version that brings it, the one that takes it away if any, and whether everybody sees it always.
source: compute API reference, "Response" tables; microversion history.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kilonova.http.microversion import Microversion, V

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
NUMBER: Json = {"type": "integer"}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
LINKS: Json = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"rel": TEXT, "href": TEXT, "type": TEXT},
        "required": ["rel", "href"],
        "additionalProperties": False,
    },
}


class Field(NamedTuple):
    """One field. since, until: minor versions of 2.x. always: everybody sees it, whatever the state."""

    schema: Json | Callable[[Microversion], Json]
    since: int = 1
    until: int | None = None
    always: bool = True


def shape(fields: dict[str, Field], version: Microversion) -> Json:
    """Return the schema of an object that has exactly ``fields`` as they are at ``version``."""
    props, required = {}, []
    for name, f in fields.items():
        if not version.between(V(2, f.since), None if f.until is None else V(2, f.until)):
            continue
        props[name] = f.schema(version) if callable(f.schema) else f.schema
        if f.always:
            required.append(name)
    return {
        "type": "object",
        "properties": props,
        "required": required,
        "additionalProperties": False,
    }


def _one(name: str, fields: dict[str, Field]) -> Callable[[Microversion], Json]:
    return lambda v: shape({name: Field(shape(fields, v))}, v)


def _many(name: str, fields: dict[str, Field]) -> Callable[[Microversion], Json]:
    def describe(v: Microversion) -> Json:
        items = {"type": "array", "items": shape(fields, v)}
        return shape({name: Field(items), name + "_links": Field(LINKS, always=False)}, v)

    return describe


def _image(v: Microversion) -> Json:
    fields = {"id": Field(TEXT), "links": Field(LINKS), "properties": Field(OBJECT, since=98)}
    return {"anyOf": [shape(fields, v), {"type": "string", "maxLength": 0}]}


def _flavor_of_server(v: Microversion) -> Json:
    fields = {
        "id": Field(TEXT, until=46),
        "links": Field(LINKS, until=46),
        **{n: Field(NUMBER, since=47) for n in ("vcpus", "ram", "disk", "ephemeral", "swap")},
        "original_name": Field(TEXT, since=47),
        "extra_specs": Field(OBJECT, since=47, always=False),
    }
    return shape(fields, v)


def _volumes(v: Microversion) -> Json:
    fields = {"id": Field(TEXT), "delete_on_termination": Field(FLAG, since=3)}
    return {"type": "array", "items": shape(fields, v)}


_FAULT = {
    "code": Field(NUMBER),
    "message": Field(TEXT),
    "created": Field(TEXT),
    "details": Field(TEXT, always=False),
}
_NAMED_LIST: Json = {
    "type": "array",
    "items": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
}
_TEXTS: Json = {"type": "array", "items": TEXT}
_ATTR = "OS-EXT-SRV-ATTR:"
LISTED: dict[str, Field] = {
    "id": Field(TEXT),
    "name": Field(TEXT),
    "status": Field(TEXT),
    "tenant_id": Field(TEXT),
    "user_id": Field(TEXT),
    "metadata": Field(OBJECT),
    "hostId": Field(TEXT),
    "image": Field(_image),
    "flavor": Field(_flavor_of_server),
    "created": Field(TEXT),
    "updated": Field(TEXT),
    "addresses": Field(OBJECT),
    "accessIPv4": Field(TEXT),
    "accessIPv6": Field(TEXT),
    "links": Field(LINKS),
    "OS-DCF:diskConfig": Field({"enum": ["AUTO", "MANUAL"]}),
    "progress": Field(NUMBER, always=False),
    "fault": Field(lambda v: shape(_FAULT, v), always=False),
    "OS-EXT-AZ:availability_zone": Field(TEXT),
    "config_drive": Field({"enum": ["", "True"]}),
    "key_name": Field(TEXT_OR_NULL),
    "OS-SRV-USG:launched_at": Field(TEXT_OR_NULL),
    "OS-SRV-USG:terminated_at": Field(TEXT_OR_NULL),
    "security_groups": Field(_NAMED_LIST, always=False),
    "OS-EXT-STS:task_state": Field(TEXT_OR_NULL),
    "OS-EXT-STS:vm_state": Field(TEXT),
    "OS-EXT-STS:power_state": Field(NUMBER),
    "os-extended-volumes:volumes_attached": Field(_volumes),
    _ATTR + "host": Field(TEXT_OR_NULL, always=False),
    _ATTR + "hypervisor_hostname": Field(TEXT_OR_NULL, always=False),
    _ATTR + "instance_name": Field(TEXT, always=False),
    _ATTR + "hostname": Field(TEXT, since=3, always=False),
    _ATTR + "reservation_id": Field(TEXT, since=3, always=False),
    _ATTR + "launch_index": Field(NUMBER, since=3, always=False),
    _ATTR + "root_device_name": Field(TEXT_OR_NULL, since=3, always=False),
    _ATTR + "kernel_id": Field(TEXT, since=3, always=False),
    _ATTR + "ramdisk_id": Field(TEXT, since=3, always=False),
    _ATTR + "user_data": Field(TEXT_OR_NULL, since=3, always=False),
    "locked": Field(FLAG, since=9),
    "host_status": Field(TEXT, since=16, always=False),
    "description": Field(TEXT_OR_NULL, since=19),
    "tags": Field(_TEXTS, since=26),
    "trusted_image_certificates": Field({"type": ["array", "null"], "items": TEXT}, since=63),
    "locked_reason": Field(TEXT_OR_NULL, since=73),
    "pinned_availability_zone": Field(TEXT_OR_NULL, since=96),
    "scheduler_hints": Field(OBJECT, since=100),
}
SHOWN = {**LISTED, "server_groups": Field(_TEXTS, since=71)}
BASIC = {"id": Field(TEXT), "name": Field(TEXT), "links": Field(LINKS)}
_LATE_IN_UPDATE = ("OS-DCF:diskConfig", "locked", "description", "tags")
_LATER_IN_UPDATE = ("trusted_image_certificates", "locked_reason")
_EARLY = tuple(LISTED)[:15]


def _updated(v: Microversion) -> Json:
    """PUT answers with few fields before 2.75, and like GET from then on."""
    fields = SHOWN
    if not v >= V(2, 75):
        kept = (*_EARLY, "progress", "fault", *_LATE_IN_UPDATE, *_LATER_IN_UPDATE)
        fields = {k: f for k, f in SHOWN.items() if k in kept}
    return _one("server", fields)(v)


CREATED: Json = {
    "type": "object",
    "properties": {
        "server": {
            "type": "object",
            "properties": {
                "id": TEXT,
                "links": LINKS,
                "OS-DCF:diskConfig": {"enum": ["AUTO", "MANUAL"]},
                "security_groups": _NAMED_LIST,
                "adminPass": TEXT,
            },
            "required": ["id", "links", "OS-DCF:diskConfig", "security_groups"],
            "additionalProperties": False,
        },
        "reservation_id": TEXT,
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}


def _swap(v: Microversion) -> Json:
    if v >= V(2, 75):
        return NUMBER
    return {"anyOf": [NUMBER, {"type": "string", "maxLength": 0}]}


_FACTOR: Json = {"anyOf": [{"type": "number"}, {"type": "string", "maxLength": 0}]}
FLAVOR = {
    "id": Field(TEXT),
    "name": Field(TEXT),
    "ram": Field(NUMBER),
    "disk": Field(NUMBER),
    "swap": Field(_swap),
    "OS-FLV-EXT-DATA:ephemeral": Field(NUMBER),
    "vcpus": Field(NUMBER),
    "os-flavor-access:is_public": Field(FLAG),
    "links": Field(LINKS),
    "OS-FLV-DISABLED:disabled": Field(FLAG, until=101),
    "rxtx_factor": Field(_FACTOR, until=101),
    "description": Field(TEXT_OR_NULL, since=55),
    "extra_specs": Field(OBJECT, since=61, always=False),
}
FLAVOR_BASIC = {**BASIC, "description": Field(TEXT_OR_NULL, since=55)}
KEY = {
    "name": Field(TEXT),
    "public_key": Field(TEXT),
    "fingerprint": Field(TEXT),
    "type": Field({"enum": ["ssh", "x509"]}, since=2),
}
KEY_SHOWN = {
    **KEY,
    "user_id": Field(TEXT),
    "created_at": Field(TEXT),
    "deleted": Field(FLAG),
    "deleted_at": Field(TEXT_OR_NULL),
    "id": Field(NUMBER),
    "updated_at": Field(TEXT_OR_NULL),
}
KEY_MADE = {**KEY, "user_id": Field(TEXT), "private_key": Field(TEXT, until=91, always=False)}


def _keys(v: Microversion) -> Json:
    item = shape({"keypair": Field(shape(KEY, v))}, v)
    listed = Field({"type": "array", "items": item})
    return shape({"keypairs": listed, "keypairs_links": Field(LINKS, since=35, always=False)}, v)


_VERSION = {
    "id": Field(TEXT),
    "status": Field(TEXT),
    "version": Field(TEXT),
    "min_version": Field(TEXT),
    "updated": Field(TEXT),
    "links": Field(LINKS),
    "media-types": Field({"type": "array", "items": OBJECT}, always=False),
}
_S = "/v2.1/servers"
_F = "/v2.1/flavors"
_K = "/v2.1/os-keypairs"
ANSWERS: dict[tuple[str, str], Callable[[Microversion], Json]] = {
    ("GET", "/v2.1"): _one("version", _VERSION),
    ("GET", _S): _many("servers", BASIC),
    ("POST", _S): lambda v: CREATED,
    ("GET", _S + "/detail"): _many("servers", LISTED),
    ("GET", _S + "/{server_id}"): _one("server", SHOWN),
    ("PUT", _S + "/{server_id}"): _updated,
    ("GET", _F): _many("flavors", FLAVOR_BASIC),
    ("GET", _F + "/detail"): _many("flavors", FLAVOR),
    ("GET", _F + "/{flavor_id}"): _one("flavor", FLAVOR),
    ("POST", _F): _one("flavor", FLAVOR),
    ("PUT", _F + "/{flavor_id}"): _one("flavor", FLAVOR),
    ("GET", _K): _keys,
    ("POST", _K): _one("keypair", KEY_MADE),
    ("GET", _K + "/{name}"): _one("keypair", KEY_SHOWN),
}
