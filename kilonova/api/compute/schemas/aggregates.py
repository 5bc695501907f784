"""Bodies of aggregates. source: compute API reference, "Host aggregates"; microversion 2.81."""

from kilonova.api.compute.schemas.common import EXACT_NAME, NAME, UUID, Json, wrap

_ZONE: Json = {
    "oneOf": [
        {**NAME, "pattern": r"^(?! )(?!.* $)[^:\x00-\x1f\x7f]+$"},
        {"type": "null"},
    ]
}
_FIELDS: Json = {"name": NAME, "availability_zone": _ZONE}
CREATE = wrap(
    "aggregate",
    {
        "type": "object",
        "properties": {**_FIELDS, "name": EXACT_NAME},
        "required": ["name"],
        "additionalProperties": False,
    },
)
UPDATE = wrap(
    "aggregate",
    {
        "type": "object",
        "properties": _FIELDS,
        "anyOf": [{"required": ["name"]}, {"required": ["availability_zone"]}],
        "additionalProperties": False,
    },
)
HOSTNAME: Json = {
    "type": "string",
    "pattern": r"^[a-zA-Z0-9\-._]*$",
    "minLength": 1,
    "maxLength": 255,
}
HOST: Json = {
    "type": "object",
    "properties": {"host": HOSTNAME},
    "required": ["host"],
    "additionalProperties": False,
}
METADATA: Json = {
    "type": "object",
    "properties": {
        "metadata": {
            "type": "object",
            "patternProperties": {
                r"^[a-zA-Z0-9\-_:. ]{1,255}$": {"type": ["string", "null"], "maxLength": 255}
            },
            "additionalProperties": False,
        }
    },
    "required": ["metadata"],
    "additionalProperties": False,
}
IMAGES = wrap(
    "cache",
    {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"id": UUID},
            "required": ["id"],
            "additionalProperties": False,
        },
    },
)
