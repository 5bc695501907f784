"""Which extra specs are valid from 2.86 on. source: Nova's configuration guide, "Flavors" and "Extra Specs".

A spec without a namespace, or of a namespace that is not listed here, is free text.
"""

import re
from dataclasses import dataclass
from functools import cache

from kilonova.common.errors import BadRequest

_TRUE = ("1", "t", "true", "on", "y", "yes")
_FALSE = ("0", "f", "false", "off", "n", "no")
_CPUS = r"\^?\d+((-\d+)?(,\^?\d+(-\d+)?)?)*"
_GROUP = "[a-zA-Z0-9_-]{0,64}"


@dataclass(frozen=True)
class Value:
    """What a spec's value may be. kind: str, int or bool; low: of an int; among, like: of a str."""

    kind: type = str
    low: int | None = None
    among: tuple[str, ...] = ()
    like: str | None = None


_ANY, _BOOL, _INT = Value(), Value(bool), Value(int)
_COUNT, _POSITIVE = Value(int, low=0), Value(int, low=1)
_TRAIT = Value(among=("required", "forbidden"))


def _one_of(*values: str) -> Value:
    return Value(among=values)


_HW: dict[str, Value] = {
    "boot_menu": _BOOL,
    "cpu_cores": _POSITIVE,
    "cpu_dedicated_mask": Value(like=_CPUS),
    "cpu_max_cores": _POSITIVE,
    "cpu_max_sockets": _POSITIVE,
    "cpu_max_threads": _POSITIVE,
    "cpu_policy": _one_of("dedicated", "shared", "mixed"),
    "cpu_realtime": _BOOL,
    "cpu_realtime_mask": Value(like=_CPUS),
    "cpu_sockets": _POSITIVE,
    "cpu_thread_policy": _one_of("prefer", "isolate", "require"),
    "cpu_threads": _POSITIVE,
    "emulator_threads_policy": _one_of("isolate", "share"),
    "hide_hypervisor_id": _BOOL,
    "locked_memory": _BOOL,
    "mem_encryption": _BOOL,
    "mem_encryption_model": _one_of("amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"),
    "mem_page_size": Value(like=r"(large|small|any|\d+([kKMGT]i?)?(b|bit|B)?)"),
    r"numa_cpus\.\d+": Value(like=_CPUS),
    r"numa_mem\.\d+": _POSITIVE,
    "numa_nodes": _POSITIVE,
    "pci_numa_affinity_policy": _one_of("required", "preferred", "legacy", "socket"),
    "pmem": Value(like="([a-zA-Z0-9_]+(,)?)+"),
    "pmu": _BOOL,
    "serial_port_count": _COUNT,
    "sound_model": _one_of("sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"),
    "tpm_model": _one_of("tpm-tis", "tpm-crb"),
    "tpm_secret_security": _one_of("user", "host", "deployment"),
    "tpm_version": _one_of("1.2", "2.0"),
    "ephemeral_encryption": _BOOL,
    "ephemeral_encryption_format": _one_of("plain", "luks", "luksv2"),
    "usb_model": _one_of("none", "nec-xhci", "qemu-xhci"),
    "redirected_usb_ports": _COUNT,
    "vif_multiqueue_enabled": _BOOL,
    "virtio_packed_ring": _BOOL,
    "viommu_model": _one_of("intel", "smmuv3", "virtio", "auto"),
    "watchdog_action": _one_of("none", "pause", "poweroff", "reset", "disabled"),
}
_QUOTA: dict[str, Value] = {
    "cpu_shares": _COUNT,
    "cpu_period": _COUNT,
    "cpu_quota": _INT,
    "disk_(read|write|total)_(bytes|iops)_sec": _COUNT,
    "vif_(inbound|outbound)_(average|peak|burst)": _COUNT,
    "(cpu|memory|disk_io|vif)_(limit|shares_share)": _COUNT,
    "(cpu|memory|disk_io|vif)_reservation": _INT,
    "(cpu|memory|disk_io|vif)_shares_level": _one_of("custom", "high", "normal", "low"),
}
_NAMESPACES: dict[str, dict[str, Value]] = {
    "accel": {"device_profile": _ANY},
    "aggregate_instance_extra_specs": {".+": _ANY},
    "capabilities": {".+": _ANY},
    "hw": _HW,
    "hw_rng": {"allowed": _BOOL, "rate_bytes": _COUNT, "rate_period": _COUNT},
    "hw_video": {"ram_max_mb": _COUNT},
    "os": {"secure_boot": _one_of("disabled", "required")},
    "pci_passthrough": {"alias": Value(like=r"[^:]+:\d+(?:\s*,\s*[^:]+:\d+)*")},
    "quota": _QUOTA,
    "vmware": {"hw_version": _ANY, "storage_policy": _ANY},
}
_BARE = {"hide_hypervisor_id": _BOOL, "group_policy": _one_of("isolate", "none")}


@cache
def _standard() -> tuple[frozenset[str], frozenset[str]]:
    """Return the standard resource classes and traits; read at the first flavor that names one."""
    import os_resource_classes
    import os_traits

    return frozenset(os_resource_classes.STANDARDS), frozenset(os_traits.get_traits())


def check(name: str, value: str) -> None:
    """Raise BadRequest when an extra spec is unknown in its namespace or its value does not fit."""
    namespace, colon, rest = name.partition(":")
    if not colon:
        if name in _BARE:
            _fits(name, value, _BARE[name])
        return
    if re.fullmatch("resources" + _GROUP, namespace):
        _listed(name, rest, _standard()[0])
        return _fits(name, value, _INT)
    if re.fullmatch("trait" + _GROUP, namespace):
        _listed(name, rest, _standard()[1])
        return _fits(name, value, _TRAIT)
    known = _NAMESPACES.get(namespace)
    if known is None:
        return
    for pattern, wanted in known.items():
        if re.fullmatch(pattern, rest):
            return _fits(name, value, wanted)
    raise _unknown(name)


def _listed(name: str, rest: str, known: frozenset[str]) -> None:
    if rest not in known and re.fullmatch("CUSTOM_[A-Z0-9_]+", rest) is None:
        raise _unknown(name)


def _unknown(name: str) -> BadRequest:
    return BadRequest(
        f"Validation failed; extra spec '{name}' does not appear to be a valid extra spec."
    )


def _fits(name: str, value: str, wanted: Value) -> None:
    def wrong(why: str) -> BadRequest:
        return BadRequest(f"Validation failed; '{value}' is not a valid value of '{name}': {why}.")

    if wanted.kind is int:
        try:
            number = int(value)
        except ValueError:
            raise wrong("it must be a whole number") from None
        if wanted.low is not None and number < wanted.low:
            raise wrong(f"it must be at least {wanted.low}")
    elif wanted.kind is bool:
        if value.strip().lower() not in (*_TRUE, *_FALSE):
            raise wrong("it must be a boolean, as true or false")
    elif wanted.among and value not in wanted.among:
        raise wrong("it must be one of " + ", ".join(wanted.among))
    elif wanted.like is not None and re.fullmatch(wanted.like, value) is None:
        raise wrong(f"it must match {wanted.like}")
