"""Versioned objects: golden fingerprints, round trips of all types, downgrade by data (OBJ-1, OBJ-9).

When a change is meant, raise the type's VERSION, mark new fields with ``since`` and write the file anew:
KILONOVA_GOLDEN=write .venv/bin/python -m pytest tests/unit/test_objects.py
"""

import enum
import importlib
import json
import os
import pkgutil
import random
import types
import typing
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import pytest

import kilonova.objects
from kilonova.objects.base import (
    REGISTRY,
    IncompatibleVersion,
    OpenEnum,
    Version,
    Versioned,
    decode,
    encode,
    fingerprint,
    manifest,
    since,
    type_of,
)

GOLDEN = Path(__file__).with_name("objects.golden.json")
for _module in pkgutil.iter_modules(kilonova.objects.__path__):
    importlib.import_module(f"kilonova.objects.{_module.name}")
OURS = {n: c for n, c in sorted(REGISTRY.items()) if c.__module__.startswith("kilonova.")}
Golden = dict[str, dict[str, Any]]
WIDENED = {"Query", "QueryReply"}
"""Types whose version moved because a field takes one more type; a peer that does not know it says so in its answer."""


# -- golden fingerprints


def now(classes: dict[str, type[Versioned]]) -> Golden:
    """Return what is to be compared: version, fingerprint, and the values of the enumerations that a type holds."""
    out: Golden = {}
    for name, cls in classes.items():
        held = sorted({e.__name__ for h in typing.get_type_hints(cls).values() for e in _enums(h)})
        out[name] = {
            "version": f"{cls.VERSION[0]}.{cls.VERSION[1]}",
            "fields": fingerprint(cls),
            "tag": str(cls.__struct_config__.tag),
            "enums": held,
        }
    return out


def _enums(hint: Any) -> set[type[enum.Enum]]:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {hint}
    return {e for part in typing.get_args(hint) for e in _enums(part)}


def enumerations() -> dict[str, list[str]]:
    """Return the values of every enumeration that travels."""
    found: set[type[enum.Enum]] = set()
    for cls in OURS.values():
        for hint in typing.get_type_hints(cls).values():
            found |= _enums(hint)
    return {e.__name__: [str(m.value) for m in e] for e in sorted(found, key=lambda e: e.__name__)}


def problems(golden: Golden, current: Golden) -> list[str]:
    """Say what must not be: fields that changed under the same version, a version that went back."""
    out = []
    for name, new in current.items():
        old = golden.get(name)
        if old is None or old == new:
            continue
        before, after = _numbers(old["version"]), _numbers(new["version"])
        if after <= before:
            out.append(f"{name} changed and its version is still {new['version']}")
    return out


