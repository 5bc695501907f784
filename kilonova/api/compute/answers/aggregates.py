"""What the API answers about aggregates and availability zones."""

from kilonova.http.answer import (
    FLAG,
    NUMBER,
    TEXT,
    TEXT_BY_NAME,
    TEXT_OR_NULL,
    TEXTS,
    Field,
    Json,
    many,
    one,
    plain,
)
from kilonova.http.microversion import Microversion

_BASIC = {
    "id": Field(NUMBER),
    "name": Field(TEXT),
    "availability_zone": Field(TEXT_OR_NULL),
    "created_at": Field(TEXT),
    "updated_at": Field(TEXT_OR_NULL),
    "deleted": Field(FLAG),
    "deleted_at": Field(TEXT_OR_NULL),
    "uuid": Field(TEXT, since=41),
}
_WHOLE = {**_BASIC, "hosts": Field(TEXTS), "metadata": Field(TEXT_BY_NAME)}
LIST = many("aggregates", _WHOLE)
SHOW = one("aggregate", _WHOLE)
CREATE = one("aggregate", _BASIC)

_UP = {"available": Field(FLAG), "active": Field(FLAG), "updated_at": Field(TEXT_OR_NULL)}


def _hosts(v: Microversion) -> Json:
    """Host -> service -> how it is; null when the zone is not available."""
    services = {"type": "object", "additionalProperties": plain(_UP)(v)}
    return {"type": ["object", "null"], "additionalProperties": services}


_STATE = Field(plain({"available": Field(FLAG)}))
_ZONE = {"zoneName": Field(TEXT), "zoneState": _STATE}
ZONES = many("availabilityZoneInfo", {**_ZONE, "hosts": Field({"type": "null"})})
ZONES_DETAIL = many("availabilityZoneInfo", {**_ZONE, "hosts": Field(_hosts)})
