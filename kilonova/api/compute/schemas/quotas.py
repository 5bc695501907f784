"""Bodies and queries of quotas. source: compute API reference, "Quota sets"; microversions 2.36, 2.50, 2.57, 2.75."""

from collections.abc import Iterable

from kilonova.api.compute.schemas.common import BOOLEAN, Json, wrap
from kilonova.api.compute.shared import TEXT, many, query
from kilonova.http.schema import extend

_LIMIT: Json = {
    "type": ["integer", "string"],
    "pattern": "^-?[0-9]+$",
    "minimum": -1,
    "maximum": 0x7FFFFFFF,
}
NETWORK = ("fixed_ips", "floating_ips", "security_group_rules", "security_groups")
FILES = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
OWN = (
    "cores",
    "instances",
    "key_pairs",
    "metadata_items",
    "ram",
    "server_groups",
    "server_group_members",
)


def _object(names: tuple[str, ...], **more: Json) -> Json:
    return {
        "type": "object",
        "properties": {**dict.fromkeys(names, _LIMIT), **more},
        "additionalProperties": False,
    }


_U1 = wrap("quota_set", _object((*OWN, *FILES, *NETWORK), force=BOOLEAN))
_U36 = extend(_U1, at=("properties", "quota_set"), removed=NETWORK)
UPDATE = {1: _U1, 36: _U36, 57: extend(_U36, at=("properties", "quota_set"), removed=FILES)}
_K1 = wrap("quota_class_set", _object((*OWN, *FILES, *NETWORK)))
_K50 = extend(_K1, at=("properties", "quota_class_set"), removed=NETWORK)
CLASS = {1: _K1, 50: _K50, 57: extend(_K50, at=("properties", "quota_class_set"), removed=FILES)}
_USER = {"user_id": many(TEXT)}
BY_USER = {1: query(_USER), 75: query(_USER, strict=True)}


def _lost(root: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"/{root}/{n}" for n in names)


UPDATE_LOST = {36: _lost("quota_set", NETWORK), 57: _lost("quota_set", FILES)}
CLASS_LOST = {50: _lost("quota_class_set", NETWORK), 57: _lost("quota_class_set", FILES)}
