"""The view stays right: our own claims at once, the database by generation, in whatever order they come."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.schema import cell as cell_schema
from kilonova.db.sql import insert
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.objects.host import Inventory as HostInventory
from kilonova.operations import stores
from kilonova.placement import claims, inventories, providers, reported
from kilonova.placement.claims import Change
from kilonova.placement.inventories import Inventory
from kilonova.scheduler import reading
from kilonova.scheduler.select import select
from kilonova.scheduler.view import HostFacts, View
from tests.scheduling import Cloud, asks, stock


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


def take(cloud: Cloud, consumer: str, provider: str, memory: int = 1024) -> Change:
    return cloud.db.write(
        lambda tx: claims.claim(
            tx,
            consumer=consumer,
            project="p",
            user="u",
            amounts={provider: {"VCPU": 1, "MEMORY_MB": memory}},
            now=cloud.now,
        )
    )


def free(view: View, host: str, resource_class: str = "MEMORY_MB") -> int:
    return int(view.roots.classes[resource_class].free.data[view.row_of_host[host]])


def test_a_claim_shows_at_once_and_the_database_adds_nothing(cloud: Cloud) -> None:
    h = cloud.host("h")
    view = cloud.view()
    view.applied(take(cloud, "a", h))
    assert free(view, "h") == 8192 - 1024
    assert reading.refresh(view, cloud.db, cloud.now) == 0, (
        "nothing but our own claim: nothing is read again"
    )
    assert free(view, "h") == 8192 - 1024
    view.applied(cloud.db.write(lambda tx: claims.release(tx, "a", now=cloud.now)))
    assert free(view, "h") == 8192
    reading.refresh(view, cloud.db, cloud.now, full=True)
    assert free(view, "h") == 8192


@pytest.mark.parametrize("order", list(itertools.permutations(["1", "2", "refresh", "stale"])))
def test_deltas_and_reads_in_any_order(cloud: Cloud, order: tuple[str, ...]) -> None:
    """A claim of ours may be applied before or after a read that has it, or that has not."""
    from kilonova.placement import loading

    h = cloud.host("h")
    view = cloud.view()
    first = take(cloud, "a", h)
    stale = cloud.db.read(lambda tx: loading.providers(tx, None))  # has the first, not the second
    second = take(cloud, "b", h, 2048)
    if order.index("stale") > order.index("refresh"):
        return  # reads are made one after another by one refresher: an older one never comes second
    for what in order:
        if what == "1":
            view.applied(first)
        elif what == "2":
            view.applied(second)
        elif what == "stale":
            for row in stale:
                view.put_provider(row)
        else:
            reading.refresh(view, cloud.db, cloud.now)
    assert free(view, "h") == 8192 - 1024 - 2048


def test_changes_of_others_are_read_by_overlap(cloud: Cloud) -> None:
    h = cloud.host("h")
    view = cloud.view()
    take(cloud, "a", h)  # by another process
    assert reading.refresh(view, cloud.db, cloud.now) == 1
    assert free(view, "h") == 8192 - 1024

    def grow(tx: object) -> None:
        p = providers.get(tx, h)  # type: ignore[arg-type]
        inventories.write(tx, p.id, "MEMORY_MB", Inventory(16384))  # type: ignore[arg-type]
        providers.touch(tx, p.id, cloud.now + 1)  # type: ignore[arg-type]

    cloud.db.write(grow)
    assert reading.refresh(view, cloud.db, cloud.now + 2) == 1
    assert free(view, "h") == 16384 - 1024


def test_a_change_older_than_the_overlap_is_found_by_the_full_comparison(cloud: Cloud) -> None:
    h = cloud.host("h")
    view = cloud.view()
    cloud.now += 30
    take(cloud, "b", h)
    reading.refresh(view, cloud.db, cloud.now)
    cloud.now -= 20  # a transaction that took long: it commits now, its change is dated before
    take(cloud, "a", h)
    cloud.now += 20
    assert reading.refresh(view, cloud.db, cloud.now) == 0
    cloud.now += 60
    assert reading.refresh(view, cloud.db, cloud.now) == 1
    assert free(view, "h") == 8192 - 2048


def test_the_clock_may_jump_back(cloud: Cloud) -> None:
    """R16"""
    h = cloud.host("h")
    view = cloud.view()
    cloud.now -= 3600
    take(cloud, "a", h)
    assert reading.refresh(view, cloud.db, cloud.now) == 1


def test_providers_come_and_go(cloud: Cloud) -> None:
    cloud.host("a")
    b = cloud.host("b")
    cloud.child("b", "b-card", {"VGPU": Inventory(1)})
    view = cloud.view()
    assert view.hosts == 2
    card = cloud.uuids["b-card"]
    for uuid in (card, b):
        cloud.db.write(lambda tx, u=uuid: providers.delete(tx, providers.get(tx, u), cloud.now))
    reading.refresh(view, cloud.db, cloud.now)
    assert view.hosts == 1
    assert card not in view.row_of
    assert {s.chosen.host for s in select(view, asks(), 3, 0).selections} == {"a"}
    cloud.host("c", inventory=stock(vcpus=1))
    view = cloud.view()
    assert view.roots.n == 2, "the row that was left is used again"
    assert select(view, asks(only_host="c")).complete
    assert not select(view, asks(2, only_host="c")).complete


def test_facts_may_come_before_the_provider(cloud: Cloud) -> None:
    view = View()
    uuid = new_uuid()
    view.put_host(HostFacts(uuid, "early", "cell1"))
    assert view.hosts == 0
    cloud.db.write(
        lambda tx: providers.ensure_host(
            tx, uuid=uuid, name="early", inventory=stock(), now=cloud.now
        )
    )
    reading.refresh(view, cloud.db, cloud.now)
    assert view.hosts == 1
    assert select(view, asks()).complete
    view.remove_host(uuid)
    assert view.hosts == 0


def test_it_grows_past_its_first_size(cloud: Cloud) -> None:
    def many(tx: object) -> None:
        for i in range(200):
            providers.ensure_host(
                tx, uuid=new_uuid(), name=f"h{i}", inventory=stock(), now=cloud.now
            )  # type: ignore[arg-type]

    cloud.db.write(many)
    view = cloud.view()
    for i, uuid in enumerate(list(view.row_of)):
        view.put_host(HostFacts(uuid, f"h{i}", "cell1"))
    assert view.hosts == view.roots.n == 200
    assert len(select(view, asks(8), 250, 0).selections) == 200


def test_aggregates_are_followed(cloud: Cloud) -> None:
    cloud.host("a")
    view = cloud.view()
    assert not select(view, asks(availability_zone="east")).complete
    cloud.aggregate(1, '{"availability_zone": "east"}', "a")
    reading.refresh(view, cloud.db, cloud.now)
    assert select(view, asks(availability_zone="east")).complete


def test_ensure_host_keeps_what_operators_set(cloud: Cloud) -> None:
    h = cloud.host("h")

    def operate(tx: object) -> None:
        p = providers.get(tx, h)  # type: ignore[arg-type]
        inventories.write(tx, p.id, "VCPU", Inventory(8, 0, 1, 8, 1, 16.0))  # type: ignore[arg-type]
        providers.disable(tx, h, now=cloud.now)  # type: ignore[arg-type]

    def report(tx: object) -> bool:
        return providers.ensure_host(tx, uuid=h, name="h", inventory=stock(16), now=cloud.now)  # type: ignore[arg-type]

    cloud.db.write(operate)
    assert cloud.db.write(report)
    assert not cloud.db.write(report), "the same report again changes nothing"
    view = cloud.view()
    assert free(view, "h", "VCPU") == 16 * 16
    assert not select(view, asks()).complete, "disabled stays disabled"
    cloud.db.write(lambda tx: providers.disable(tx, h, False, now=cloud.now))
    assert select(cloud.view(), asks()).complete


def test_a_provider_made_anew_under_its_old_id_is_read(cloud: Cloud) -> None:
    h = cloud.host("h")
    view = cloud.view()
    for i in range(5):
        view.applied(take(cloud, f"c{i}", h, 1024))
        view.applied(cloud.db.write(lambda tx, c=f"c{i}": claims.release(tx, c, now=cloud.now)))

    def anew(tx: object) -> None:
        providers.delete(tx, providers.get(tx, h), cloud.now)  # type: ignore[arg-type]
        providers.ensure_host(tx, uuid=h, name="h", inventory=stock(memory=99), now=cloud.now + 1)  # type: ignore[arg-type]

    cloud.db.write(anew)
    reading.refresh(view, cloud.db, cloud.now)
    assert free(view, "h") == 99
    assert view.hosts == 1


def test_claims_after_a_gap_wait_for_the_read(cloud: Cloud) -> None:
    """Two processes claim on one host by turns; each sees its own at once and the other's with the next read."""
    h = cloud.host("h")
    view = cloud.view()
    for i in range(4):
        change = take(cloud, f"c{i}", h, 1024)
        if i % 2:
            view.applied(change)
    assert free(view, "h") == 8192 - 2 * 1024
    assert reading.refresh(view, cloud.db, cloud.now) == 1
    assert free(view, "h") == 8192 - 4 * 1024
    assert reading.refresh(view, cloud.db, cloud.now) == 0


