"""What libvirt says of a host and of a running guest, in the forms that the rest uses."""

import platform
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from kilonova.objects.guest import Hardware, PowerState
from kilonova.objects.host import Inventory
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.connection import telling

UEFI = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
)
TRAITS = (
    "COMPUTE_DEVICE_TAGGING",
    "COMPUTE_GRAPHICS_MODEL_BOCHS",
    "COMPUTE_GRAPHICS_MODEL_CIRRUS",
    "COMPUTE_GRAPHICS_MODEL_NONE",
    "COMPUTE_GRAPHICS_MODEL_VGA",
    "COMPUTE_GRAPHICS_MODEL_VIRTIO",
    "COMPUTE_IMAGE_TYPE_ISO",
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_IMAGE_TYPE_VDI",
    "COMPUTE_IMAGE_TYPE_VMDK",
    "COMPUTE_NET_VIF_MODEL_E1000",
    "COMPUTE_NET_VIF_MODEL_E1000E",
    "COMPUTE_NET_VIF_MODEL_RTL8139",
    "COMPUTE_NET_VIF_MODEL_VIRTIO",
    "COMPUTE_STORAGE_BUS_IDE",
    "COMPUTE_STORAGE_BUS_SATA",
    "COMPUTE_STORAGE_BUS_SCSI",
    "COMPUTE_STORAGE_BUS_VIRTIO",
)


def inventory(
    conn: Any, instances: Path, virt_type: str, host_ip: str, reserved_mib: int
) -> Inventory:
    """Ask what the host has. Raises HypervisorDown."""
    with telling("The host's resources cannot be read."):
        _, memory_mib, cpus, *_ = conn.getInfo()
        version = conn.getVersion()
        model = ET.fromstring(conn.getCapabilities()).findtext("host/cpu/model")  # noqa: S314
    disk = shutil.disk_usage(instances)
    return Inventory(
        vcpus=cpus,
        memory_mib=memory_mib,
        disk_gib=disk.total >> 30,
        disk_free_gib=disk.free >> 30,
        reserved_memory_mib=min(reserved_mib, memory_mib // 4),
        hypervisor_type="QEMU",
        hypervisor_version=version,
        cpu_info={"arch": platform.machine(), "model": model or "unknown", "vendor": _vendor()},
        traits=TRAITS,
        host_ip=host_ip,
        supported=(("x86_64", virt_type, "hvm"),),
    )


def _vendor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    except OSError:
        return "unknown"
    return "unknown"


def freeze(conn: Any, asked: Hardware, virt_type: str) -> Hardware:
    """Return the hardware with what the driver chooses filled in: a versioned machine type, a CPU model by name.

    Raises DriverError when this host has no such machine type.
    """
    virt = asked.virt_type or virt_type
    machine = _machine(conn, asked.machine or "pc", virt)
    return asked.replace(
        machine=machine,
        virt_type=virt,
        cpu_model=asked.cpu_model or ("qemu64" if virt == "qemu" else "host-model"),
    )


def _machine(conn: Any, asked: str, virt_type: str) -> str:
    with telling("The host's machine types cannot be read."):
        top = ET.fromstring(conn.getCapabilities())  # noqa: S314 - libvirt's own
    for guest in top.iterfind("guest"):
        arch = guest.find("arch")
        if arch is None or guest.findtext("os_type") != "hvm" or arch.get("name") != "x86_64":
            continue
        domain = next((d for d in arch.iterfind("domain") if d.get("type") == virt_type), None)
        for scope in (domain, arch):
            for machine in () if scope is None else scope.iterfind("machine"):
                if machine.text == asked:
                    return machine.get("canonical") or asked
    raise DriverError(f"This host has no machine type {asked}.", elsewhere=True)


def uefi() -> tuple[Path, Path] | None:
    """Return (code, template of variables) of this host's UEFI firmware, None when it is not installed."""
    return next((pair for pair in UEFI if all(p.exists() for p in pair)), None)


def diagnostics(domain: Any, config_drive: bool) -> dict[str, object]:
    """Return a guest's counters. source: compute API, GET /servers/{id}/diagnostics from 2.48 on."""
    from kilonova.virt.libvirt.power import state_of

    power = state_of(domain)
    if power not in (PowerState.RUNNING, PowerState.PAUSED):
        raise DriverError("The server is not running.")
    with telling("The counters of the guest cannot be read."):
        stats = domain.connect().domainListGetStats([domain], 0, 0)[0][1]
        info = domain.info()
        memory = domain.memoryStats()
        macs = [
            mac.get("address", "")
            for mac in ET.fromstring(domain.XMLDesc()).iterfind("devices/interface/mac")  # noqa: S314
        ]
    used_kib = memory.get("actual", info[2]) - memory.get("unused", 0)
    return {
        "state": "running" if power == PowerState.RUNNING else "paused",
        "driver": "libvirt",
        "hypervisor": "qemu" if domain.OSType() == "hvm" else domain.OSType(),
        "hypervisor_os": "linux",
        "uptime": None,
        "config_drive": config_drive,
        "num_cpus": info[3],
        "num_nics": len(macs),
        "num_disks": stats.get("block.count", 0),
        "memory_details": {"maximum": info[1] // 1024, "used": used_kib // 1024},
        "cpu_details": [
            {"id": n, "time": stats.get(f"vcpu.{n}.time", 0), "utilisation": None}
            for n in range(stats.get("vcpu.maximum", 0))
        ],
        "nic_details": [
            {
                "mac_address": mac,
                **{
                    f"{way}_{ours}": stats.get(f"net.{n}.{way}.{theirs}", 0)
                    for way in ("rx", "tx")
                    for ours, theirs in (
                        ("octets", "bytes"),
                        ("packets", "pkts"),
                        ("errors", "errs"),
                        ("drop", "drop"),
                    )
                },
                "rx_rate": None,
                "tx_rate": None,
            }
            for n, mac in enumerate(macs)
        ],
        "disk_details": [
            {
                "read_bytes": stats.get(f"block.{n}.rd.bytes", 0),
                "read_requests": stats.get(f"block.{n}.rd.reqs", 0),
                "write_bytes": stats.get(f"block.{n}.wr.bytes", 0),
                "write_requests": stats.get(f"block.{n}.wr.reqs", 0),
                "errors_count": stats.get(f"block.{n}.errors", 0),
            }
            for n in range(stats.get("block.count", 0))
        ],
    }


def ours(domain: Any, mark: str) -> str | None:
    """Return the text of a domain's metadata element ``mark``, None when it has none."""
    try:
        text: str = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, mark, 0)
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
    return text
