"""Filters that match a flavor's extra specs and an image's properties with hosts and host aggregates.

source: Nova, "Compute schedulers", and scheduler/filters/extra_specs_ops.py for the operators. One difference: an extra
spec without a scope is matched with the host when it names a capability of hosts, else with aggregate metadata; Nova
with both filters on asks both, and so finds no host.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kilonova.placement import names
from kilonova.scheduler.columns import Bools
from kilonova.scheduler.filters.base import Asked, Filter, told
from kilonova.scheduler.view import BUILD_FAILURES, INSTANCES, IO_OPS, HostKind

_OPS = (
    "<all-in>",
    "<in>",
    "<or>",
    "s==",
    "s!=",
    "s<=",
    "s>=",
    "s<",
    "s>",
    "==",
    "!=",
    "<=",
    ">=",
    "=",
)
_DYNAMIC = (
    "free_ram_mb",
    "total_usable_ram_mb",
    "vcpus_total",
    "vcpus_used",
    "free_disk_mb",
    "total_usable_disk_gb",
    "num_instances",
    "num_io_ops",
    "failed_builds",
    "host",
    "hypervisor_hostname",
    "nodename",
    "host_ip",
)
_STATIC = ("hypervisor_type", "hypervisor_version", "supported_instances", "cpu_info")
_OURS = ("hw", "quota", "os", "trait", "resources", "group_policy", "hide_hypervisor_id")


def matches(value: str, asked: str) -> bool:
    """Tell whether a capability or metadata value satisfies an extra spec's value (operators as in Nova)."""
    text = asked.strip()
    op = next((o for o in _OPS if text == o or text.startswith(o + " ")), "")
    if not op:
        return value == text
    words = text.split()
    if op == "<or>":
        return value in [w.strip() for w in text.split("<or>") if w.strip()]
    if op == "<in>":
        return len(words) > 1 and words[1] in value
    if op == "<all-in>":
        return all(w in value for w in words[1:])
    return len(words) > 1 and _compare(op, value, words[1])


def _compare(op: str, value: str, wanted: str) -> bool:
    left: Any
    right: Any
    if op.startswith("s"):
        left, right, op = value, wanted, op[1:]
    else:
        try:
            left, right = float(value), float(wanted)
        except ValueError:
            return False
    if op == "=":
        return bool(left >= right)  # so Nova has it, for compatibility with diablo
    return bool(
        {
            "==": left == right,
            "!=": left != right,
            "<=": left <= right,
            ">=": left >= right,
            "<": left < right,
            ">": left > right,
        }[op]
    )


