"""A host's NUMA nodes and devices are providers below its own, as it reports them; what an operator set stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.common.devices import SimulatedDevices
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.objects.host import Inventory as Report
from kilonova.placement import claims, inventories, providers, reported, traits
from kilonova.placement.inventories import Inventory
from kilonova.placement.providers import InUse
from kilonova.virt.fake.devices import devices_of, nodes_of
from tests.scheduling import Cloud

GPU = "CUSTOM_PCI_10DE_1EB8"
FLAT = Report(vcpus=12, memory_mib=65536, disk_gib=100)
RICH = FLAT.replace(
    nodes=nodes_of(2, 16, 65536, range(12, 16)),
    dedicated=tuple(range(12, 16)),
    devices=devices_of([SimulatedDevices(GPU, 2, ("CUSTOM_FAST",), 1)]),
)
Below = dict[str, dict[str, int]]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


class Host:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.uuid = cloud, new_uuid()

    def says(self, report: Report) -> bool:
        """Report; return whether anything changed: then it was not what was known."""

        def put(tx: Tx) -> bool:
            known = reported.is_reported(tx, uuid=self.uuid, name="h", report=report)
            changed = reported.ensure_reported(
                tx, uuid=self.uuid, name="h", report=report, now=self.cloud.now
            )
            assert not (changed and known)
            return changed

        return self.cloud.db.write(put)

    def below(self) -> Below:
        """Return name -> class -> total."""

        def ask(tx: Tx) -> Below:
            root = providers.get(tx, self.uuid)
            return {
                p.name: {rc: i.total for rc, i in inventories.of(tx, p.id).items()}
                for p in providers.children(tx, root.id)
            }

        return self.cloud.db.read(ask)

    def part(self, tx: Tx, key: str) -> providers.Provider:
        return providers.get(tx, reported.uuid_of(self.uuid, key))

    def take(self, key: str, amounts: dict[str, int], consumer: str) -> None:
        wanted = {reported.uuid_of(self.uuid, key): amounts}
        self.cloud.db.write(
            lambda tx: claims.claim(
                tx, consumer=consumer, project="p", user="u", amounts=wanted, now=0.0
            )
        )


def test_nodes_and_devices_are_providers_below_the_host(cloud: Cloud) -> None:
    host = Host(cloud)
    assert host.says(RICH)
    node = {"CUSTOM_NUMA_VCPU": 6, "CUSTOM_NUMA_MEMORY_MB": 32768, "PCPU": 2}
    assert host.below() == {
        "h_numa0": node,
        "h_numa1": node,
        "h_0000:81:00.0": {GPU: 1},
        "h_0000:81:00.1": {GPU: 1},
    }
    root = cloud.db.read(lambda tx: inventories.of(tx, providers.get(tx, host.uuid).id))
    assert {rc: i.total for rc, i in root.items()} == {
        "VCPU": 12,
        "MEMORY_MB": 65536,
        "DISK_GB": 100,
    }
    device = cloud.db.read(lambda tx: traits.of(tx, host.part(tx, "0000:81:00.0").id))
    assert device == {"COMPUTE_MANAGED_PCI_DEVICE", "CUSTOM_FAST"}
    assert cloud.db.read(lambda tx: traits.of(tx, host.part(tx, "numa0").id)) == {"HW_NUMA_ROOT"}
    assert not host.says(RICH), "said again it changes nothing"


def test_dedicated_cpus_of_a_host_without_nodes_are_its_own(cloud: Cloud) -> None:
    host = Host(cloud)
    assert host.says(FLAT.replace(dedicated=(12, 13)))
    assert host.below() == {}
    root = cloud.db.read(lambda tx: inventories.of(tx, providers.get(tx, host.uuid).id))
    assert root["PCPU"] == Inventory(2, 0, 1, 2, 1, 1.0)


def test_what_an_operator_set_stays(cloud: Cloud) -> None:
    host = Host(cloud)
    host.says(RICH)
    own = new_uuid()

    def set_by_hand(tx: Tx) -> None:
        device = host.part(tx, "0000:81:00.0")
        inventories.write(tx, device.id, GPU, Inventory(1, 1, 1, 1, 1, 1.0))  # out of service
        traits.make(tx, "CUSTOM_RACK_7", 0.0)
        traits.mark(tx, device.id, "CUSTOM_RACK_7", True)
        providers.create(tx, uuid=own, name="h_own", parent=host.uuid, now=0.0)

    cloud.db.write(set_by_hand)
    assert not host.says(RICH)
    assert host.says(FLAT), "its own parts go"
    assert list(host.below()) == ["h_own"]


def test_a_device_that_is_gone_is_kept_while_somebody_has_it(cloud: Cloud) -> None:
    host = Host(cloud)
    host.says(RICH)
    host.take("0000:81:00.1", {GPU: 1}, "s")
    host.says(RICH.replace(devices=RICH.devices[:1]))
    assert "h_0000:81:00.1" in host.below()
    with pytest.raises(claims.OverCapacity):
        host.take("0000:81:00.1", {GPU: 1}, "t")
    with pytest.raises(InUse):
        cloud.db.write(
            lambda tx: reported.remove_parts(tx, providers.get(tx, host.uuid), cloud.now)
        )
    cloud.db.write(lambda tx: claims.release(tx, "s", now=cloud.now))
    assert host.says(RICH.replace(devices=RICH.devices[:1]))
    assert "h_0000:81:00.1" not in host.below()


def test_a_device_may_change_its_class(cloud: Cloud) -> None:
    host = Host(cloud)
    host.says(RICH)
    one = RICH.devices[0].replace(resource_class="CUSTOM_GPU_T4")
    assert host.says(RICH.replace(devices=(one,)))
    assert host.below()["h_0000:81:00.0"] == {"CUSTOM_GPU_T4": 1}


def test_a_name_that_an_operator_took_does_not_keep_a_host_out(cloud: Cloud) -> None:
    host = Host(cloud)
    cloud.db.write(lambda tx: providers.create(tx, uuid=new_uuid(), name="h_0000:81:00.0", now=0.0))
    cloud.db.write(
        lambda tx: reported.ensure_reported(
            tx, uuid=host.uuid, name="h", report=RICH, now=cloud.now
        )
    )
    assert "h_0000:81:00.1" in host.below()
