"""What a real host gives to guests alone, read from a tree like /sys, and the domain that a guest gets of it.

No such device is in the machines of the tests: the XML is held to libvirt's own schema, and never ran with a device.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kilonova.common.devices import DeviceSpec
from kilonova.objects.guest import GuestBuild, Hardware, MetadataDocument, PassedDevice
from kilonova.objects.host import HostDevice, HostNode
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import passthrough, xml

SERVER = "11111111-1111-4111-8111-111111111111"
GPU = PassedDevice(address="0000:81:00.0", resource_class="CUSTOM_PCI_10DE_1EB8")


def device(sys: Path, address: str, vendor: str, product: str, kind: str, node: int) -> None:
    folder = sys / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in (
        ("vendor", f"0x{vendor}"),
        ("device", f"0x{product}"),
        ("class", f"0x{kind}"),
        ("numa_node", str(node)),
    ):
        (folder / name).write_text(text + "\n")


def domain(host_nodes: tuple[HostNode, ...] = (), **more: object) -> str:
    build = GuestBuild(
        server_id=SERVER,
        name="web",
        project_id="p",
        vcpus=4,
        memory_mib=1024,
        disks=(),
        nics=(),
        images=(),
        hardware=Hardware(),
        metadata=MetadataDocument(
            server_id=SERVER,
            generation=1,
            name="web",
            hostname="web",
            project_id="p",
            availability_zone="nova",
        ),
        **more,  # type: ignore[arg-type]
    )
    hardware = Hardware(machine="pc-i440fx-7.2", virt_type="qemu", cpu_model="qemu64")
    return xml.domain(xml.Facts(build, hardware, {}, {}, Path("/i"), "tag", None, None, host_nodes))


def check_by_schema(text: str) -> None:
    """Have libvirt hold a domain to its own schema: its driver for tests, which needs no daemon."""
    libvirt = pytest.importorskip("libvirt")
    own = re.sub(r' machine="[^"]*"', "", text.replace('type="qemu"', 'type="test"', 1))
    conn = libvirt.open("test:///default")
    try:
        conn.defineXMLFlags(own, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    finally:
        conn.close()


def test_only_devices_that_are_allowed_are_reported(tmp_path: Path) -> None:
    device(tmp_path, "0000:81:00.0", "10de", "1eb8", "030200", 1)
    device(tmp_path, "0000:82:00.0", "8086", "154d", "020000", -1)
    device(tmp_path, "0000:00:1c.0", "10de", "1eb8", "060400", 0)  # a bridge
    specs = [DeviceSpec.read({"vendor_id": "10de", "traits": ["fast"]})]
    assert passthrough.host_devices(specs, tmp_path) == (
        HostDevice(
            address="0000:81:00.0",
            resource_class="CUSTOM_PCI_10DE_1EB8",
            traits=("CUSTOM_FAST",),
            numa_node=1,
        ),
    )
    by_address = [DeviceSpec.read({"address": "0000:82:*", "resource_class": "nic"})]
    (nic,) = passthrough.host_devices(by_address, tmp_path)
    assert (nic.resource_class, nic.numa_node) == ("CUSTOM_NIC", None)
    assert passthrough.host_devices([], tmp_path) == ()


def test_a_host_with_one_node_has_none_to_report(tmp_path: Path) -> None:
    for n, cpus in ((0, "0-3"), (1, "4-7")):
        folder = tmp_path / "devices/system/node" / f"node{n}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
        (folder / "meminfo").write_text(f"Node {n} MemTotal:       2097152 kB\n")
        if n == 0:
            assert passthrough.host_nodes([2, 3], tmp_path) == ()
    first, second = passthrough.host_nodes([2, 3], tmp_path)
    assert (first.cpus, first.dedicated, first.memory_mib) == ((0, 1), (2, 3), 2048)
    assert (second.number, second.cpus, second.dedicated) == (1, (4, 5, 6, 7), ())


def test_a_guest_has_the_device_by_our_alias() -> None:
    text = domain(passed=(GPU,))
    (found,) = ET.fromstring(text).iterfind("devices/hostdev")
    assert found.attrib == {"mode": "subsystem", "type": "pci", "managed": "yes"}
    place = found.find("source/address")
    assert place is not None
    assert place.attrib == {
        "domain": "0x0000",
        "bus": "0x81",
        "slot": "0x00",
        "function": "0x0",
    }
    (shown,) = [d for d in xml.devices_of(text, {}) if d.kind == "hostdev"]
    assert shown.path == GPU.address
    check_by_schema(text)


def test_a_device_stays_where_the_guest_sees_it() -> None:
    before = ET.fromstring(domain(passed=(GPU,)))
    (there,) = before.iterfind("devices/hostdev")
    ET.SubElement(there, "address", type="pci", domain="0", bus="0", slot="7", function="0")
    again = xml.with_addresses_of(domain(passed=(GPU,)), ET.tostring(before, encoding="unicode"))
    (found,) = [d for d in xml.devices_of(again, {}) if d.kind == "hostdev"]
    assert found.address == "0000:00:07.0"


def test_a_device_that_is_not_allowed_is_refused() -> None:
    allowed = (HostDevice(address="0000:82:00.0", resource_class="A"),)
    said = passthrough.refuses((GPU,), allowed)
    assert said == "This host has no device 0000:81:00.0 for guests."
    assert passthrough.refuses((), allowed) is None
    with pytest.raises(DriverError):
        passthrough.element(PassedDevice(address="81:00"))
