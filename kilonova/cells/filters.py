"""What a list of servers asks for: filters and order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rendered = Mapping[str, Any]  # a Row, or a dict with the same names


@dataclass(frozen=True)
class Filters:
    """What a list asks for; None: does not matter.

    equals: column -> allowed values. matches: column -> a part. patterns: column -> regular expression. since/before:
    updated_at bounds in seconds. tags*: as the API defines them. deleted: None both, False live, True deleted only.
    """

    project_id: str | None = None
    equals: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    matches: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    changes_since: float | None = None
    changes_before: float | None = None
    tags: tuple[str, ...] = ()
    tags_any: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    not_tags_any: tuple[str, ...] = ()
    locked: bool | None = None
    deleted: bool | None = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    uuids: tuple[str, ...] | None = None
    address: str | None = None


@dataclass(frozen=True)
class Order:
    """Sort keys with directions; the API adds created_at and uuid at the end, so that pages never overlap."""

    keys: tuple[tuple[str, bool], ...] = (("created_at", True),)  # (column, descending)

    def complete(self) -> tuple[tuple[str, bool], ...]:
        """Return the keys with a unique end."""
        names = [k for k, _ in self.keys]
        extra = [(k, self.keys[-1][1]) for k in ("created_at", "uuid") if k not in names]
        return (*self.keys, *extra)
