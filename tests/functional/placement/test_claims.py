"""Claims: exactly one wins the last slot, repeating is harmless, totals are what the rows say (R10)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kilonova.common.errors import Conflict, GenerationMismatch
from kilonova.common.ids import new_uuid
from kilonova.db import mappings
from kilonova.db.engine import Database, Tx
from kilonova.db.schema.world import server_group
from kilonova.db.sql import insert
from kilonova.placement import allocations, claims, groups, inventories, providers
from kilonova.placement.inventories import Inventory
from kilonova.scheduler import reading
from kilonova.scheduler.select import select
from tests import databases
from tests.scheduling import NOW, Cloud, asks, stock


@pytest.fixture(params=databases.KINDS)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path, request.param)
    yield made
    made.db.close()


def claim(
    db: Database,
    consumer: str,
    provider: str,
    amounts: dict[str, int],
    generation: int | None = None,
) -> claims.Change:
    return db.write(
        lambda tx: claims.claim_host(
            tx,
            consumer=consumer,
            project="p",
            user="u",
            amounts={provider: amounts},
            generations=None if generation is None else {provider: generation},
            now=NOW,
        )
    )


def used(db: Database, uuid: str) -> dict[str, int]:
    return db.read(lambda tx: inventories.used(tx, providers.get(tx, uuid).id))


def generation(db: Database, uuid: str) -> int:
    return db.read(lambda tx: providers.get(tx, uuid)).generation


def test_claim_release_and_repeats(cloud: Cloud) -> None:
    h = cloud.host("h")
    first = claim(cloud.db, "a", h, {"VCPU": 2, "MEMORY_MB": 512})
    assert not first.repeated
    before = generation(cloud.db, h)
    again = claim(cloud.db, "a", h, {"VCPU": 2, "MEMORY_MB": 512})
    assert again.repeated
    assert generation(cloud.db, h) == before, (
        "doing it twice leaves one set of rows and changes nothing"
    )
    assert used(cloud.db, h) == {"VCPU": 2, "MEMORY_MB": 512}
    gone = cloud.db.write(lambda tx: claims.release(tx, "a", now=NOW))
    assert [d.amounts for d in gone.deltas] == [{"VCPU": -2, "MEMORY_MB": -512}]
    assert cloud.db.write(lambda tx: claims.release(tx, "a", now=NOW)).repeated
    assert used(cloud.db, h) == {}
    assert cloud.db.read(lambda tx: allocations.consumer(tx, "a")) is None


def test_another_claim_of_the_same_consumer_replaces_the_first(cloud: Cloud) -> None:
    a, b = cloud.host("a"), cloud.host("b")
    claim(cloud.db, "c", a, {"VCPU": 8})
    change = claim(cloud.db, "c", b, {"VCPU": 8})
    assert {d.provider: dict(d.amounts) for d in change.deltas} == {a: {"VCPU": -8}, b: {"VCPU": 8}}
    assert used(cloud.db, a) == {}
    assert used(cloud.db, b) == {"VCPU": 8}
    claim(cloud.db, "c", b, {"VCPU": 7})
    claim(cloud.db, "c", b, {"VCPU": 8})
    assert used(cloud.db, b) == {"VCPU": 8}, "its own share does not stand in its way"


def test_what_a_claim_refuses(cloud: Cloud) -> None:
    h = cloud.host("h")
    now = generation(cloud.db, h)
    with pytest.raises(GenerationMismatch):
        claim(cloud.db, "a", h, {"VCPU": 1}, now - 1)
    for amounts in ({"VCPU": 9}, {"VGPU": 1}, {"VCPU": 1, "DISK_GB": 101}):
        with pytest.raises(claims.OverCapacity):
            claim(cloud.db, "a", h, amounts)
    with pytest.raises(claims.UnknownProvider):
        claim(cloud.db, "a", new_uuid(), {"VCPU": 1})
    assert used(cloud.db, h) == {}
    assert generation(cloud.db, h) == now, "a refused claim leaves nothing"
    assert cloud.db.read(lambda tx: allocations.consumer(tx, "a")) is None


def test_units_and_steps_are_kept(cloud: Cloud) -> None:
    h = cloud.host("h", inventory={"MEMORY_MB": Inventory(10, 2, 2, 6, 2, 1.0)})
    for n in (1, 3, 7, 8):
        with pytest.raises(claims.OverCapacity):
            claim(cloud.db, "a", h, {"MEMORY_MB": n})
    claim(cloud.db, "a", h, {"MEMORY_MB": 6})
    claim(cloud.db, "b", h, {"MEMORY_MB": 2})
    with pytest.raises(claims.OverCapacity):
        claim(cloud.db, "c", h, {"MEMORY_MB": 2})


def test_move_hands_over_with_nothing_free_in_between(cloud: Cloud) -> None:
    h = cloud.host("h", inventory=stock(vcpus=1))
    claim(cloud.db, "server", h, {"VCPU": 1})
    view = cloud.view()
    change = cloud.db.write(
        lambda tx: claims.move(tx, "server", "migration", target_type="MIGRATION", now=NOW)
    )
    view.applied(change)
    assert not select(view, asks()).complete
    held = cloud.db.read(lambda tx: allocations.of_consumer(tx, "migration"))
    assert held == {h: {"VCPU": 1}}
    owner = cloud.db.read(lambda tx: allocations.consumer(tx, "migration"))
    assert owner is not None
    assert (owner.type, owner.project_id) == ("MIGRATION", "p")
    assert cloud.db.write(lambda tx: claims.move(tx, "server", "migration", now=NOW)).repeated
    claim(cloud.db, "other", cloud.host("h2"), {"VCPU": 1})
    with pytest.raises(Conflict):
        cloud.db.write(lambda tx: claims.move(tx, "other", "migration", now=NOW))


@pytest.mark.parametrize("conditional", [False, True])
def test_sixty_four_claims_for_the_last_slot(cloud: Cloud, conditional: bool) -> None:
    """R10: exactly one wins, in every round."""
    rounds = 25
    with ThreadPoolExecutor(64) as pool:
        for r in range(rounds):
            h = cloud.host(f"h{r}", inventory=stock(vcpus=1))
            start = threading.Barrier(64, timeout=30)
            known = generation(cloud.db, h) if conditional else None

            def one(
                i: int, h: str = h, start: threading.Barrier = start, known: int | None = known
            ) -> str:
                start.wait()
                try:
                    claim(cloud.db, f"{h}-{i}", h, {"VCPU": 1}, known)
                except (claims.OverCapacity, GenerationMismatch) as exc:
                    return exc.code
                return "won"

            results = list(pool.map(one, range(64)))
            assert results.count("won") == 1
            assert used(cloud.db, h) == {"VCPU": 1}


def test_many_deciders_fill_every_host_and_no_more(cloud: Cloud) -> None:
    """R10: 8 threads decide and claim on one view until nothing is left; the view agrees with the rows."""
    for i in range(10):
        cloud.host(f"h{i}", inventory=stock(vcpus=10))
    view = cloud.view()
    won: list[str] = []
    lock = threading.Lock()

    def work(worker: int) -> None:
        for n in range(40):
            d = select(view, asks(memory=1, disk=0))
            if not d.complete:
                return
            consumer = f"{worker}-{n}"
            for chosen in (d.selections[0].chosen, *d.selections[0].alternates):
                try:
                    change = cloud.db.write(
                        lambda tx, c=chosen, who=consumer: claims.claim(
                            tx, consumer=who, project="p", user="u", amounts=c.amounts, now=NOW
                        )
                    )
                except claims.OverCapacity:
                    continue
                view.applied(change)
                with lock:
                    won.append(consumer)
                break

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(won) == 100
    assert not view.roots.classes["VCPU"].free.data[: view.roots.n].any()
    reading.refresh(view, cloud.db, NOW, full=True)
    assert not view.roots.classes["VCPU"].free.data[: view.roots.n].any()
    assert all(used(cloud.db, cloud.uuids[f"h{i}"])["VCPU"] == 10 for i in range(10))


def test_a_claim_rechecks_the_group(cloud: Cloud) -> None:
    group, first, second = new_uuid(), new_uuid(), new_uuid()

    def add(tx: Tx) -> None:
        tx.run(
            insert(server_group),
            uuid=group,
            project_id="p",
            user_id="u",
            name="g",
            policy="anti-affinity",
            rules="{}",
            created_at=NOW,
        )
        for s in (first, second):
            mappings.add(
                tx,
                server=s,
                project_id="p",
                user_id="u",
                server_group=group,
                vcpus=1,
                memory_mib=1,
                requested=b"",
                operation="o",
                now=NOW,
            )

    def place(server: str, host: str) -> None:
        def both(tx: Tx) -> None:
            groups.recheck(tx, group=group, server=server, host=host)
            mappings.place(tx, server, cell="cell1", host=host, now=NOW)

        cloud.db.write(both)

    cloud.db.write(add)
    place(first, "h1")
    place(first, "h1")
    with pytest.raises(groups.GroupPolicyViolated):
        place(second, "h1")
    place(second, "h2")
    groups_gone = new_uuid()
    cloud.db.write(lambda tx: groups.recheck(tx, group=groups_gone, server=second, host="h1"))
