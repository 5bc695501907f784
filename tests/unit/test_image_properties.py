"""Every image property is honoured or refused by name (DESIGN 8)."""

import pytest

from kilonova.common.errors import BadRequest
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import Hardware
from kilonova.objects.image_properties import LEGACY, READERS, ImageProperties


def test_what_is_honoured_reaches_the_hardware() -> None:
    read = ImageProperties.read(
        {
            "hw_disk_bus": "SCSI",
            "hw_vif_model": "e1000",
            "hw_qemu_guest_agent": "yes",
            "hw_boot_menu": "False",
            "hw_serial_port_count": "2",
            "hw_rng_model": "virtio",
            "hw_machine_type": "pc-q35-7.2",
            "hw_watchdog_action": "reset",
            "os_type": "Linux",
            "os_distro": "debian",
            "os_shutdown_timeout": "90",
            "trait:HW_CPU_X86_AVX": "required",
            "architecture": "amd64",
            "owner_specified.openstack.md5": "",
            "os_edition": "whatever",
        }
    )
    assert read.hw_disk_bus == "scsi" and read.hw_architecture == "x86_64"
    assert read.os_shutdown_timeout == 90 and read.traits_required == ("HW_CPU_X86_AVX",)
    hardware = Hardware(**read.hardware())
    assert hardware.disk_bus == "scsi" and hardware.guest_agent and hardware.serial_ports == 2
    assert hardware.machine == "pc-q35-7.2" and hardware.watchdog == "reset" and hardware.rng
    assert decode(encode(read), ImageProperties) == read


def test_nothing_asked_is_nothing_changed() -> None:
    assert Hardware(**ImageProperties.read({}).hardware()) == Hardware()


def test_the_new_name_wins_over_the_old() -> None:
    read = ImageProperties.read({"architecture": "i386", "hw_architecture": "x86_64"})
    assert read.hw_architecture == "x86_64"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("hw_disk_bus", "warp", "virtio, scsi, sata, ide, usb"),
        ("hw_disk_bus", "xen", "no xen device"),
        ("hw_vif_model", "vmxnet3", "no such network device"),
        ("hw_qemu_guest_agent", "perhaps", "true, false"),
        ("hw_serial_port_count", "-1", "whole number"),
        ("hw_serial_port_count", "²", "whole number"),
        ("hw_serial_port_count", "999999999999999999999", "whole number"),
        ("hw_machine_type", "pc,accel=tcg", "machine type"),
        ("hw_tpm_model", "tpm-crb", "TPM"),
        ("hw_numa_nodes", "0", "whole number"),
        ("hw_numa_mem.0", "much", "whole number"),
        ("hw_mem_page_size", "large", "huge pages"),
        ("hw_cpu_policy", "dedicated", "shared"),
        ("hw_nonsense", "1", "not known"),
        ("img_nonsense", "1", "not known"),
        ("img_hv_type", "vmware", "no vmware hosts"),
        ("hypervisor_type", "hyperv", "no hyperv hosts"),
        ("os_type", "plan9", "linux, windows"),
        ("os_secure_boot", "required", "secure boot"),
        ("vm_mode", "xen", "hvm"),
        ("kernel_id", "b1b2", "kernel"),
        ("trait:HW_CPU_X86_AVX", "forbidden", "required"),
        ("trait:bad name", "required", "trait"),
        ("img_root_device_name", "../../etc", "device name"),
    ],
)
def test_what_is_refused_names_property_and_reason(name: str, value: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        ImageProperties.read({name: value})
    assert name in refusal.value.message and reason in refusal.value.message


def test_values_that_ask_for_nothing_pass() -> None:
    asks_nothing = {
        "hw_cpu_policy": "shared",
        "hw_mem_page_size": "any",
        "os_secure_boot": "optional",
    }
    assert ImageProperties.read(asks_nothing) == ImageProperties()


def test_the_tables_agree() -> None:
    """No honoured field without a reader, no old name that leads nowhere."""
    fields = set(ImageProperties.__struct_fields__) - {"traits_required"}
    assert fields <= set(READERS)
    assert set(LEGACY.values()) <= set(READERS)
