"""What an API answers, as schemas: exactly the fields that a microversion has.

A noun keeps its fields in one table and names it on its routes (``answer=one("keypair", KEY)``); the served document
shows it, and every answer in the functional tests is held against it. A route without ``answer`` answers with no body.
source of the fields: the API references' "Response" tables; the microversion history.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kilonova.http.microversion import Microversion, V

Json = dict[str, Any]
Describe = Callable[[Microversion], Json]
TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
TEXTS: Json = {"type": "array", "items": TEXT}
NUMBER: Json = {"type": "integer"}
NUMBER_OR_NULL: Json = {"type": ["integer", "null"]}
AMOUNT: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
TEXT_BY_NAME: Json = {"type": "object", "additionalProperties": TEXT}
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

    schema: Json | Describe
    since: int = 1
    until: int | None = None
    always: bool = True


Fields = Mapping[str, Field]


def shape(fields: Fields, version: Microversion) -> Json:
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


def plain(fields: Fields) -> Describe:
    """Describe an object that is the whole answer."""
    return lambda v: shape(fields, v)


def array(fields: Fields) -> Describe:
    """Describe a list of such objects, as a field of another."""
    return lambda v: {"type": "array", "items": shape(fields, v)}


def one(name: str, fields: Fields) -> Describe:
    """Describe ``{name: object}``."""
    return plain({name: Field(plain(fields))})


def many(name: str, fields: Fields, *, paged: int | None = None) -> Describe:
    """Describe ``{name: [object, …]}``. paged: the minor version from which ``<name>_links`` may follow."""
    found = {name: Field(array(fields))}
    if paged is not None:
        found[name + "_links"] = Field(LINKS, since=paged, always=False)
    return plain(found)
