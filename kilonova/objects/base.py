"""Versioned objects: everything that crosses a process boundary or rests in a journal.

Each field says since which version of its type it exists. Sending to an older peer drops newer fields by that data;
a field marked ``critical`` that is set cannot be dropped: sending is an error. Unknown fields are refused.
On the wire an object is ``{"t": type, "v": "major.minor", "d": {...}}``; objects inside it carry no tag of their own,
their version follows from the sender's release (the manifest).
"""

import enum
import hashlib
import threading
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from kilonova.common.errors import KilonovaError

Version = tuple[int, int]
Manifest = Mapping[str, Version]  # type name -> the newest version that the peer reads
REGISTRY: dict[str, type["Versioned"]] = {}


_spoken: Manifest | None = None


def speak(manifest: Manifest | None) -> None:
    """Write everything from now on in a form that ``manifest`` reads (None: in our own); of the whole process.

    It is the deployment's pin: the oldest release that takes part (OBJ-10).
    """
    global _spoken
    _spoken = manifest


def spoken() -> Manifest | None:
    """Return what ``speak`` was told."""
    return _spoken


class IncompatibleVersion(KilonovaError):
    """The peer's release cannot carry this object, or the object is from a newer release than ours."""

    code = "incompatible_version"


class _Since:
    def __init__(
        self, version: Version, default: Any, default_factory: Any, critical: bool
    ) -> None:
        self.version = version
        self.default = default
        self.default_factory = default_factory
        self.critical = critical


def since(
    major: int,
    minor: int,
    *,
    default: Any = None,
    default_factory: Any = None,
    critical: bool = False,
) -> Any:
    """Declare a field that exists since this version of its type; it must have a default."""
    return _Since((major, minor), default, default_factory, critical)


class _Meta(msgspec.StructMeta):
    def __new__(mcs, name: str, bases: tuple[type, ...], ns: dict[str, Any], **kw: Any) -> Any:
        marks: dict[str, _Since] = {}
        for key, value in list(ns.items()):
            if isinstance(value, _Since):
                marks[key] = value
                if value.default_factory is not None:
                    ns[key] = msgspec.field(default_factory=value.default_factory)
                else:
                    ns[key] = value.default
        cls: Any = super().__new__(mcs, name, bases, ns, **kw)
        inherited: dict[str, _Since] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(getattr(base, "_marks", {}))
        cls._marks = {**inherited, **marks}
        return cls


class Versioned(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=_Meta
):
    """Base of every object on the wire or in a journal. Subclasses set VERSION and repeat ``frozen, kw_only``."""

    VERSION: ClassVar[Version] = (1, 0)
    _marks: ClassVar[dict[str, _Since]] = {}

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        REGISTRY[cls.__name__] = cls

    def replace(self, **changes: Any) -> Self:
        """Return a changed copy."""
        return msgspec.structs.replace(self, **changes)


