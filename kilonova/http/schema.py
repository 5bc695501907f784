"""JSON Schema: jsonschema-rs decides, jsonschema words the refusal (as Nova words it); schemas change by deltas.

A microversion's schema is the previous one plus a delta. A property that vanishes between neighbours must be named in
``removed``; otherwise building the schema fails at import (TAG-6: a copied schema once lost ``tag``).
"""

import base64
import copy
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jsonschema_rs

from kilonova.common.clock import parse_iso
from kilonova.common.errors import BadRequest
from kilonova.common.ids import is_uuid
from kilonova.common.log import SECRET_KEY

Json = dict[str, Any]


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        parse_iso(text)
    except ValueError:
        return False
    return True


FORMATS: dict[str, Callable[[str], bool]] = {
    "uuid": is_uuid,
    "ipv4": lambda text: _is_address(text, 4),
    "ipv6": lambda text: _is_address(text, 6),
    "base64": _is_base64,
    "date-time": _is_time,
}


class Schema:
    """A compiled schema. ``check`` raises BadRequest that names the path and the reason.

    secret: the body carries passwords or keys, so a refusal names the path and the rule, never the value (S35).
    """

    def __init__(self, document: Json, *, secret: bool = False) -> None:
        self.document = document
        self.secret = secret
        self._validator: Any = None

    def check(self, body: object, what: str = "") -> None:
        """Raise BadRequest unless ``body`` fits. ``what`` is put before the path in the message ("query", say)."""
        if self._validator is None:
            self._validator = jsonschema_rs.Draft7Validator(
                self.document, formats=dict(FORMATS), validate_formats=True
            )
        if not self._validator.is_valid(body):
            raise BadRequest(_explain(self.document, body, what, self.secret))

    def fits(self, body: object) -> bool:
        """Tell whether ``body`` fits."""
        try:
            self.check(body)
        except BadRequest:
            return False
        return True


def _explain(document: Json, body: object, what: str, secret: bool = False) -> str:
    import jsonschema

    checker = jsonschema.FormatChecker(formats=())
    for name, test in FORMATS.items():
        checker.checks(name)(lambda v, test=test: not isinstance(v, str) or test(v))
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft7Validator(document, format_checker=checker).iter_errors(body)
    )
    if error is None:
        return "Invalid input."
    path = "/".join(str(p) for p in error.absolute_path)
    if secret:
        return (
            f"Invalid input for {what or 'field/attribute'} {path or '(body)'}. {_rule_of(error)}"
        )
    hidden = sorted(_secrets(body), key=len, reverse=True)
    value = _masked(str(error.instance), hidden)
    message = _masked(str(error.message), hidden)
    message = message if len(message) <= 600 else message[:600] + "..."
    if path:
        value = value if len(value) <= 200 else value[:200] + "..."
        return f"Invalid input for {what or 'field/attribute'} {path}. Value: {value}. {message}"
    return message


def _secrets(value: object, inside: bool = False) -> set[str]:
    """Return every text under a key that names a secret, as it is and as Python writes it."""
    if isinstance(value, dict):
        out: set[str] = set()
        for k, v in value.items():
            out |= _secrets(v, inside or SECRET_KEY.search(str(k)) is not None)
        return out
    if isinstance(value, list):
        return set().union(*(_secrets(v, inside) for v in value))
    text = str(value)
    return (
        {text, repr(value)[1:-1] if isinstance(value, str) else text} if inside and text else set()
    )


def _masked(text: str, hidden: Iterable[str]) -> str:
    for word in hidden:
        text = text.replace(word, "***")
    return text


def _rule_of(error: Any) -> str:
    """Say which rule was broken from the schema alone."""
    rule, wanted = str(error.validator), error.validator_value
    if rule == "required":
        missing = [n for n in wanted if n not in error.instance]
        return f"Required properties are missing: {', '.join(missing)}."
    if rule in ("anyOf", "oneOf", "not", "additionalProperties", "dependencies", "if"):
        return f"It does not satisfy the rule {rule} of the API's schema."
    return f"It does not satisfy {rule}: {str(wanted)[:200]}."


def extend(
    base: Json,
    *,
    at: Iterable[str | int] = (),
    properties: Mapping[str, Any] | None = None,
    removed: Iterable[str] = (),
    required: Iterable[str] | None = None,
) -> Json:
    """Return a copy of ``base`` with the object at path ``at`` changed: properties set, ``removed`` ones dropped.

    required: the new required list (None: as before). ValueError when something removed was not there.
    """
    out = copy.deepcopy(base)
    node: Any = out
    for part in at:
        node = node[part]
    props = node.setdefault("properties", {})
    for name in removed:
        if name not in props:
            raise ValueError(f"schema delta removes {name}, which is not there")
        del props[name]
        if name in node.get("required", []):
            node["required"] = [r for r in node["required"] if r != name]
    props.update(copy.deepcopy(dict(properties or {})))
    if required is not None:
        node["required"] = list(required)
    return out


def vanished(older: Json, newer: Json) -> list[str]:
    """Return the paths of properties that ``older`` has and ``newer`` lacks; not those below one that is lost itself.

    Array items, tuple members and the branches of oneOf, anyOf and allOf are walked: ``/server/networks[]/tag``.
    """
    lost = sorted(paths(older) - paths(newer))
    return [p for p in lost if not any(p.startswith((q + "/", q + "[]")) for q in lost)]


def paths(document: object, at: str = "") -> set[str]:
    """Return the path of every property that a schema names."""
    if not isinstance(document, dict):
        return set()
    out: set[str] = set()
    for name, inner in document.get("properties", {}).items():
        out |= {f"{at}/{name}", *paths(inner, f"{at}/{name}")}
    items = document.get("items")
    for inner in items if isinstance(items, list) else [items]:
        out |= paths(inner, f"{at}[]")
    for word in ("oneOf", "anyOf", "allOf"):
        for inner in document.get(word, ()):
            out |= paths(inner, at)
    return out
