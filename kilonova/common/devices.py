"""Settings about CPUs and PCI devices, in the forms that Nova's configuration has.

source: Nova, configuration reference, [pci] alias, [pci] device_spec.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

_ID = re.compile(r"[0-9a-f]{4}")
POLICIES = ("required", "preferred", "legacy", "socket")


def class_of(name: str | None, vendor_id: str, product_id: str) -> str:
    """Return the resource class of a device: the one that is named, made one of placement's, else of its ids."""
    if name is None:
        return f"CUSTOM_PCI_{vendor_id}_{product_id}".upper()
    import os_resource_classes

    return _normal(name, frozenset(os_resource_classes.STANDARDS))


def traits_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return traits as placement has them."""
    if not names:
        return ()
    import os_traits

    standard = frozenset(os_traits.get_traits())
    return tuple(sorted({_normal(n, standard) for n in names}))


def _normal(name: str, standard: frozenset[str]) -> str:
    upper = re.sub(r"[^A-Z0-9_]+", "_", name.upper())
    return upper if upper in standard or upper.startswith("CUSTOM_") else f"CUSTOM_{upper}"


class _Values:
    """The keys of one value; says which one is wrong. Raises ValueError."""

    def __init__(self, given: object) -> None:
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except json.JSONDecodeError as exc:
                raise ValueError(f"is no JSON: {exc}") from exc
        if not isinstance(given, Mapping):
            raise ValueError("must be a table, or an object of JSON")
        self.left: dict[str, Any] = dict(given)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.left.pop(key, default)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{key} must be a text, not {value!r}")
        return value

    def id(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and _ID.fullmatch(value := value.lower()) is None:
            raise ValueError(f"{key} must be four hexadecimal digits, not {value!r}")
        return value

    def whole(self, key: str, default: int | None, low: int = 0) -> int | None:
        value = self.left.pop(key, default)
        if value is not None and (not isinstance(value, int) or value < low):
            raise ValueError(f"{key} must be a whole number from {low} on, not {value!r}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self.left.pop(key, ())
        if isinstance(value, str):
            value = [v.strip() for v in value.split(",")]
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{key} must be a list of texts, not {value!r}")
        return traits_of(tuple(value))

    def class_(self) -> str:
        vendor, product = self.id("vendor_id"), self.id("product_id")
        named = self.text("resource_class")
        if named is None and (vendor is None or product is None):
            raise ValueError("needs vendor_id and product_id, or resource_class")
        return class_of(named, vendor or "", product or "")

    def end(self) -> None:
        if self.left:
            raise ValueError(f"has no such key: {', '.join(sorted(self.left))}")


@dataclass(frozen=True)
class PciAlias:
    """What ``pci_passthrough:alias`` of a flavor names. numa_policy: of the flavor unless it has one itself."""

    name: str
    resource_class: str
    traits: tuple[str, ...] = ()
    numa_policy: str = "legacy"

    @classmethod
    def read(cls, given: object) -> Self:
        """Return an alias. Raises ValueError. device_type is not needed: ids and classes tell devices apart."""
        values = _Values(given)
        name = values.text("name")
        if not name:
            raise ValueError("needs a name")
        policy = values.text("numa_policy", "legacy") or ""
        if policy not in POLICIES:
            raise ValueError(f"numa_policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        values.text("device_type")
        values.text("capability_type")
        found = cls(name, values.class_(), values.names("traits"), policy)
        values.end()
        return found


@dataclass(frozen=True)
class DeviceSpec:
    """Which devices of a host guests may have. address: as ``lspci -D`` says it, ``*`` and ``?`` stand for others."""

    vendor_id: str | None = None
    product_id: str | None = None
    address: str = "*"
    resource_class: str | None = None
    traits: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: object) -> Self:
        """Return what is allowed. Raises ValueError."""
        values = _Values(given)
        named = values.text("resource_class")
        found = cls(
            values.id("vendor_id"),
            values.id("product_id"),
            (values.text("address", "*") or "*").lower(),
            named,
            values.names("traits"),
        )
        values.end()
        if found.vendor_id is None and found.product_id is None and found.address == "*":
            raise ValueError(
                "needs vendor_id, product_id or address: else it would be every device"
            )
        return found

    def allows(self, address: str, vendor_id: str, product_id: str) -> bool:
        """Tell whether a device may be given to guests."""
        return (
            self.vendor_id in (None, vendor_id)
            and self.product_id in (None, product_id)
            and fnmatchcase(address, self.address)
        )


@dataclass(frozen=True)
class SimulatedDevices:
    """Devices that each simulated host has. count: how many. numa_node: where they are."""

    resource_class: str
    count: int = 1
    traits: tuple[str, ...] = ()
    numa_node: int | None = None

    @classmethod
    def read(cls, given: object) -> Self:
        """Return them. Raises ValueError."""
        values = _Values(given)
        found = cls(
            values.class_(),
            values.whole("count", 1, 1) or 1,
            values.names("traits"),
            values.whole("numa_node", None),
        )
        values.end()
        return found


def numbers(text: str) -> set[int]:
    """Return the numbers of ``4-12,^8,15``. Raises ValueError."""
    found: set[int] = set()
    without: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\^?)(\d{1,4})(?:-(\d{1,4}))?", part)
        if match is None or (match[3] is not None and int(match[3]) < int(match[2])):
            raise ValueError(f"{part[:40]!r} is no CPU and no range of CPUs")
        some = range(int(match[2]), int(match[3] or match[2]) + 1)
        (without if match[1] else found).update(some)
    return found - without
