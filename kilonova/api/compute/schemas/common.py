"""Pieces of schemas that many requests share. source: compute API reference, and what Nova accepts and refuses."""

from typing import Any

Json = dict[str, Any]

# A name: 1 to 255 characters, not only white space, no control characters; trimmed by the handler.
NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^(?![\s]*$)[^\x00-\x1f\x7f]+$",
}
# The same without white space at its ends, where Nova refuses it instead of trimming.
EXACT_NAME: Json = {**NAME, "pattern": r"^(?!\s)(?!.*\s$)[^\x00-\x1f\x7f]+$"}
DESCRIPTION: Json = {"type": ["string", "null"], "maxLength": 255, "pattern": r"^[^\x00]*$"}
UUID: Json = {"type": "string", "format": "uuid"}
METADATA: Json = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. /]{1,255}$": {"type": "string", "maxLength": 255}},
    "additionalProperties": False,
}
BOOLEAN: Json = {
    "enum": [
        *(True, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes"),
        *(False, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no"),
    ]
}
TAG: Json = {"type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$"}
POSITIVE: Json = {
    "type": ["integer", "string"],
    "pattern": "^[0-9]*$",
    "minimum": 1,
    "minLength": 1,
}
HOSTNAME: Json = {
    "type": "string",
    "minLength": 2,
    "maxLength": 63,
    "pattern": r"^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$",
}
FQDN: Json = {
    "type": "string",
    "minLength": 2,
    "maxLength": 255,
    "pattern": r"^[a-zA-Z0-9]+[a-zA-Z0-9\-.]*[a-zA-Z0-9]+$",
}
NULL_BODY: Json = {"type": "null"}


def true(value: object) -> bool:
    """Read what BOOLEAN accepts."""
    return str(value).lower() in ("true", "1", "on", "yes")


def wrap(name: str, inner: Json, **also: Json) -> Json:
    """Return the schema of ``{name: inner}`` and nothing else (but ``also``)."""
    return {
        "type": "object",
        "properties": {name: inner, **also},
        "required": [name],
        "additionalProperties": False,
    }


def action(name: str, inner: Json | None = None) -> Json:
    """Return the schema of a server action; inner None takes any value, as Nova does for actions without a body."""
    return wrap(name, {} if inner is None else inner)
