"""Orders about volumes and disks: done, repeated, undone to nothing, aborted; exports asked for, applied, reported."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent.metadata.store import FileMetadataStore
from kilonova.bus.interface import Bus
from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.objects import volume_orders as v
from kilonova.objects.base import Versioned, decode, encode
from kilonova.objects.order import Answer, AnswerState, Direction, Order, pack, unpack
from tests.unit.agent_kit import Cloud, build_of, eventually, order_of

DONE, FAILED = AnswerState.DONE, AnswerState.FAILED


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


def volume_order(payload: Versioned, verb: str, **more: object) -> Order:
    """An order about a volume: the volume's id is where a server's would be."""
    order = order_of(g.GuestDelete(server_id=payload.volume_id), verb, **more)  # type: ignore[attr-defined,arg-type]
    return order.replace(body=pack(payload))


def undone(order: Order, payload: Versioned) -> Order:
    return order.replace(direction=Direction.UNDO, seq=order.seq + 1, body=pack(payload))


def perform(cloud: Cloud, payload: Versioned, verb: str, epoch: int = 1) -> Answer:
    return cloud.conductor.perform(volume_order(payload, verb, epoch=epoch))


def make(cloud: Cloud, size_gib: int = 2, **more: object) -> v.VolumeMade:
    wanted = v.VolumeMake(volume_id=new_uuid(), size_gib=size_gib, **more)  # type: ignore[arg-type]
    answer = perform(cloud, wanted, "volume_make")
    assert answer.state == DONE, answer
    return unpack(answer.body, v.VolumeMade)


def id_of(made: v.VolumeMade) -> str:
    return made.path.rpartition("/")[2].removesuffix(".qcow2")


def disk_of(made: v.VolumeMade, **more: object) -> g.FileDisk:
    serial = id_of(made)
    return g.FileDisk(name="v", path=made.path, format=made.format, serial=serial, **more)  # type: ignore[arg-type]


def attach(cloud: Cloud, server: str, disk: g.FileDisk | g.NbdDisk, epoch: int = 5) -> Answer:
    payload = g.GuestAttachDisk(server_id=server, disk=disk)
    return cloud.conductor.perform(order_of(payload, "guest_attach_disk", epoch=epoch))


def test_life_of_a_volume(cloud: Cloud) -> None:
    """Made, made from it, grown, kept as a snapshot, removed: nothing is left."""
    cloud.agent()
    made = make(cloud)
    volume, snapshot = id_of(made), new_uuid()
    grown = perform(cloud, v.VolumeExtend(volume_id=volume, size_gib=3), "volume_extend", 2)
    assert unpack(grown.body, v.VolumeMade).size_gib == 3
    keep = v.SnapshotMake(volume_id=volume, snapshot_id=snapshot)
    assert perform(cloud, keep, "snapshot_make", 3).state == DONE
    copies = [make(cloud, 3, snapshot_id=snapshot), make(cloud, 4, source_volid=volume)]
    assert {x.kind for x in cloud.world.ledger()} == {"volume file", "snapshot file"}
    for copy in copies:
        perform(cloud, v.VolumeRemove(volume_id=id_of(copy)), "volume_remove", 2)
    gone = v.SnapshotRemove(volume_id=volume, snapshot_id=snapshot)
    for epoch, existed in ((4, True), (5, False)):
        answer = perform(cloud, gone, "snapshot_remove", epoch)
        assert unpack(answer.body, v.VolumeGone).existed is existed
    for epoch, existed in ((6, True), (7, False)):
        answer = perform(cloud, v.VolumeRemove(volume_id=volume), "volume_remove", epoch)
        assert unpack(answer.body, v.VolumeGone).existed is existed
    assert cloud.world.ledger() == []


def test_too_small_for_its_source_and_no_such_source(cloud: Cloud) -> None:
    cloud.agent()
    source = id_of(make(cloud, 5))
    for wanted in (
        v.VolumeMake(volume_id=new_uuid(), size_gib=4, source_volid=source),
        v.VolumeMake(volume_id=new_uuid(), size_gib=4, snapshot_id=new_uuid()),
    ):
        assert perform(cloud, wanted, "volume_make").state == FAILED
    assert [x.kind for x in cloud.world.ledger()] == ["volume file"]


@pytest.mark.parametrize("fault", ["volume_make_fail", "volume_hang"])
def test_making_is_undone_to_nothing(cloud: Cloud, fault: str) -> None:
    """A part file is seen in the ledger until it is undone; an order that hangs is overtaken by its undo."""
    cloud.agent()
    cloud.world.faults.set(fault)
    wanted = v.VolumeMake(volume_id=new_uuid(), size_gib=1)
    order = volume_order(wanted, "volume_make")
    cloud.conductor.send(order)
    if fault == "volume_make_fail":
        assert cloud.conductor.final(order).state == FAILED
    else:
        cloud.conductor.until(lambda: cloud.world.faults.hits.get(fault))
    assert [x.kind for x in cloud.world.ledger()] == ["part file"]
    cloud.world.faults.clear()
    undo = undone(order, v.VolumeRemove(volume_id=wanted.volume_id))
    assert cloud.conductor.perform(undo).state == DONE
    assert cloud.world.ledger() == []
    assert cloud.world.faults.hits[fault] >= 1


def test_snapshot_and_upload_are_undone_to_nothing(cloud: Cloud) -> None:
    cloud.agent()
    volume = id_of(make(cloud))
    before = cloud.world.ledger()
    for fault, verb, wanted, unwanted in (
        (
            "snapshot_fail",
            "snapshot_make",
            v.SnapshotMake(volume_id=volume, snapshot_id=new_uuid()),
            None,
        ),
        (
            "volume_upload_fail",
            "volume_upload",
            v.VolumeUpload(volume_id=volume, image_id=new_uuid(), url="image:1"),
            None,
        ),
    ):
        cloud.world.faults.set(fault)
        order = volume_order(wanted, verb, epoch=2)
        assert cloud.conductor.perform(order).state == FAILED
        assert cloud.world.faults.hits[fault] == 1
        assert cloud.world.ledger() != before
        if isinstance(wanted, v.SnapshotMake):
            unwanted = v.SnapshotRemove(volume_id=volume, snapshot_id=wanted.snapshot_id)
        assert cloud.conductor.perform(undone(order, unwanted or wanted)).state == DONE
        assert cloud.world.ledger() == before


def test_upload(cloud: Cloud) -> None:
    """The image gets bytes of a sound qcow2 file, and the host keeps none."""
    sent: dict[str, bytes] = {}
    cloud.world.volumes("host1", lambda url, path, _: sent.update({url: path.read_bytes()}))
    cloud.agent()
    volume = id_of(make(cloud, 7))
    upload = v.VolumeUpload(volume_id=volume, image_id=new_uuid(), url="image:7")
    answer = perform(cloud, upload, "volume_upload", 2)
    done = unpack(answer.body, v.VolumeUploaded)
    assert done.virtual_size == 7 << 30
    assert sent["image:7"][:4] == b"QFI\xfb"
    assert done.size == len(sent["image:7"])
    assert [x.kind for x in cloud.world.ledger()] == ["volume file"]


def test_attach_and_detach(cloud: Cloud) -> None:
    """To a guest that runs; the undo of an attach takes out what it gave, and is fine when it gave nothing."""
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    before = cloud.world.ledger()
    made = make(cloud)
    serial = id_of(made)
    order = order_of(
        g.GuestAttachDisk(server_id=build.server_id, disk=disk_of(made, tag="data")),
        "guest_attach_disk",
        epoch=5,
    )
    answer = cloud.conductor.perform(order)
    device = unpack(answer.body, g.GuestDevices).devices[-1]
    assert (device.serial, device.tag) == (serial, "data")
    driver = cloud.world.driver("host1")
    assert driver.disk_serials(build.server_id) == (serial,)
    detach = g.GuestDetachDisk(server_id=build.server_id, serial=serial)
    for seq in (2, 3):
        again = undone(order, detach).replace(seq=seq)
        assert cloud.conductor.perform(again).state == DONE
    assert driver.disk_serials(build.server_id) == ()
    perform(cloud, v.VolumeRemove(volume_id=serial), "volume_remove", 2)
    assert cloud.world.ledger() == before


def test_detach_waits_until_the_guest_lets_go(cloud: Cloud) -> None:
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    made = make(cloud)
    assert attach(cloud, build.server_id, disk_of(made)).state == DONE
    cloud.world.faults.set("detach_disk_busy", times=3)
    detach = g.GuestDetachDisk(server_id=build.server_id, serial=id_of(made))
    order = order_of(detach, "guest_detach_disk", epoch=6)
    assert cloud.conductor.perform(order).state == DONE
    assert cloud.world.faults.hits["detach_disk_busy"] == 3
    assert cloud.world.driver("host1").disk_serials(build.server_id) == ()


def test_metadata_follows(cloud: Cloud, tmp_path: Path) -> None:
    """The device that is attached is in the document with its tag, and one that was detached is not."""
    store = FileMetadataStore(tmp_path)
    cloud.agent(metadata=store)
    build = build_of()
    cloud.conductor.perform(order_of(build))
    made, server = make(cloud), build.server_id
    document = build.metadata.replace(generation=2)
    disk = disk_of(made, tag="data")
    payload = g.GuestAttachDisk(server_id=server, disk=disk, metadata=document)
    cloud.conductor.perform(order_of(payload, "guest_attach_disk", epoch=5))
    served = store.get(server)
    assert served is not None and served.document.generation == 2
    assert [(d.kind, d.tag) for d in served.devices][-1] == ("disk", "data")
    before = len(served.devices)
    detach = g.GuestDetachDisk(
        server_id=server, serial=id_of(made), metadata=document.replace(generation=3)
    )
    cloud.conductor.perform(order_of(detach, "guest_detach_disk", epoch=6))
    served = store.get(server)
    assert served is not None and served.document.generation == 3
    assert len(served.devices) == before - 1
    assert all(d.serial != id_of(made) for d in served.devices)


def test_a_volume_that_a_guest_has(cloud: Cloud) -> None:
    """Grown, kept and copied through the guest's driver; a guest that is gone is no matter."""
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    made = make(cloud)
    volume, server = id_of(made), build.server_id
    attach(cloud, server, disk_of(made))
    cloud.world.faults.set("copy_disk_fail")
    keep = v.SnapshotMake(volume_id=volume, snapshot_id=new_uuid(), attached_to=server)
    assert perform(cloud, keep, "snapshot_make", 2).state == FAILED
    cloud.world.faults.clear()
    assert perform(cloud, keep, "snapshot_make", 3).state == DONE
    extend = v.VolumeExtend(volume_id=volume, size_gib=9, attached_to=server)
    answer = perform(cloud, extend, "volume_extend", 4)
    assert unpack(answer.body, v.VolumeMade).size_gib == 9
    cloud.conductor.perform(order_of(g.GuestDelete(server_id=server), "guest_delete", epoch=9))
    assert {x.kind for x in cloud.world.ledger()} == {"volume file", "snapshot file"}
    again = keep.replace(snapshot_id=new_uuid())
    assert perform(cloud, again, "snapshot_make", 5).state == DONE


