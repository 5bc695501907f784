"""What the API answers about flavors, their extra specs and their access lists."""

from kilonova.api.compute.answers.servers import BASIC
from kilonova.http.answer import (
    FLAG,
    LINKS,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_BY_NAME,
    TEXT_OR_NULL,
    Describe,
    Field,
    Json,
    many,
    one,
    plain,
)
from kilonova.http.microversion import Microversion, V


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
LIST = many("flavors", {**BASIC, "description": Field(TEXT_OR_NULL, since=55)}, paged=1)
DETAIL = many("flavors", FLAVOR, paged=1)
SHOW = one("flavor", FLAVOR)

SPECS = plain({"extra_specs": Field(TEXT_BY_NAME)})
SPECS_MADE = plain({"extra_specs": Field(OBJECT)})  # the body as it was sent: numbers stay numbers
_SPEC: Json = {"type": "object", "minProperties": 1, "maxProperties": 1}
SPEC: Describe = lambda v: _SPEC  # noqa: E731
ACCESS = many("flavor_access", {"flavor_id": Field(TEXT), "tenant_id": Field(TEXT)})