def _numbers(version: str) -> Version:
    major, minor = version.split(".")
    return int(major), int(minor)


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_no_type_changes_without_a_new_version() -> None:
    """OBJ-9"""
    current = {"types": now(OURS), "enumerations": enumerations()}
    golden = _read() if GOLDEN.exists() else {"types": {}, "enumerations": {}}
    assert problems(golden["types"], current["types"]) == []
    for name, values in golden["enumerations"].items():
        assert set(values) <= set(current["enumerations"].get(name, values)), name
    if os.environ.get("KILONOVA_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(current, indent=1, sort_keys=True) + "\n")
    assert current == _read(), "say KILONOVA_GOLDEN=write when this is meant"


def test_the_check_sees_a_changed_field() -> None:
    """OBJ-9: the same name and version with another field type is what must fail."""

    class GoldenProbe(Versioned, frozen=True, kw_only=True):
        VERSION: ClassVar[Version] = (1, 0)
        host: str

    before = now({"GoldenProbe": GoldenProbe})

    class GoldenProbe(Versioned, frozen=True, kw_only=True):  # type: ignore[no-redef]
        VERSION: ClassVar[Version] = (1, 0)
        host: str | None

    assert problems(before, now({"GoldenProbe": GoldenProbe})) != []

    class GoldenProbe(Versioned, frozen=True, kw_only=True):  # type: ignore[no-redef]
        VERSION: ClassVar[Version] = (1, 1)
        host: str
        cell: str | None = since(1, 1)

    assert problems(before, now({"GoldenProbe": GoldenProbe})) == []
    assert now({"GoldenProbe": GoldenProbe}) != before


@pytest.mark.parametrize("name", OURS)
def test_every_field_is_within_its_type_s_version(name: str) -> None:
    """OBJ-1: a later field has a default, and none is from a version that the type does not have."""
    cls = OURS[name]
    for field, mark in cls._marks.items():
        assert (1, 0) < mark.version <= cls.VERSION, field
    moved = cls._marks or name in WIDENED
    assert cls.VERSION == (1, 0) or moved, "a new version without a new field"
    assert cls.__struct_config__.frozen and cls.__struct_config__.forbid_unknown_fields


# -- round trips with generated values

TEXTS = ("", "x", "ä ß €", "\U0001f680", 'a\nb\t"\\', "null", "0", "\u0000", "x" * 300)
PLAIN: dict[Any, tuple[Any, ...]] = {
    str: TEXTS,
    int: (0, 1, -1, 2**31, 2**53, -(2**62)),
    float: (0.0, -0.5, 1e-300, 1e300, 1763712345.678901),
    bool: (True, False),
    bytes: (b"", b"\x00\xff", b"abc"),
    type(None): (None,),
    Any: (None, "x", 7, ["a"], {"k": 1}),
    msgspec.Raw: (msgspec.Raw(b'{"a":1}'), msgspec.Raw(b"null")),
}


def make(hint: Any, rng: random.Random) -> Any:
    """Return a value of any type that our objects use; KeyError names one that is not known."""
    if hint in PLAIN:
        return rng.choice(PLAIN[hint])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return rng.choice(list(hint))
    if isinstance(hint, type) and issubclass(hint, Versioned):
        hints = typing.get_type_hints(hint)
        return hint(**{f: make(hints[f], rng) for f in hint.__struct_fields__})
    if isinstance(hint, typing.NewType):
        return make(hint.__supertype__, rng)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return rng.choice(args)
    if origin is typing.Annotated:
        return make(args[0], rng)
    if origin in (typing.Union, types.UnionType):
        return make(rng.choice(args), rng)
    if origin is tuple and not (len(args) == 2 and args[1] is ...):
        return tuple(make(a, rng) for a in args)
    if origin in (tuple, list, frozenset):
        return origin(make(args[0], rng) for _ in range(rng.randrange(4)))
    if origin is not None and issubclass(origin, typing.Mapping):
        return {make(args[0], rng): make(args[1], rng) for _ in range(rng.randrange(4))}
    raise KeyError(f"no values for {hint!r}")


@pytest.mark.parametrize("name", OURS)
def test_round_trip(name: str) -> None:
    """OBJ-1: what is sent is what is read, by a peer like us and by one whose manifest is ours."""
    cls = OURS[name]
    for seed in range(40):
        value = make(cls, random.Random(f"{name} {seed}"))
        wire = encode(value)
        assert type_of(wire) == name
        assert decode(wire, cls) == value, f"seed {seed}"
        assert decode(encode(value, manifest()), cls) == value, f"seed {seed}"


@pytest.mark.parametrize("name", OURS)
def test_nothing_unknown_is_read(name: str) -> None:
    """OBJ-1: another type, a newer version, an unknown field and no envelope are refused."""
    cls = OURS[name]
    other = "Order" if name != "Order" else "Answer"
    major, minor = cls.VERSION
    for wire in (
        b'{"t":"%s","v":"1.0","d":{}}' % other.encode(),
        b'{"t":"%s","v":"%d.%d","d":{}}' % (name.encode(), major, minor + 1),
        b'{"t":"%s","v":"%d.0","d":{}}' % (name.encode(), major + 1),
        b'{"t":"%s","v":"1.0","d":{"no_such_field":1}}' % name.encode(),
        b"{}",
        b"",
        b"[]",
    ):
        with pytest.raises(IncompatibleVersion):
            decode(wire, cls)


# -- downgrade, with types of this test only


class GoldenColour(OpenEnum):
    RED = "red"
    UNKNOWN = "unknown"


class GoldenInner(Versioned, frozen=True, kw_only=True):
    VERSION: ClassVar[Version] = (1, 1)
    name: str
    note: str | None = since(1, 1)


class GoldenOuter(Versioned, frozen=True, kw_only=True):
    VERSION: ClassVar[Version] = (1, 3)
    inner: tuple[GoldenInner, ...]
    by_name: dict[str, GoldenInner] = msgspec.field(default_factory=dict)
    speed: int = since(1, 1, default=1)
    encryption: str | None = since(1, 2, critical=True)
    marks: tuple[str, ...] = since(1, 3, default_factory=tuple)


def _sent(value: Versioned, **versions: Version) -> Any:
    return json.loads(encode(value, versions))


def _outer(**more: Any) -> GoldenOuter:
    inner = GoldenInner(name="a", note="b")
    return GoldenOuter(inner=(inner,), by_name={"x": inner}, **more)


def test_a_downgrade_drops_newer_fields_at_every_depth() -> None:
    """OBJ-9"""
    value = _outer(speed=7, marks=("m",))
    full = _sent(value, GoldenOuter=(1, 3), GoldenInner=(1, 1))
    assert full["v"] == "1.3" and full["d"]["marks"] == ["m"] and "encryption" in full["d"]
    older = _sent(value, GoldenOuter=(1, 2), GoldenInner=(1, 0))
    assert older["v"] == "1.2"
    assert set(older["d"]) == {"inner", "by_name", "speed", "encryption"}
    assert older["d"]["inner"] == [{"name": "a"}] and older["d"]["by_name"] == {"x": {"name": "a"}}
    oldest = _sent(value)
    assert oldest["v"] == "1.0" and set(oldest["d"]) == {"inner", "by_name"}
    again = decode(encode(value, {"GoldenOuter": (1, 0)}), GoldenOuter)
    assert again.speed == 1 and again.marks == () and again.inner[0].note is None


def test_a_critical_field_that_is_set_is_never_dropped() -> None:
    """OBJ-9"""
    value = _outer(encryption="luks")
    assert _sent(value, GoldenOuter=(1, 2))["d"]["encryption"] == "luks"
    with pytest.raises(IncompatibleVersion, match=r"encryption.*1\.1"):
        encode(value, {"GoldenOuter": (1, 1)})
    assert "encryption" not in _sent(_outer(), GoldenOuter=(1, 1))["d"]


@pytest.mark.parametrize("minor", range(4))
def test_every_older_form_is_read_by_the_newest(minor: int) -> None:
    """OBJ-9"""
    value = _outer(speed=3, marks=("m",))
    wire = encode(value, {"GoldenOuter": (1, minor), "GoldenInner": (1, minor % 2)})
    read = decode(wire, GoldenOuter)
    assert read.speed == (3 if minor >= 1 else 1)
    assert read.marks == (("m",) if minor >= 3 else ())


def test_an_unknown_value_of_an_open_enumeration_is_unknown() -> None:
    class GoldenHolder(Versioned, frozen=True, kw_only=True):
        VERSION: ClassVar[Version] = (1, 0)
        colour: GoldenColour

    wire = b'{"t":"GoldenHolder","v":"1.0","d":{"colour":"green"}}'
    assert decode(wire, GoldenHolder).colour is GoldenColour.UNKNOWN


def test_an_object_is_never_changed_in_place() -> None:
    value = GoldenInner(name="a")
    with pytest.raises(AttributeError):
        value.name = "b"  # type: ignore[misc]
    assert value.replace(name="b").name == "b" and value.name == "a"