def test_two_writers_are_refused_and_counted(cloud: Cloud) -> None:
    """R13: not even a wrong order makes a second one; the ledger remembers that it was tried."""
    cloud.agent()
    one, two = build_of(), build_of()
    for build in (one, two):
        cloud.conductor.perform(order_of(build))
    made = make(cloud)
    assert attach(cloud, one.server_id, disk_of(made)).state == DONE
    assert attach(cloud, two.server_id, disk_of(made)).state == FAILED
    assert [x.server for x in cloud.world.ledger() if x.kind == "second writer"] == [two.server_id]
    cloud.world.second_writers.clear()
    assert attach(cloud, two.server_id, disk_of(made, shareable=True), 6).state == DONE


class Exporter:
    """The volume service's side of exports."""

    def __init__(self, bus: Bus) -> None:
        self.wanted = v.VolumeExports(host="host1", generation=1)
        self.heard: list[v.ExportsApplied] = []
        self.bus = bus
        bus.subscribe("volume.state.*", lambda _, body: encode(self.wanted))
        bus.subscribe(
            "volume.report.*", lambda _, body: self.heard.append(decode(body, v.ExportsApplied))
        )

    def publish(self, generation: int, *exports: v.VolumeExport) -> None:
        wanted = v.VolumeExports(host="host1", generation=generation, exports=exports)
        self.bus.publish("agent.host1.state", encode(wanted))