class OpenEnum(enum.StrEnum):
    """An enumeration that may grow: values that a reader does not know become UNKNOWN."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.__members__.get("UNKNOWN")


V = TypeVar("V", bound=Versioned)


class _Envelope(msgspec.Struct):
    t: str
    v: str
    d: msgspec.Raw


def encode(obj: Versioned, manifest: Manifest | None = None) -> bytes:
    """Return the wire form, downgraded to what the peer's manifest reads (None: to what ``speak`` was told).

    Raises IncompatibleVersion when a critical field that is set would have to be dropped.
    """
    name = type(obj).__name__
    manifest = _spoken if manifest is None else manifest
    if manifest is None:
        major, minor = obj.VERSION
        return b'{"t":"%s","v":"%d.%d","d":%s}' % (
            name.encode(),
            major,
            minor,
            msgspec.json.encode(obj),
        )
    version = manifest.get(name, (1, 0))
    data = _down(obj, manifest)
    return msgspec.json.encode({"t": name, "v": f"{version[0]}.{version[1]}", "d": data})


def at_rest(obj: Versioned) -> str:
    """Return the JSON that a column keeps, as the oldest release that takes part reads it."""
    return msgspec.json.encode(obj if _spoken is None else _down(obj, _spoken)).decode()


def _down(value: Any, manifest: Manifest) -> Any:
    if isinstance(value, Versioned):
        peer = manifest.get(type(value).__name__, (1, 0))
        out: dict[str, Any] = {}
        config = value.__struct_config__
        if config.tag is not None:
            out[config.tag_field or "type"] = config.tag
        for f in value.__struct_fields__:
            item = getattr(value, f)
            mark = value._marks.get(f)
            if mark is not None and mark.version > peer:
                empty = mark.default_factory() if mark.default_factory is not None else mark.default
                if mark.critical and item != empty:
                    raise IncompatibleVersion(
                        f"{type(value).__name__}.{f} cannot be sent to a release that reads only {peer[0]}.{peer[1]}"
                    )
                continue
            out[f] = _down(item, manifest)
        return out
    if isinstance(value, (list, tuple)):
        return [_down(v, manifest) for v in value]
    if isinstance(value, dict):
        return {k: _down(v, manifest) for k, v in value.items()}
    if isinstance(value, msgspec.Raw):
        return value  # encoded already, by its own sender
    return msgspec.to_builtins(value)


_DECODERS: dict[type, Any] = {}
_BUILDING = threading.Lock()


def prepare() -> int:
    """Have msgspec look at every record type that is imported; return how many. Call it before threads decode.

    Two threads that use a type for the first time at once crash the interpreter (msgspec 0.22 shows one of them what
    the other has only begun to build). Takes 20 µs a type; safe to repeat.
    """
    with _BUILDING:
        found = list(_all(msgspec.Struct))
        for cls in found:
            msgspec.json.Decoder(cls)
    return len(found)


def _all(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for below in subclasses:
        yield below
        yield from _all(below)


def _decoder(cls: type[V]) -> Any:
    with _BUILDING:
        return _DECODERS.setdefault(cls, msgspec.json.Decoder(cls))


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def decode(data: bytes | msgspec.Raw, cls: type[V]) -> V:
    """Read the wire form of a ``cls``.

    Raises IncompatibleVersion for another type, a newer version, or content that does not fit.
    """
    try:
        env = _ENVELOPE.decode(data)
    except msgspec.MsgspecError as exc:
        raise IncompatibleVersion(f"not an object on our wire: {exc}") from exc
    if env.t != cls.__name__:
        raise IncompatibleVersion(f"expected {cls.__name__}, got {env.t}")
    major, minor = (int(n) for n in env.v.split("."))
    if (major, minor) > cls.VERSION:
        raise IncompatibleVersion(
            f"{env.t} {env.v} is newer than ours ({cls.VERSION[0]}.{cls.VERSION[1]})"
        )
    decoder = _DECODERS.get(cls)
    if decoder is None:
        decoder = _decoder(cls)
    try:
        obj: V = decoder.decode(env.d)
    except msgspec.MsgspecError as exc:
        raise IncompatibleVersion(f"{env.t} {env.v}: {exc}") from exc
    return obj


def type_of(data: bytes | msgspec.Raw) -> str:
    """Return the type name of a wire form, to choose among those that share a subject. Raises IncompatibleVersion."""
    try:
        return _ENVELOPE.decode(data).t
    except msgspec.MsgspecError as exc:
        raise IncompatibleVersion(f"not an object on our wire: {exc}") from exc


def manifest() -> dict[str, Version]:
    """Return the versions that this release reads and writes."""
    return {name: cls.VERSION for name, cls in sorted(REGISTRY.items())}


def fingerprint(cls: type[Versioned]) -> str:
    """Return a digest of a type's fields, their types and since-versions; it changes when the wire form does."""
    lines = []
    hints = typing.get_type_hints(cls)
    for f in cls.__struct_fields__:
        mark = cls._marks.get(f)
        lines.append(
            f"{f}: {hints[f]!r} since {mark.version if mark else (1, 0)} critical {bool(mark and mark.critical)}"
        )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
