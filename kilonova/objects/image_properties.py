"""What an image asks of a guest: every hw_*, os_* and img_* property is honoured, or refused with its name.

source: Nova, "Useful image properties" and objects/image_meta.py, for names and allowed values. Nova ignores what its
driver cannot do; we say so before anything is built. Names that Nova renamed are read under both. An unknown ``os_``
name is a description of the system inside and asks for nothing.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

from kilonova.common.errors import BadRequest
from kilonova.objects.base import Version, Versioned, since


class ImageProperties(Versioned, frozen=True, kw_only=True):
    """An image's properties, typed. None: the image does not say. Made by ``read``.

    hw_* fields name guest hardware (kilonova.objects.guest.Hardware). hw_serial_port_count: ports.
    os_shutdown_timeout: seconds. traits_required: resource provider traits that the host must have.
    """

    VERSION: ClassVar[Version] = (1, 1)

    hw_architecture: str | None = None
    hw_auto_disk_config: bool | None = None
    hw_boot_menu: bool | None = None
    hw_cdrom_bus: str | None = None
    hw_disk_bus: str | None = None
    hw_firmware_type: str | None = None
    hw_machine_type: str | None = None
    hw_qemu_guest_agent: bool | None = None
    hw_rescue_bus: str | None = None
    hw_rescue_device: str | None = None
    hw_rng_model: str | None = None
    hw_scsi_model: str | None = None
    hw_serial_port_count: int | None = None
    hw_video_model: str | None = None
    hw_vif_model: str | None = None
    hw_vm_mode: str | None = None
    hw_watchdog_action: str | None = None
    img_config_drive: str | None = None
    img_hv_type: str | None = None
    img_owner_id: str | None = None
    img_root_device_name: str | None = None
    os_admin_user: str | None = None
    os_distro: str | None = None
    os_shutdown_timeout: int | None = None
    os_type: str | None = None
    os_version: str | None = None
    traits_required: tuple[str, ...] = ()
    os_require_quiesce: bool | None = since(1, 1)

    @classmethod
    def read(cls, properties: Mapping[str, str]) -> "ImageProperties":
        """Read an image's properties; BadRequest that names the first one that cannot be honoured, and why."""
        return _read(tuple(properties.items()))

    def hardware(self) -> dict[str, Any]:
        """Return what the image asks for as fields of ``Hardware``; what it does not mention is absent."""
        asked = {
            "machine": self.hw_machine_type,
            "firmware": self.hw_firmware_type,
            "disk_bus": self.hw_disk_bus,
            "cdrom_bus": self.hw_cdrom_bus,
            "nic_model": self.hw_vif_model,
            "video_model": self.hw_video_model,
            "rng": None if self.hw_rng_model is None else True,
            "guest_agent": self.hw_qemu_guest_agent,
            "scsi_model": self.hw_scsi_model,
            "serial_ports": self.hw_serial_port_count,
            "watchdog": None if self.hw_watchdog_action == "disabled" else self.hw_watchdog_action,
            "boot_menu": self.hw_boot_menu,
        }
        return {k: v for k, v in asked.items() if v is not None}


@functools.lru_cache(maxsize=256)
def _read(properties: tuple[tuple[str, str], ...]) -> ImageProperties:
    """Kept, because one create asks several times, and many servers have one image."""
    fields: dict[str, Any] = {}
    traits: list[str] = []
    for given, value in sorted(properties, key=_old_names_first):
        name = LEGACY.get(given, given)
        if name.startswith("trait:"):
            traits.append(_trait(name, value))
        elif (reader := READERS.get(_family(name))) is not None:
            result = reader(given, value)
            if name in ImageProperties.__struct_fields__:
                fields[name] = result
        elif name.startswith(("hw_", "img_")):
            raise BadRequest(f"Image property {given:.80} is not known.")
    return ImageProperties(**fields, traits_required=tuple(traits))