def test_exports(cloud: Cloud) -> None:
    """Asked for at the start, applied in order of their generation, each reported; a guest reaches what is in force."""
    exporter = Exporter(cloud.bus)
    cloud.agent()
    cloud.conductor.until(lambda: True)
    made = make(cloud)
    build = build_of()
    cloud.conductor.perform(order_of(build))
    export = v.VolumeExport(attachment_id=new_uuid(), volume_id=id_of(made), name="secret")
    missing = v.VolumeExport(attachment_id=new_uuid(), volume_id=new_uuid(), name="other")
    exporter.publish(5, export, missing)
    eventually(lambda: any(h.generation == 5 for h in exporter.heard))
    applied = next(h for h in exporter.heard if h.generation == 5)
    assert [a for a, _ in applied.failed] == [missing.attachment_id]
    exporter.publish(4)
    eventually(lambda: len(exporter.heard) >= 3)
    assert exporter.heard[-1].generation == 5
    disk = g.NbdDisk(
        name="v",
        host=applied.address,
        port=applied.port,
        export="guessed",
        serial=id_of(made),
    )
    assert attach(cloud, build.server_id, disk).state == FAILED
    right = disk.replace(export="secret")
    assert attach(cloud, build.server_id, right, 6).state == DONE
    extend = v.VolumeExtend(volume_id=id_of(made), size_gib=50)
    assert perform(cloud, extend, "volume_extend", 3).state == FAILED
    detach = g.GuestDetachDisk(server_id=build.server_id, serial=id_of(made))
    cloud.conductor.perform(order_of(detach, "guest_detach_disk", epoch=7))
    remove = volume_order(v.VolumeRemove(volume_id=id_of(made)), "volume_remove", epoch=4)
    cloud.conductor.send(remove)
    exporter.publish(6)
    assert cloud.conductor.final(remove).state == DONE