def capability_specs(specs: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Return the extra specs that name capabilities of hosts: path -> what is asked."""
    out = {}
    for key, value in specs.items():
        parts = key.split(":")
        if parts[0] == "capabilities" and len(parts) > 1:
            out[tuple(parts[1:])] = value
        elif len(parts) == 1 and (key in _STATIC or key in _DYNAMIC):
            out[(key,)] = value
    return out


def aggregate_specs(specs: Mapping[str, str]) -> dict[str, str]:
    """Return the extra specs that are matched with aggregate metadata."""
    out = {}
    for key, value in specs.items():
        scope, sep, rest = key.partition(":")
        if sep and scope == "aggregate_instance_extra_specs":
            out[rest] = value
        elif not sep and key not in (*_STATIC, *_DYNAMIC, *_OURS):
            out[key] = value
    return out


def _kind_value(kind: HostKind | None, path: tuple[str, ...]) -> str | None:
    if kind is None:
        return None
    if path[0] == "cpu_info" and len(path) > 1:
        return dict(kind.cpu_info).get(":".join(path[1:]))
    if len(path) > 1:
        return None
    if path[0] == "supported_instances":
        return str([list(s) for s in kind.supported])
    value = getattr(kind, path[0], None)
    return None if value is None else str(value)


def _capabilities(asked: Asked) -> Bools | None:
    view = asked.view
    mask: Bools | None = None
    for path, wanted in capability_specs(asked.request.extra_specs).items():
        if path[0] in _DYNAMIC:
            found: Bools | None = np.zeros(view.roots.n, np.bool_)
            for row in view.row_of_host.values():
                value = host_value(asked, row, path[0])
                found[row] = value is not None and matches(value, wanted)  # type: ignore[index]
        else:
            found = view.kinds.where(
                lambda k, p=path, w=wanted: (v := _kind_value(k, p)) is not None and matches(v, w),  # type: ignore[misc]
                view.roots.n,
            )
        if found is not None:
            mask = found if mask is None else mask & found
    return mask


def host_value(asked: Asked, row: int, name: str) -> str | None:
    """Return what a host has for one of the changing capabilities, in Nova's names and units."""
    view = asked.view
    facts = view.facts_of(row)
    if name in ("host", "hypervisor_hostname", "nodename", "host_ip"):
        return {"host": facts.host, "host_ip": facts.host_ip}.get(name, facts.node or facts.host)
    which = {"num_instances": INSTANCES, "num_io_ops": IO_OPS, "failed_builds": BUILD_FAILURES}.get(
        name
    )
    if which is not None:
        return str(int(asked.weighed(which)[row]))
    rc = {"vcpus_total": names.VCPU, "vcpus_used": names.VCPU, "free_disk_mb": names.DISK_GB}.get(
        name, names.DISK_GB if "disk" in name else names.MEMORY_MB
    )
    column = view.roots.classes.get(rc)
    record = None if column is None else column.records[row]
    if column is None or record is None:
        return None
    if name in ("free_ram_mb", "free_disk_mb"):
        free = record.total - record.reserved - int(column.used.data[row])
        return str(free * (1024 if rc == names.DISK_GB else 1))
    return str(int(column.used.data[row]) if name == "vcpus_used" else record.total)


def _image_asks(asked: Asked) -> bool:
    image = asked.request.image
    return any(
        image.get(k)
        for k in ("hw_architecture", "img_hv_type", "hw_vm_mode", "img_hv_requested_version")
    )


def _image(asked: Asked) -> Bools | None:
    image = asked.request.image
    wanted = (image.get("hw_architecture"), image.get("img_hv_type"), image.get("hw_vm_mode"))
    version = image.get("img_hv_requested_version")

    def fits(kind: HostKind | None) -> bool:
        if kind is None:
            return True  # no host: others say so
        if any(wanted) and not any(
            all(w is None or w.lower() == h.lower() for w, h in zip(wanted, s, strict=True))
            for s in kind.supported
        ):
            return False
        return version is None or version_fits(kind.hypervisor_version, version)

    return asked.view.kinds.where(fits, asked.view.roots.n)


def version_fits(have: int, asked: str) -> bool:
    """Tell whether a hypervisor version (6002000 is 6.2.0) satisfies ``>=6.0, <7.0``."""
    mine = (have // 1_000_000, have // 1000 % 1000, have % 1000)
    for part in asked.split(","):
        found = re.fullmatch(r"\s*(<=|>=|==|!=|<|>)\s*(\d+(?:\.\d+){0,2})\s*", part)
        if found is None:
            return False
        other = tuple(int(n) for n in found[2].split("."))
        other += (0,) * (3 - len(other))
        ok = {
            "<=": mine <= other,
            ">=": mine >= other,
            "==": mine == other,
            "!=": mine != other,
            "<": mine < other,
            ">": mine > other,
        }[found[1]]
        if not ok:
            return False
    return True


def _by_metadata(asked: Asked, fits: Any) -> Bools | None:
    view = asked.view
    return view.host_aggregates.where(lambda s: fits(view.metadata_of(s)), view.roots.n)


def _extra_specs(asked: Asked) -> Bools | None:
    specs = aggregate_specs(asked.request.extra_specs)

    def fits(metadata: dict[str, set[str]]) -> bool:
        return all(
            any(matches(v, wanted) for v in metadata.get(key, ())) for key, wanted in specs.items()
        )

    return _by_metadata(asked, fits)


def _image_isolation(asked: Asked) -> Bools | None:
    image = asked.request.image

    def fits(metadata: dict[str, set[str]]) -> bool:
        return all(
            not image.get(key) or image[key] in options
            for key, options in metadata.items()
            if key.startswith(("hw_", "img_", "os_"))
        )

    return _by_metadata(asked, fits)


def _tenancy(asked: Asked) -> Bools | None:
    def fits(metadata: dict[str, set[str]]) -> bool:
        allowed = {v for k, vs in metadata.items() if k.startswith("filter_tenant_id") for v in vs}
        return not allowed or asked.request.project in allowed

    return _by_metadata(asked, fits)


def _type(asked: Asked) -> Bools | None:
    def fits(metadata: dict[str, set[str]]) -> bool:
        wanted = metadata.get("instance_type")
        return not wanted or asked.request.flavor in wanted

    return _by_metadata(asked, fits)


def _metadata_has(asked: Asked, *starts: str) -> bool:
    return any(k.startswith(starts) for a in asked.view.aggregates.values() for k in a.metadata)


FILTERS = (
    Filter(
        "ComputeCapabilitiesFilter",
        lambda a: bool(capability_specs(a.request.extra_specs)),
        _capabilities,
        told(
            "lacks a capability that the flavor asks for",
            "lack a capability that the flavor asks for",
        ),
    ),
    Filter(
        "ImagePropertiesFilter",
        _image_asks,
        _image,
        told(
            "cannot run what the image's properties ask for",
            "cannot run what the image's properties ask for",
        ),
        change="with another image",
    ),
    Filter(
        "AggregateInstanceExtraSpecsFilter",
        lambda a: bool(aggregate_specs(a.request.extra_specs)),
        _extra_specs,
        told("is not set aside for this flavor", "are not set aside for this flavor"),
        change="with another flavor",
    ),
    Filter(
        "AggregateImagePropertiesIsolation",
        lambda a: bool(a.request.image) and _metadata_has(a, "hw_", "img_", "os_"),
        _image_isolation,
        told("is kept for other images", "are kept for other images"),
        change="with another image",
    ),
    Filter(
        "AggregateMultiTenancyIsolation",
        lambda a: _metadata_has(a, "filter_tenant_id"),
        _tenancy,
        told("is kept for other projects", "are kept for other projects"),
    ),
    Filter(
        "AggregateTypeAffinityFilter",
        lambda a: _metadata_has(a, "instance_type"),
        _type,
        told("is kept for other flavors", "are kept for other flavors"),
        change="with another flavor",
    ),
)