Reader = Callable[[str, str], Any]
_TRUE = ("1", "t", "true", "on", "y", "yes")
_FALSE = ("0", "f", "false", "off", "n", "no")

LEGACY = {
    "architecture": "hw_architecture",
    "auto_disk_config": "hw_auto_disk_config",
    "block_device_mapping": "img_block_device_mapping",
    "bdm_v2": "img_bdm_v2",
    "cache_in_nova": "img_cache_in_nova",
    "hypervisor_type": "img_hv_type",
    "hypervisor_version_requires": "img_hv_requested_version",
    "ipxe_boot": "hw_ipxe_boot",
    "mappings": "img_mappings",
    "owner_id": "img_owner_id",
    "root_device_name": "img_root_device_name",
    "vm_mode": "hw_vm_mode",
}


def _old_names_first(item: tuple[str, str]) -> tuple[bool, str]:
    return item[0] not in LEGACY, item[0]


def _family(name: str) -> str:
    """Return ``hw_numa_cpus`` for ``hw_numa_cpus.0``."""
    return name.partition(".")[0] if name.startswith("hw_numa_") else name


def _trait(name: str, value: str) -> str:
    trait = name.removeprefix("trait:")
    if re.fullmatch(r"[A-Z][A-Z0-9_]{0,254}", trait) is None:
        raise BadRequest(f"Image property {name:.80} does not name a trait.")
    if value != "required":
        raise BadRequest(
            f"Image property {name:.80} is {value[:40]!r}; only 'required' is allowed."
        )
    return trait


def _wrong(name: str, value: str, allowed: str) -> NoReturn:
    raise BadRequest(f"Image property {name} is {value[:60]!r}; allowed: {allowed}.")


def _text(name: str, value: str) -> str:
    if len(value) > 255:
        _wrong(name, value, "at most 255 characters")
    return value


