"""Bodies of server groups. source: compute API reference, "Server groups"; microversions 2.15, 2.64."""

from typing import Any

from kilonova.api.compute.schemas.common import EXACT_NAME, POSITIVE, Json, wrap
from kilonova.http.schema import extend

_HARD = ["anti-affinity", "affinity"]
_ALL = [*_HARD, "soft-anti-affinity", "soft-affinity"]


def _policies(allowed: list[str]) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string", "enum": allowed},
        "minItems": 1,
        "maxItems": 1,
        "uniqueItems": True,
    }


_G = ("properties", "server_group")
_C1: Json = wrap(
    "server_group",
    {
        "type": "object",
        "properties": {"name": EXACT_NAME, "policies": _policies(_HARD)},
        "required": ["name", "policies"],
        "additionalProperties": False,
    },
)
_C15 = extend(_C1, at=_G, properties={"policies": _policies(_ALL)})
_RULES: Json = {
    "type": "object",
    "properties": {"max_server_per_host": POSITIVE},
    "additionalProperties": False,
}
_C64 = extend(
    _C15,
    at=_G,
    removed=("policies",),
    properties={"policy": {"type": "string", "enum": _ALL}, "rules": _RULES},
    required=("name", "policy"),
)
CREATE = {1: _C1, 15: _C15, 64: _C64}
