"""Settings about devices and CPUs: Nova's forms, and an error that names file, key and fault (SM-13)."""

from pathlib import Path

import pytest

from kilonova.common.config import BadConfig, load
from kilonova.common.devices import DeviceSpec, PciAlias, numbers

FILE = """
pci_alias = [
  '{"name": "gpu", "vendor_id": "10DE", "product_id": "1eb8", "device_type": "type-PCI", "numa_policy": "preferred"}',
  { name = "fpga", resource_class = "fpga-a10", traits = "HW_CPU_X86_AVX,fast" },
]
pci_device_spec = [{ vendor_id = "10de", product_id = "1eb8" }, { address = "0000:81:*" }]
fake_host_devices = [{ vendor_id = "10de", product_id = "1eb8", count = 2, numa_node = 1 }]
"""


def test_devices_are_read_in_novas_forms(tmp_path: Path) -> None:
    path = tmp_path / "kilonova.toml"
    path.write_text(FILE)
    s = load(path, {})
    gpu, fpga = s.pci_alias
    assert gpu == PciAlias("gpu", "CUSTOM_PCI_10DE_1EB8", (), "preferred")
    assert fpga.resource_class == "CUSTOM_FPGA_A10"
    assert fpga.traits == ("CUSTOM_FAST", "HW_CPU_X86_AVX")
    by_ids, by_address = s.pci_device_spec
    assert by_ids.allows("0000:03:00.0", "10de", "1eb8")
    assert not by_ids.allows("0000:03:00.0", "10de", "1eb9")
    assert by_address.allows("0000:81:00.1", "8086", "1515")
    assert not by_address.allows("0000:82:00.1", "8086", "1515")
    assert [(d.resource_class, d.count, d.numa_node) for d in s.fake_host_devices] == [
        ("CUSTOM_PCI_10DE_1EB8", 2, 1)
    ]


def test_the_environment_gives_lists_in_json() -> None:
    text = '[{"name": "a", "resource_class": "VGPU"}]'
    assert load(None, {"KILONOVA_PCI_ALIAS": text}).pci_alias == (PciAlias("a", "VGPU"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pci_alias = ['no json']", "pci_alias is no JSON"),
        ("pci_alias = [{ vendor_id = '10de', product_id = '1eb8' }]", "pci_alias needs a name"),
        ("pci_alias = [{ name = 'a', vendor_id = '10de' }]", "needs vendor_id and product_id"),
        ("pci_alias = [{ name = 'a', vendor_id = 'x', product_id = 'y' }]", "four hexadecimal"),
        ("pci_alias = [{ name = 'a', resource_class = 'b', numa_policy = 'c' }]", "numa_policy"),
        ("pci_alias = [{ name = 'a', resource_class = 'b', more = 1 }]", "no such key: more"),
        ("pci_alias = 'a'", "pci_alias"),
        ("pci_device_spec = [{}]", "it would be every device"),
        ("fake_host_devices = [{ resource_class = 'A', count = 0 }]", "count must be a whole"),
        ("fake_host_numa_nodes = 0", "fake_host_numa_nodes"),
        ("fake_host_dedicated_cpus = 100", "fake_host_dedicated_cpus"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "kilonova.toml"
    path.write_text(text)
    with pytest.raises(BadConfig) as caught:
        load(path, {})
    assert str(path) in caught.value.message
    assert says in caught.value.message


def test_sets_of_cpus() -> None:
    assert numbers(" 1, 3-5 ,^4") == {1, 3, 5}
    assert numbers("4-7,^6,12") == {4, 5, 7, 12}
    assert numbers("") == set()
    with pytest.raises(ValueError, match="'4-2' is no CPU"):
        numbers("4-2")
    assert DeviceSpec.read({"vendor_id": "8086"}).product_id is None