def _flag(name: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    return _wrong(name, value, "true, false")


def _choice(*allowed: str, also: Mapping[str, str] | None = None) -> Reader:
    """Take one of ``allowed``. also: values that Nova knows and we do not honour, each with the reason."""

    def read(name: str, value: str) -> str:
        word = value.lower()
        if word in allowed:
            return word
        if also is not None and word in also:
            raise BadRequest(f"Image property {name}={word} cannot be honoured: {also[word]}.")
        return _wrong(name, value, ", ".join(allowed))

    return read


def _whole(low: int, high: int) -> Reader:
    def read(name: str, value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            _wrong(name, value, f"a whole number from {low} to {high}")
        if not low <= int(value) <= high:
            _wrong(name, value, f"a whole number from {low} to {high}")
        return int(value)

    return read


def _machine(name: str, value: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value) is None:
        _wrong(name, value, "the name of a QEMU machine type, like pc, q35 or pc-q35-7.2")
    return value


def _device(name: str, value: str) -> str:
    if re.fullmatch(r"(/dev/)?[a-z]{2,4}[0-9]?", value) is None:
        _wrong(name, value, "a device name like /dev/vda")
    return value


def _architecture(name: str, value: str) -> str:
    word = value.lower()
    word = {
        "amd64": "x86_64",
        "i386": "i686",
        "i486": "i686",
        "i586": "i686",
        "arm64": "aarch64",
    }.get(word, word)
    known = ("aarch64", "armv7l", "i686", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64")
    return word if word in known else _wrong(name, value, ", ".join(known))


def _refused(reason: str, *harmless: str) -> Reader:
    """Refuse every value but those that ask for nothing."""

    def read(name: str, value: str) -> None:
        if value.lower() not in harmless:
            raise BadRequest(f"Image property {name}={value[:60]} cannot be honoured: {reason}.")

    return read


def _ignored(name: str, value: str) -> None:
    """Read by others (block devices), or asks for nothing of a host."""


_XEN = {word: f"there is no {word} device here" for word in ("fdc", "xen", "lxc", "uml")}
_BUS = _choice("virtio", "scsi", "sata", "ide", "usb", also=_XEN)
_OTHER_HV = {
    word: f"there are no {word} hosts here"
    for word in [
        "baremetal",
        "bhyve",
        "docker",
        "fake",
        "hyperv",
        "ironic",
        "lxc",
        "lxd",
        "openvz",
        "parallels",
        "phyp",
        "uml",
        "vbox",
        "vmware",
        "vz",
        "xen",
        "zvm",
    ]
}
_TOPOLOGY = "guests get one socket per vCPU here"
_TPM = "an emulated TPM is not available"
_CRYPT = "encryption of disks and memory is not available"
_XENAPI = "it belongs to another hypervisor"
_SIGNED = "image signatures are not verified here"

READERS: dict[str, Reader] = {
    "hw_architecture": _architecture,
    "hw_auto_disk_config": lambda name, value: _flag(name, value),
    "hw_boot_menu": _flag,
    "hw_cdrom_bus": _BUS,
    "hw_cpu_cores": _refused(_TOPOLOGY, "1"),
    "hw_cpu_max_cores": _refused(_TOPOLOGY),
    "hw_cpu_max_sockets": _refused(_TOPOLOGY),
    "hw_cpu_max_threads": _refused(_TOPOLOGY, "1"),
    "hw_cpu_policy": _refused("vCPUs are shared here", "shared"),
    "hw_cpu_realtime_mask": _refused("real-time guests are not available"),
    "hw_cpu_sockets": _refused(_TOPOLOGY),
    "hw_cpu_thread_policy": _refused("vCPUs are shared here", "prefer"),
    "hw_cpu_threads": _refused(_TOPOLOGY, "1"),
    "hw_device_id": _refused(_XENAPI),
    "hw_disk_bus": _BUS,
    "hw_disk_type": _refused(_XENAPI, "sparse", "thin"),
    "hw_emulation_architecture": _refused("guests have the host's architecture"),
    "hw_ephemeral_encryption": _refused(_CRYPT, *_FALSE),
    "hw_ephemeral_encryption_format": _refused(_CRYPT),
    "hw_ephemeral_encryption_secret_uuid": _refused(_CRYPT),
    "hw_firmware_stateless": _refused("firmware without variables is not available", *_FALSE),
    "hw_firmware_type": _choice("bios", "uefi"),
    "hw_floppy_bus": _refused("there are no floppy drives here"),
    "hw_input_bus": _refused("guests have the PS/2 devices of their machine type"),
    "hw_ipxe_boot": _refused(_XENAPI, *_FALSE),
    "hw_locked_memory": _refused("guest memory is not locked", *_FALSE),
    "hw_machine_type": _machine,
    "hw_maxphysaddr_bits": _refused("the CPU model decides the address width"),
    "hw_maxphysaddr_mode": _refused("the CPU model decides the address width"),
    "hw_mem_encryption": _refused(_CRYPT, *_FALSE),
    "hw_mem_encryption_model": _refused(_CRYPT),
    "hw_mem_page_size": _refused("huge pages are not available", "small", "any", "4", "4k", "4kb"),
    "hw_numa_cpus": _text,
    "hw_numa_mem": _whole(1, 999_999_999),
    "hw_numa_nodes": _whole(1, 16),
    "hw_packed_virtqueue": _refused("packed virtqueues are not available", *_FALSE),
    "hw_pci_numa_affinity_policy": _refused(
        "devices are not kept to NUMA nodes", "legacy", "preferred"
    ),
    "hw_pmu": _refused("the CPU model decides about the PMU"),
    "hw_pointer_model": _refused("guests have the PS/2 devices of their machine type"),
    "hw_qemu_guest_agent": _flag,
    "hw_rescue_bus": _BUS,
    "hw_rescue_device": _choice(
        "cdrom", "disk", also={"floppy": "there are no floppy drives here"}
    ),
    "hw_rng_model": _choice("virtio"),
    "hw_scsi_model": _choice(
        "virtio-scsi",
        "lsilogic",
        "lsisas1068",
        "lsisas1078",
        also=dict.fromkeys(
            ("buslogic", "ibmvscsi", "vmpvscsi"), "QEMU has no such controller on this architecture"
        ),
    ),
    "hw_serial_port_count": _whole(1, 4),
    "hw_sound_model": _refused("there are no sound devices here", "none"),
    "hw_time_hpet": _refused("the HPET cannot be chosen", *_FALSE),
    "hw_tpm_model": _refused(_TPM),
    "hw_tpm_secret_security": _refused(_TPM),
    "hw_tpm_version": _refused(_TPM),
    "hw_usb_model": _refused("the USB controller cannot be chosen"),
    "hw_video_model": _choice(
        "vga",
        "virtio",
        "cirrus",
        "bochs",
        "none",
        also=dict.fromkeys(("qxl", "vmvga", "xen", "gop"), "QEMU here has no such video device"),
    ),
    "hw_video_ram": _refused("the size of video memory cannot be chosen"),
    "hw_vif_model": _choice(
        "virtio",
        "e1000",
        "e1000e",
        "rtl8139",
        also=dict.fromkeys(
            (
                "lan9118",
                "ne2k_pci",
                "netfront",
                "pcnet",
                "spapr-vlan",
                "sriov",
                "vmxnet",
                "vmxnet3",
            ),
            "QEMU here has no such network device",
        ),
    ),
    "hw_vif_multiqueue_enabled": _refused("network devices have one queue here", *_FALSE),
    "hw_viommu_model": _refused("guests have no IOMMU here", "none"),
    "hw_virtio_packed_ring": _refused("packed virtqueues are not available", *_FALSE),
    "hw_vm_mode": _choice(
        "hvm", also=dict.fromkeys(("xen", "uml", "exe", "pv"), "guests are hvm here")
    ),
    "hw_watchdog_action": _choice("none", "pause", "poweroff", "reset", "disabled"),
    "img_bdm_v2": _ignored,
    "img_bittorrent": _refused(_XENAPI, *_FALSE),
    "img_block_device_mapping": _ignored,
    "img_cache_in_nova": _ignored,
    "img_compression_level": _refused(_XENAPI),
    "img_config_drive": _choice("optional", "mandatory"),
    "img_hide_hypervisor_id": _refused("the hypervisor cannot be hidden", *_FALSE),
    "img_hv_requested_version": _refused("a hypervisor version cannot be required"),
    "img_hv_type": _choice("kvm", "qemu", also=_OTHER_HV),
    "img_linked_clone": _refused(_XENAPI),
    "img_mappings": _ignored,
    "img_owner_id": _text,
    "img_root_device_name": _device,
    "img_signature": _refused(_SIGNED),
    "img_signature_certificate_uuid": _refused(_SIGNED),
    "img_signature_hash_method": _refused(_SIGNED),
    "img_signature_key_type": _refused(_SIGNED),
    "img_use_agent": _refused(_XENAPI, *_FALSE),
    "img_version": _refused(_XENAPI),
    "kernel_id": _refused("guests boot from their disk, not from a kernel outside of it", ""),
    "os_admin_user": _text,
    "os_command_line": _refused("guests boot from their disk, not from a kernel outside of it", ""),
    "os_distro": _text,
    "os_require_quiesce": _flag,
    "os_secure_boot": _refused("secure boot is not available", "disabled", "optional"),
    "os_shutdown_timeout": _whole(0, 86400),
    "os_skip_agent_inject_files_at_boot": _ignored,
    "os_skip_agent_inject_ssh": _ignored,
    "os_type": _choice("linux", "windows"),
    "os_version": _text,
    "ramdisk_id": _refused("guests boot from their disk, not from a kernel outside of it", ""),
}
