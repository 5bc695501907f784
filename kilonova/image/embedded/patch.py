"""JSON patches of an image, in Glance's two media types. source: Glance v2 API, "HTTP PATCH media types"."""

from typing import Any, NamedTuple

from kilonova.common.errors import BadRequest, Conflict, Forbidden, UnsupportedMedia
from kilonova.image.embedded.view import PROPERTIES, READ_ONLY, check_body, show, with_body
from kilonova.objects.image import Image

V20 = "application/openstack-images-v2.0-json-patch"
V21 = "application/openstack-images-v2.1-json-patch"
_OPERATIONS = ("add", "replace", "remove")
_DEFAULTS: dict[str, Any] = {"name": None, "tags": [], "min_ram": 0, "min_disk": 0}
_UNTIL_DATA = ("disk_format", "container_format")


class Change(NamedTuple):
    op: str
    name: str
    value: Any


def parse(content_type: str, body: Any) -> list[Change]:
    """Read a patch; UnsupportedMedia for other types, BadRequest for anything malformed, Forbidden for locations."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (V20, V21):
        raise UnsupportedMedia(f"Content-Type must be {V21} or {V20}.")
    if not isinstance(body, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    return [_read(op, kind) for op in body]


def _read(op: Any, kind: str) -> Change:
    if not isinstance(op, dict):
        raise BadRequest("Operations must be JSON objects.")
    if kind == V20:
        words = [w for w in _OPERATIONS if w in op]
        if len(words) != 1:
            raise BadRequest("Operation objects must contain exactly one of add, replace, remove.")
        word: Any = words[0]
        path: Any = op[word]
    else:
        word, path = op.get("op"), op.get("path")
        if word not in _OPERATIONS:
            raise BadRequest(f"Unable to find '{word!s:.20}' in JSON Schema change")
    if not isinstance(path, str) or not path.startswith("/"):
        raise BadRequest(f'Pointer `{path!s:.60}` does not start with "/".')
    name = _unescape(path[1:])
    if word != "remove" and "value" not in op:
        raise BadRequest(f'Operation "{word}" requires a member named "value".')
    return Change(word, name, op.get("value"))


def _unescape(pointer: str) -> str:
    parts = pointer.split("/")
    if parts[0] == "locations":
        raise Forbidden("Locations are not shown or taken here.")
    if len(parts) != 1 or not parts[0] or parts[0].strip() != parts[0]:
        raise BadRequest(f"Pointer `/{pointer:.60}` does not name one property of the image.")
    if "~" in parts[0].replace("~0", "").replace("~1", ""):
        raise BadRequest(f"Pointer `/{pointer:.60}` contains a tilde that is not part of ~0 or ~1.")
    return parts[0].replace("~1", "/").replace("~0", "~")


def apply(image: Image, changes: list[Change]) -> Image:
    """Return the changed image; Forbidden for what is read-only, Conflict for a property that is not there."""
    for change in changes:
        image = _apply(image, change)
    return image


def _apply(image: Image, change: Change) -> Image:
    op, name, value = change
    if name in READ_ONLY or name == "id":
        raise Forbidden(f"Attribute '{name}' is read-only.")
    check_reserved(name)
    if name in _UNTIL_DATA and image.status != "queued" and show(image)[name] != value:
        raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
    if name in PROPERTIES:
        if op == "remove":
            if name not in _DEFAULTS:
                raise Forbidden(f"Property {name} may not be removed.")
            value = _DEFAULTS[name]
    elif op == "remove":
        if name not in image.properties:
            raise Conflict(f"Property {name:.60} does not exist.")
        left = {k: v for k, v in image.properties.items() if k != name}
        return image.replace(properties=left)
    elif op == "replace" and name not in image.properties:
        raise Conflict(f"Property {name:.60} does not exist.")
    check_body({name: value})
    return with_body(image, {name: value})


def check_reserved(name: str) -> None:
    """Raise Forbidden for the properties that an image service keeps to itself."""
    if name.startswith("os_glance_") or name in ("deleted", "deleted_at", "locations"):
        raise Forbidden(f"Attribute '{name:.60}' is reserved.")
