"""What older releases can read, as it is kept (wire-<release>.json)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.objects.base import Manifest, Versioned, decode
from tests.unit.test_objects import OURS
from tests.upgrade.make_wire import FOLDER, manifest_of


@dataclass(frozen=True)
class Release:
    """Type -> its version and fields there."""

    name: str
    versions: Manifest
    fields: Mapping[str, frozenset[str]]


def _kept(name: str, kept: dict[str, Any]) -> Release:
    fields = {n: frozenset(t["fields"]) for n, t in kept["types"].items()}
    return Release(name, manifest_of(kept), fields)


RELEASES = [_kept(p.stem, json.loads(p.read_text())) for p in sorted(FOLDER.glob("wire-*.json"))]


class Reader:
    """Reads what is sent, as a process of an older release would. seen: the types that came, and how often."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.seen: dict[str, int] = {}

    def take(self, body: Any) -> None:
        """Read a message, or whatever is in a journal. AssertionError for what the release does not know."""
        if isinstance(body, (bytes, str, msgspec.Raw)):
            try:
                body = json.loads(bytes(body) if isinstance(body, msgspec.Raw) else body)
            except ValueError:  # an id, say
                return
        self._walk(body)

    def _walk(self, message: Any) -> None:
        if isinstance(message, list):
            for part in message:
                self._walk(part)
        elif isinstance(message, dict):
            if set(message) == {"t", "v", "d"}:
                self._object(message)
            for part in message.values():
                self._walk(part)

    def _object(self, message: dict[str, Any]) -> None:
        name, known = message["t"], self.release.versions
        assert name in known, f"{self.release.name} knows no {name}"
        version = tuple(int(n) for n in message["v"].split("."))
        assert version <= known[name], f"{name} {version} is newer than {known[name]}"
        self._fields(decode(msgspec.json.encode(message), OURS[name]), message["d"])
        self.seen[name] = self.seen.get(name, 0) + 1

    def _fields(self, value: Any, sent: Any) -> None:
        if isinstance(value, Versioned):
            name, tag = type(value).__name__, value.__struct_config__.tag_field
            assert set(sent) - {tag} <= self.release.fields[name], name
            for field in set(sent) - {tag}:
                self._fields(getattr(value, field), sent[field])
        elif isinstance(value, (list, tuple)):
            for one, its in zip(value, sent, strict=True):
                self._fields(one, its)
        elif isinstance(value, dict):
            for key, one in value.items():
                if str(key) in sent:
                    self._fields(one, sent[str(key)])
