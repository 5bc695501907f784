"""Images, members and schemas as Glance's clients expect them, and the checks on what they send."""

from typing import Any

from kilonova.common.clock import iso
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row
from kilonova.http.schema import Schema
from kilonova.image.embedded.listing import STATUSES
from kilonova.image.inspect import DISK_FORMATS
from kilonova.objects.image import Image

CONTAINER_FORMATS = ("ami", "ari", "aki", "bare")
VISIBILITIES = ("community", "public", "private", "shared")
_UUID = r"^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
_INT = {"type": "integer", "minimum": 0, "maximum": 2147483647}

PROPERTIES: dict[str, dict[str, Any]] = {
    "id": {"type": "string", "pattern": _UUID, "description": "An identifier for the image"},
    "name": {"type": ["null", "string"], "maxLength": 255},
    "status": {"type": "string", "readOnly": True, "enum": list(STATUSES)},
    "visibility": {"type": "string", "enum": list(VISIBILITIES)},
    "protected": {"type": "boolean"},
    "os_hidden": {"type": "boolean"},
    "checksum": {"type": ["null", "string"], "readOnly": True, "maxLength": 32},
    "os_hash_algo": {"type": ["null", "string"], "readOnly": True, "maxLength": 64},
    "os_hash_value": {"type": ["null", "string"], "readOnly": True, "maxLength": 128},
    "owner": {"type": ["null", "string"], "maxLength": 255},
    "size": {"type": ["null", "integer"], "readOnly": True},
    "virtual_size": {"type": ["null", "integer"], "readOnly": True},
    "container_format": {"type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]},
    "disk_format": {"type": ["null", "string"], "enum": [None, *DISK_FORMATS]},
    "created_at": {"type": "string", "readOnly": True},
    "updated_at": {"type": "string", "readOnly": True},
    "tags": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 255},
        "maxItems": 1000,
    },
    "direct_url": {"type": "string", "readOnly": True},
    "min_ram": {**_INT, "description": "Amount of ram (in MB) required to boot image."},
    "min_disk": {**_INT, "description": "Amount of disk space (in GB) required to boot image."},
    "self": {"type": "string", "readOnly": True},
    "file": {"type": "string", "readOnly": True},
    "schema": {"type": "string", "readOnly": True},
    "locations": {"type": "array", "readOnly": True},
}
READ_ONLY = frozenset(n for n, p in PROPERTIES.items() if p.get("readOnly"))
_EXTRA = {"type": "string", "maxLength": 65535}
IMAGE_SCHEMA: dict[str, Any] = {
    "name": "image",
    "properties": PROPERTIES,
    "additionalProperties": {"type": "string"},
    "links": [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}
IMAGES_SCHEMA: dict[str, Any] = {
    "name": "images",
    "properties": {
        "images": {"type": "array", "items": IMAGE_SCHEMA},
        "first": {"type": "string"},
        "next": {"type": "string"},
        "schema": {"type": "string"},
    },
    "links": [
        {"rel": "first", "href": "{first}"},
        {"rel": "next", "href": "{next}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}
MEMBER_SCHEMA: dict[str, Any] = {
    "name": "member",
    "properties": {
        "member_id": {"type": "string"},
        "image_id": {"type": "string", "pattern": _UUID},
        "created_at": {"type": "string"},
        "updated_at": {"type": "string"},
        "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]},
        "schema": {"type": "string", "readOnly": True},
    },
}
MEMBERS_SCHEMA: dict[str, Any] = {
    "name": "members",
    "properties": {
        "members": {"type": "array", "items": MEMBER_SCHEMA},
        "schema": {"type": "string"},
    },
    "links": [{"rel": "describedby", "href": "{schema}"}],
}
WRITABLE = Schema(
    {
        "type": "object",
        "properties": {n: p for n, p in PROPERTIES.items() if n not in READ_ONLY},
        "additionalProperties": _EXTRA,
        "propertyNames": {"minLength": 1, "maxLength": 255},
    }
)
_FIELD_OF = {"os_hidden": "hidden"}


def check_body(body: dict[str, Any]) -> None:
    """Raise BadRequest that names the first property which is not as it must be."""
    WRITABLE.check(body)
    for name in body:
        if any(ord(ch) < 32 for ch in name):
            raise BadRequest("A property's name has a control character in it.")


def with_body(image: Image, body: dict[str, Any]) -> Image:
    """Return the image with a checked body laid over it; what is not a field is a property."""
    fields: dict[str, Any] = {}
    properties = dict(image.properties)
    for name, value in body.items():
        if name == "tags":
            fields["tags"] = tuple(sorted(set(value)))
        elif name in PROPERTIES:
            fields[_FIELD_OF.get(name, name)] = value
        else:
            properties[name] = value
    return image.replace(**fields, properties=properties)


def show(image: Image) -> dict[str, Any]:
    """Return Glance's form of an image."""
    path = f"/v2/images/{image.id}"
    return {
        **image.properties,
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "protected": image.protected,
        "os_hidden": image.hidden,
        "checksum": image.checksum,
        "os_hash_algo": image.os_hash_algo,
        "os_hash_value": image.os_hash_value,
        "owner": image.owner,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "min_ram": image.min_ram,
        "min_disk": image.min_disk,
        "created_at": iso(image.created_at),
        "updated_at": iso(image.updated_at),
        "tags": list(image.tags),
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }


def show_member(row: Row) -> dict[str, Any]:
    """Return Glance's form of one membership."""
    return {
        "member_id": row["member_id"],
        "image_id": row["image_id"],
        "status": row["status"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "schema": "/v2/schemas/member",
    }