def test_hosts_of_a_cell_are_taken_over(cloud: Cloud, tmp_path: Path) -> None:
    cell = SqliteDatabase(tmp_path / "cell1.db", "cell1")
    ensure(cell, stores.CELL)
    view = cloud.view()

    def add(name: str, seen: float, disabled: int = 0) -> None:
        uuid = new_uuid()
        row = {
            "host": name,
            "uuid": uuid,
            "id": len(name),
            "host_id": uuid,
            "boot_id": "b",
            "journal_id": "j",
            "driver": "fake",
            "release": "1",
            "versions": "{}",
            "inventory": '{"vcpus": 4, "memory_mib": 1024, "disk_gib": 10, "hypervisor_version": 7}',
            "digest": "",
            "disabled": disabled,
            "disabled_reason": None,
            "forced_down": 0,
            "seen_at": seen,
            "created_at": 0.0,
            "updated_at": 0.0,
        }
        known = cell_schema.host.c.keys()
        cell.write(
            lambda tx: tx.run(insert(cell_schema.host, *known), **{k: row.get(k) for k in known})
        )
        cloud.db.write(
            lambda tx: reported.ensure_reported(
                tx,
                uuid=uuid,
                name=name,
                report=HostInventory(vcpus=4, memory_mib=1024, disk_gib=10),
                now=cloud.now,
            )
        )

    add("up", cloud.now - 5)
    add("silent", cloud.now - 61)
    add("disabled", cloud.now, 1)
    assert reading.hosts(view, "cell1", cell, cloud.now) == 3
    reading.refresh(view, cloud.db, cloud.now)
    assert view.hosts == 3
    chosen = [s.chosen.host for s in select(view, asks(4), 9, 0).selections]
    assert set(chosen) == {"up"}
    assert len(chosen) == 2, "1024 MiB are two servers of 512, and four cores at ratio 4 are enough"
    cell.write(
        lambda tx: tx.change(sa.delete(cell_schema.host).where(cell_schema.host.c.host == "up"))
    )
    reading.hosts(view, "cell1", cell, cloud.now, up=["silent"])
    assert {s.chosen.host for s in select(view, asks(), 1, 0).selections} == {"silent"}
    cell.close()
