"""Bodies and queries of flavors. source: compute API reference, "Flavors"; microversions 2.55, 2.75, 2.102."""

from kilonova.api.compute.schemas.common import BOOLEAN, EXACT_NAME, Json, wrap
from kilonova.api.compute.shared import COUNT, TEXT, many, query
from kilonova.http.schema import extend

DB_MAX_INT = 0x7FFFFFFF
POSITIVE: Json = {
    "type": ["integer", "string"],
    "pattern": "^[0-9]+$",
    "minimum": 1,
    "maximum": DB_MAX_INT,
}
NOT_NEGATIVE: Json = {**POSITIVE, "minimum": 0}
DESCRIPTION: Json = {
    "type": ["string", "null"],
    "minLength": 0,
    "maxLength": 65535,
    "pattern": r"^[^\x00-\x09\x0b-\x1f\x7f]*$",
}
_SORT_KEYS = [
    "created_at",
    "description",
    "disabled",
    "ephemeral_gb",
    "flavorid",
    "id",
    "is_public",
    "memory_mb",
    "name",
    "root_gb",
    "rxtx_factor",
    "swap",
    "updated_at",
    "vcpu_weight",
    "vcpus",
]
_C1 = wrap(
    "flavor",
    {
        "type": "object",
        "properties": {
            "name": EXACT_NAME,
            "id": {
                "type": ["string", "number", "null"],
                "minLength": 1,
                "maxLength": 255,
                "pattern": r"^(?! )[a-zA-Z0-9. _-]+(?<! )$",
            },
            "ram": POSITIVE,
            "vcpus": POSITIVE,
            "disk": NOT_NEGATIVE,
            "OS-FLV-EXT-DATA:ephemeral": NOT_NEGATIVE,
            "swap": NOT_NEGATIVE,
            "rxtx_factor": {
                "type": ["number", "string"],
                "pattern": r"^[0-9]+(\.[0-9]+)?$",
                "exclusiveMinimum": 0,
                "maximum": 3.40282e38,
            },
            "os-flavor-access:is_public": BOOLEAN,
        },
        "required": ["name", "ram", "vcpus", "disk"],
        "additionalProperties": False,
    },
)
_F = ("properties", "flavor")
_C55 = extend(_C1, at=_F, properties={"description": DESCRIPTION})
CREATE = {1: _C1, 55: _C55, 102: extend(_C55, at=_F, removed=("rxtx_factor",))}
UPDATE = wrap(
    "flavor",
    {
        "type": "object",
        "properties": {"description": DESCRIPTION},
        "required": ["description"],
        "additionalProperties": False,
    },
)
_LIST: Json = {
    "limit": many(COUNT),
    "marker": many(TEXT),
    "is_public": many(TEXT),
    "minRam": many(TEXT),
    "minDisk": many(TEXT),
    "sort_key": many({"type": "string", "enum": _SORT_KEYS}),
    "sort_dir": many({"type": "string", "enum": ["asc", "desc"]}),
}
_KEYS_102 = [k for k in _SORT_KEYS if k != "rxtx_factor"]
_LIST_102 = {**_LIST, "name": many(TEXT), "sort_key": many({"type": "string", "enum": _KEYS_102})}
LIST = {1: query(_LIST), 75: query(_LIST, strict=True), 102: query(_LIST_102, strict=True)}
EXTRA_SPECS: Json = {
    "type": "object",
    "patternProperties": {
        r"^[a-zA-Z0-9\-_:. ]{1,255}$": {"type": ["string", "number"], "maxLength": 255}
    },
    "additionalProperties": False,
}
ACCESS: Json = {
    "type": "object",
    "properties": {"tenant": {"type": "string", "minLength": 1, "maxLength": 255}},
    "required": ["tenant"],
    "additionalProperties": False,
}
