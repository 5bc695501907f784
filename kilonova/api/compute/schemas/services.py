"""Bodies of compute services and hosts. source: compute API reference, "Compute services"; microversions 2.11, 2.53."""

from kilonova.api.compute.schemas.aggregates import HOSTNAME
from kilonova.api.compute.schemas.common import BOOLEAN, Json
from kilonova.http.schema import extend

_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": 255}
_U1: Json = {
    "type": "object",
    "properties": {"host": HOSTNAME, "binary": _TEXT, "disabled_reason": _TEXT},
    "required": ["host", "binary"],
    "additionalProperties": False,
}
_U11 = extend(_U1, properties={"forced_down": BOOLEAN})
_U53 = extend(
    _U11,
    removed=("host", "binary"),
    properties={"status": {"type": "string", "enum": ["enabled", "disabled"]}},
    required=(),
)
UPDATE = {1: _U1, 11: _U11, 53: _U53}
_SWITCH: Json = {
    "type": "string",
    "enum": ["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"],
}
HOST: Json = {
    "type": "object",
    "properties": {"status": _SWITCH, "maintenance_mode": _SWITCH},
    "anyOf": [{"required": ["status"]}, {"required": ["maintenance_mode"]}],
    "additionalProperties": False,
}
