"""Bodies and queries of key pairs. source: compute API reference, "Keypairs"; changes: 2.2, 2.10, 2.35, 2.75, 2.92."""

from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.shared import PAGING, TEXT, many, query
from kilonova.http.schema import extend

_NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^(?! )[_\- a-zA-Z0-9]+(?<! )$",
}
_NAME_92: Json = {**_NAME, "pattern": r"^(?! )[_\-@. a-zA-Z0-9]+(?<! )$"}
_K = ("properties", "keypair")
_C1 = wrap(
    "keypair",
    {
        "type": "object",
        "properties": {"name": _NAME, "public_key": {"type": "string", "maxLength": 65535}},
        "required": ["name"],
        "additionalProperties": False,
    },
)
_C2 = extend(_C1, at=_K, properties={"type": {"type": "string", "enum": ["ssh", "x509"]}})
_C10 = extend(
    _C2, at=_K, properties={"user_id": {"type": "string", "minLength": 1, "maxLength": 255}}
)
_C92 = extend(_C10, at=_K, properties={"name": _NAME_92}, required=("name", "public_key"))
CREATE = {1: _C1, 2: _C2, 10: _C10, 92: _C92}
_USER = {"user_id": many(TEXT)}
ONE = {1: query(), 10: query(_USER), 75: query(_USER, strict=True)}
LIST = {
    1: query(),
    10: query(_USER),
    35: query(_USER | PAGING),
    75: query(_USER | PAGING, strict=True),
}
