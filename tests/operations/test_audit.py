"""The audit finds nothing on a clean cloud, and every fault that is planted (R21); reconcilers mend what is safe."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db.engine import Database
from kilonova.db.schema import cell as c
from kilonova.db.schema import world as w
from kilonova.objects.base import encode
from kilonova.objects.guest import GuestDelete, PowerState
from kilonova.objects.order import Direction, Order, pack
from kilonova.objects.server import DiskRequest
from kilonova.operations import cleanup, interface_attach, server_disks
from kilonova.placement import schema as p
from kilonova.reconcile import audit, retention
from kilonova.reconcile.loop import Reconcilers
from kilonova.saga.schema import TABLES
from kilonova.virt.fake.files import FakeFile
from kilonova.volume.embedded import schema as v
from kilonova.volume.embedded.creating import NewVolume
from tests.operations.server_world import CONTEXT, PROJECT, USER, ServerWorld

O = TABLES.operation  # noqa: E741
LATER_S = 3600.0
Plant = Callable[[ServerWorld], None]


def _change(db: Database, statement: Any) -> None:
    assert db.write(lambda tx: tx.change(statement)) >= 1, "nothing was planted"


def _world(x: ServerWorld) -> Database:
    return x.services.world


def _cell(x: ServerWorld) -> Database:
    return x.services.cell("cell1")


def _guest_missing(x: ServerWorld) -> None:
    x.guests.lose(x.server)


def _guest_unknown(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put(host, msgspec.structs.replace(guest, server=new_uuid()))


def _guest_elsewhere(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put("cell1-host2" if host == "cell1-host1" else "cell1-host1", guest)


def _guest_disks(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put(host, msgspec.structs.replace(guest, volumes=(*guest.volumes, new_uuid())))


def _disk_missing(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put(host, msgspec.structs.replace(guest, disks=()))


def _disk_unknown(x: ServerWorld) -> None:
    """What a build leaves whose order nobody remembers: files, and no guest yet."""
    host, guest = x.guests.find(x.server)
    nobody = msgspec.structs.replace(guest, server=new_uuid(), power=int(PowerState.NOSTATE))
    x.guests.put(host, nobody)


def _volume_data_missing(x: ServerWorld) -> None:
    volume = _made(x)
    (host,) = {h for kind, h, id_, _ in x.guests.files.ledger() if id_ == volume}
    assert x.guests.files.drop(host, "volume", volume)


def _volume_data_unknown(x: ServerWorld) -> None:
    x.guests.files.put("cell1-host1", FakeFile(kind="volume", id=new_uuid(), size_gib=1))


def _guest_nics(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put(host, msgspec.structs.replace(guest, nics=()))


def _guest_power(x: ServerWorld) -> None:
    host, guest = x.guests.find(x.server)
    x.guests.put(host, msgspec.structs.replace(guest, power=int(PowerState.SHUTDOWN)))


def _port_orphan(x: ServerWorld) -> None:
    network = msgspec.json.decode((x.path / "network.json").read_bytes())["network"]
    x.network.ensure_port(
        (new_uuid(), "nic0"),
        project_id="p",
        device_id=new_uuid(),
        host="cell1-host1",
        network_id=network,
    )


def _port_unrecorded(x: ServerWorld) -> None:
    network = msgspec.json.decode((x.path / "network.json").read_bytes())["network"]
    x.network.ensure_port(
        (new_uuid(), "nic0"),
        project_id="p",
        device_id=x.server,
        host=x.row()["host"],
        network_id=network,
    )


def _port_reserved(x: ServerWorld) -> None:
    network = msgspec.json.decode((x.path / "network.json").read_bytes())["network"]
    x.network.ensure_port(
        (new_uuid(), interface_attach.ITEM),
        project_id="p",
        device_id=x.server,
        host=x.row()["host"],
        network_id=network,
    )


def _port_binding_left(x: ServerWorld) -> None:
    """The port of a server that does not move, bound to a second host."""
    other = next(h for h in ("cell1-host1", "cell1-host2") if h != x.row()["host"])
    x.network.add_bindings(x.server, other)


def _port_missing(x: ServerWorld) -> None:
    x.network.remove_port(port_id=x.network.ports_of([x.server])[x.server][0].port_id)


def _allocation_missing(x: ServerWorld) -> None:
    _change(_world(x), sa.delete(p.allocation).where(p.allocation.c.consumer == x.server))


def _consumer(x: ServerWorld, uuid: str, used: int = 1) -> None:
    consumer = sa.insert(p.consumer).values(
        uuid=uuid,
        generation=1,
        project_id="p",
        user_id="u",
        type="INSTANCE",
        created_at=1.0,
        updated_at=1.0,
    )
    _change(_world(x), consumer)
    provider = _world(x).read(lambda tx: tx.select(sa.select(p.resource_provider.c.id)))[0][0]
    _change(
        _world(x),
        sa.insert(p.allocation).values(
            consumer=uuid, provider=provider, resource_class="VCPU", used=used
        ),
    )


def _allocation_orphan(x: ServerWorld) -> None:
    gone = new_uuid()  # deleted once: only its compact record is left
    row = dict(x.row())
    row.update(uuid=gone, deleted=1, vm_state="deleted", terminated_at=x.clock.now())
    _change(_cell(x), sa.insert(c.server).values(**row))
    _consumer(x, gone)


def _allocation_of_a_stranger(x: ServerWorld) -> None:
    _consumer(x, new_uuid())


def _allocation_elsewhere(x: ServerWorld) -> None:
    other = sa.select(p.resource_provider.c.id).where(p.resource_provider.c.name != x.row()["host"])
    provider = _world(x).read(lambda tx: tx.select(other))[0][0]
    _change(
        _world(x),
        sa.update(p.allocation)
        .where(p.allocation.c.consumer == x.server)
        .values(provider=provider),
    )


def _over_capacity(x: ServerWorld) -> None:
    _change(
        _world(x),
        sa.update(p.allocation).where(p.allocation.c.resource_class == "VCPU").values(used=10_000),
    )


def _server_unmapped(x: ServerWorld) -> None:
    row = dict(x.row())
    row.update(uuid=new_uuid(), host=None, nics="[]")
    _change(_cell(x), sa.insert(c.server).values(**row))


def _server_in_two_cells(x: ServerWorld) -> None:
    _change(x.services.cell("cell0"), sa.insert(c.server).values(**dict(x.row())))


def _server_hidden(x: ServerWorld) -> None:
    _change(_cell(x), sa.update(c.server).values(hidden=1))


def _copy_left(x: ServerWorld) -> None:
    row = {**dict(x.row()), "hidden": 1}
    _change(x.services.cell("cell0"), sa.insert(c.server).values(**row))


def _mapping_without_server(x: ServerWorld) -> None:
    _change(_cell(x), sa.delete(c.server).where(c.server.c.uuid == x.server))


def _unplaced(x: ServerWorld) -> None:
    _change(_world(x), sa.update(w.server_mapping).values(cell=None))


def _cell_unknown(x: ServerWorld) -> None:
    _change(_world(x), sa.update(w.server_mapping).values(cell="cell9"))


def _host_differs(x: ServerWorld) -> None:
    other = "cell1-host2" if x.row()["host"] == "cell1-host1" else "cell1-host1"
    _change(_world(x), sa.update(w.server_mapping).values(host=other))


def _quota_differs(x: ServerWorld) -> None:
    _change(_world(x), sa.update(w.server_mapping).values(vcpus=7))


def _delete_lost(x: ServerWorld) -> None:
    _change(_world(x), sa.update(w.server_mapping).values(delete_requested=1))


def _task_without_operation(x: ServerWorld) -> None:
    _change(_cell(x), sa.update(c.server).values(task_state="powering-off"))


def _operations_doubled(x: ServerWorld) -> None:
    columns = [x for x in (k.name for k in O.c) if x not in ("id", "state", "ended_at", "wake_at")]
    for _ in range(2):
        values = [O.c[col] for col in columns]
        copy = sa.select(
            sa.literal(new_uuid()),
            sa.literal("waiting"),
            sa.null(),
            sa.literal(x.clock.now()),
            *values,
        ).limit(1)
        _change(
            _world(x),
            sa.insert(O).from_select(["id", "state", "ended_at", "wake_at", *columns], copy),
        )


def _operation(x: ServerWorld, **values: Any) -> None:
    _change(_world(x), sa.update(O).values(state="waiting", ended_at=None, **values))


def _operation_overdue(x: ServerWorld) -> None:
    _operation(x, wake_at=x.clock.now(), deadline=x.clock.now() - 1.0)


def _operation_stuck(x: ServerWorld) -> None:
    _operation(x, wake_at=x.clock.now() - 1000.0)


def _operation_unknown(x: ServerWorld) -> None:
    _operation(x, wake_at=x.clock.now(), kind="server_fly")


def _secret_orphan(x: ServerWorld) -> None:
    vault = x.services.vault
    _cell(x).write(
        lambda tx: vault.put(tx, owner=new_uuid(), kind="user_data", value=Secret("x"), now=1.0)
    )


def _action_open(x: ServerWorld) -> None:
    _change(_cell(x), sa.update(c.instance_action).values(finished_at=None))


def _host_unmapped(x: ServerWorld) -> None:
    _change(_world(x), sa.delete(w.host_mapping))


def _host_missing(x: ServerWorld) -> None:
    _change(_world(x), sa.insert(w.host_mapping).values(host="lost", cell="cell1", host_id="x"))


def _host_in_two_cells(x: ServerWorld) -> None:
    _change(_world(x), sa.update(w.host_mapping).values(host_id="another"))


def _provider_missing(x: ServerWorld) -> None:
    _change(_world(x), sa.update(p.resource_provider).values(uuid=p.resource_provider.c.uuid + "x"))


def _cleanup_waiting(x: ServerWorld) -> None:
    order = Order(
        host="cell1-host1", verb="guest_delete", server_id=new_uuid(), epoch=2, operation=new_uuid(),
        step="guest", direction=Direction.DO, fence=1, seq=1, answer_to="cell1", deadline_s=60.0,
        body=pack(GuestDelete(server_id=new_uuid())),
    )  # fmt: skip
    order = order.replace(body=pack(GuestDelete(server_id=order.server_id)))
    _cell(x).write(lambda tx: cleanup.put_record(tx, order.operation, order, 1.0))
    assert encode(order)


def _not_read(x: ServerWorld) -> None:
    x.hosts.set_service("cell1-host1", forced_down=True)


def _retention_behind(x: ServerWorld) -> None:
    row = dict(x.row())
    old = x.clock.now() - 40 * 86400
    row.update(uuid=new_uuid(), deleted=1, vm_state="deleted", terminated_at=old)
    _change(_cell(x), sa.insert(c.server).values(**row))


def _volume(x: ServerWorld) -> str:
    return str(
        x.volumes.create(CONTEXT, NewVolume(project_id=PROJECT, user_id=USER, size_gib=1))["id"]
    )


def _made(x: ServerWorld) -> str:
    """Return a volume that is available."""
    volume = _volume(x)
    x.engines[-1].run_until_idle()
    return volume


def _attachment_orphan(x: ServerWorld) -> None:
    gone = new_uuid()
    row = dict(x.row())
    row.update(uuid=gone, deleted=1, vm_state="deleted", terminated_at=x.clock.now())
    _change(_cell(x), sa.insert(c.server).values(**row))
    x.volumes.ensure_attachment((new_uuid(), "disk0"), volume_id=_made(x), server_id=gone)


def _attachment_of_a_stranger(x: ServerWorld) -> None:
    x.volumes.ensure_attachment((new_uuid(), "x"), volume_id=_made(x), server_id=new_uuid())


def _attachment_reserved(x: ServerWorld) -> None:
    """What an attach leaves that died between reserving and being accepted."""
    key = (new_uuid(), "volume")
    x.volumes.ensure_attachment(key, volume_id=_made(x), server_id=x.server)


def _attachment_unrecorded(x: ServerWorld) -> None:
    key = (new_uuid(), "volume")
    made = x.volumes.ensure_attachment(key, volume_id=_made(x), server_id=x.server)
    x.volumes.db.write(
        lambda tx: tx.change(
            sa.update(v.attachment).where(v.attachment.c.id == made.id).values(host="cell1-host1")
        )
    )


def _disk(x: ServerWorld, attachment: str, volume: str) -> None:
    disk = DiskRequest(
        source="volume", destination="volume", volume_id=volume, attachment_id=attachment
    )
    disks = server_disks.write([*server_disks.read(x.row()), disk])
    _change(_cell(x), sa.update(c.server).values(disks=disks))


def _attachment_missing(x: ServerWorld) -> None:
    _disk(x, new_uuid(), new_uuid())


def _attachment_elsewhere(x: ServerWorld) -> None:
    volume = _made(x)
    made = x.volumes.ensure_attachment((new_uuid(), "y"), volume_id=volume, server_id=x.server)
    other = "cell1-host2" if x.row()["host"] == "cell1-host1" else "cell1-host1"
    _disk(x, made.id, volume)
    x.volumes.db.write(
        lambda tx: tx.change(
            sa.update(v.attachment).where(v.attachment.c.id == made.id).values(host=other)
        )
    )


def _volume_stuck(x: ServerWorld) -> None:
    volume = _made(x)
    x.volumes.db.write(
        lambda tx: tx.change(
            sa.update(v.volume).where(v.volume.c.id == volume).values(status="in-use")
        )
    )


MENDED: dict[str, Plant] = {
    "guest_power": _guest_power,
    "port_orphan": _port_orphan,
    "attachment_orphan": _attachment_orphan,
    "attachment_unrecorded": _attachment_reserved,
    "port_unrecorded": _port_reserved,
    "port_missing": _port_missing,
    "port_binding_left": _port_binding_left,
    "allocation_missing": _allocation_missing,
    "allocation_orphan": _allocation_orphan,
    "delete_lost": _delete_lost,
    "secret_orphan": _secret_orphan,
    "action_open": _action_open,
    "host_unmapped": _host_unmapped,
    "cleanup_waiting": _cleanup_waiting,
    "retention_behind": _retention_behind,
    "server_hidden": _server_hidden,
}
LISTED: dict[str, Plant] = {
    "guest_missing": _guest_missing,
    "guest_unknown": _guest_unknown,
    "guest_disks": _guest_disks,
    "disk_missing": _disk_missing,
    "disk_unknown": _disk_unknown,
    "volume_data_missing": _volume_data_missing,
    "volume_data_unknown": _volume_data_unknown,
    "guest_nics": _guest_nics,
    "guest_elsewhere": _guest_elsewhere,
    "port_unrecorded": _port_unrecorded,
    "allocation_orphan": _allocation_of_a_stranger,
    "attachment_orphan": _attachment_of_a_stranger,
    "attachment_unrecorded": _attachment_unrecorded,
    "attachment_missing": _attachment_missing,
    "attachment_elsewhere": _attachment_elsewhere,
    "volume_stuck": _volume_stuck,
    "allocation_elsewhere": _allocation_elsewhere,
    "over_capacity": _over_capacity,
    "server_unmapped": _server_unmapped,
    "server_in_two_cells": _server_in_two_cells,
    "copy_left": _copy_left,
    "mapping_without_server": _mapping_without_server,
    "unplaced": _unplaced,
    "cell_unknown": _cell_unknown,
    "host_differs": _host_differs,
    "quota_differs": _quota_differs,
    "task_without_operation": _task_without_operation,
    "operations_doubled": _operations_doubled,
    "operation_overdue": _operation_overdue,
    "operation_stuck": _operation_stuck,
    "operation_unknown": _operation_unknown,
    "host_missing": _host_missing,
    "host_in_two_cells": _host_in_two_cells,
    "provider_missing": _provider_missing,
    "not_read": _not_read,
}


def kinds(x: ServerWorld) -> set[str]:
    return {f["kind"] for f in audit.run(x.services)}


@pytest.fixture
def cloud(tmp_path: Path) -> Any:
    """A clean cloud with one server."""
    x = ServerWorld(tmp_path, "server_stop")
    x.engine().open()
    assert audit.run(x.services) == []
    yield x
    x.close()


@pytest.mark.parametrize("kind", sorted(LISTED))
def test_a_planted_fault_is_found_and_nothing_is_guessed(kind: str, cloud: ServerWorld) -> None:
    """R21, R14: listed with what it is about; reconcilers leave it to somebody who knows."""
    guests = cloud.guests.ledger()
    LISTED[kind](cloud)
    guests = cloud.guests.ledger()
    found = [f for f in audit.run(cloud.services) if f["kind"] == kind]
    assert found and all(f["message"] and f["subject"] for f in found)
    cloud.clock.advance(LATER_S)
    cloud.settle()
    for _ in range(2):
        Reconcilers(cloud.services).run_all()
        cloud.settle()
    if kind not in ("not_read", "host_missing", "provider_missing"):
        assert kind in kinds(cloud)
    assert cloud.guests.ledger() == guests, "a guest was touched"


@pytest.mark.parametrize("kind", sorted(MENDED))
def test_a_planted_fault_is_mended(kind: str, cloud: ServerWorld) -> None:
    """R21, R10: found, left alone while it is young, mended once, and nothing else happens."""
    MENDED[kind](cloud)
    found = [f for f in audit.run(cloud.services) if f["kind"] == kind]
    assert found and all(f["repair"] for f in found)
    cloud.clock.advance(LATER_S)
    for _ in range(20):  # heartbeats
        cloud.settle()
    reconcilers = Reconcilers(cloud.services)
    reconcilers.run_all()
    cloud.settle()
    assert kinds(cloud) == set()
    reconcilers.close()


def test_nothing_young_is_repaired(cloud: ServerWorld) -> None:
    """R10: what was claimed a moment ago may belong to something that we have not read yet."""
    _port_orphan(cloud)
    Reconcilers(cloud.services).run_all()
    assert "port_orphan" in kinds(cloud)


def test_nothing_that_is_worked_on_is_a_difference(tmp_path: Path) -> None:
    """R21: the audit runs beside operations; at every step of a create it finds nothing."""
    x = ServerWorld(tmp_path)
    engine = x.engine()
    engine.open()
    engine.nudge(*x.accept("server_create"))
    for _ in range(200):
        assert audit.run(x.services) == []
        if not (engine.step_once() or x.bus.pump()):
            break
    assert x.row()["vm_state"] == "active"
    x.close()


def test_reconcilers_survive_a_bug(cloud: ServerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconciler that raises is tried again at its next time; the others run."""

    def bug(services: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(
        "kilonova.reconcile.loop.JOBS", (("bug", 1.0, bug), ("retention", 1.0, retention.run))
    )
    assert Reconcilers(cloud.services).run_all() == []


def test_the_loop_starts_and_ends(cloud: ServerWorld) -> None:
    reconcilers = Reconcilers(cloud.services)
    reconcilers.start()
    reconcilers.close()
    reconcilers.close()


def test_every_kind_is_explained() -> None:
    """docs/audit.md has a row for each finding that is planted here, and each kind in the code is planted."""
    root = Path(__file__).parents[2]
    rows = set(
        re.findall(r"^\| `(\w+)` \|", (root / "docs" / "audit.md").read_text(), re.MULTILINE)
    )
    code = "".join(p.read_text() for p in sorted((root / "kilonova" / "reconcile").glob("*.py")))
    kinds_in_code = set(re.findall(r'kind(?:, why)?\s*=\s*\(?\s*"(\w+)"', code))
    assert kinds_in_code == {*MENDED, *LISTED} == rows
