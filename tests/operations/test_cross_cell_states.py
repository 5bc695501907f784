"""Moves to another cell, step by step: what the records show, what is claimed of devices, what a silent host does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.db import migrations, servers
from kilonova.db.engine import Tx
from kilonova.db.schema import cell
from kilonova.objects.server import FlavorRecord
from kilonova.operations import accept, records, server_resize_cross_cell, states
from kilonova.placement import allocations, classes, inventories, providers
from kilonova.reconcile import cleanups, guests
from kilonova.saga import journal
from kilonova.saga.faults import Fault, Faults, Killed
from tests.operations.cross_cell_world import (
    CONFIRM,
    EVACUATE,
    LIVE,
    MIGRATE,
    RESIZE,
    REVERT,
    UNSHELVE,
    TwoCells,
)
from tests.operations.server_world import CONTEXT, Shape
from tests.operations.test_cross_cell import fault_of, migration, moved

ON_THE_WAY = [  # step that was just done, the source's task_state, the migration there, the copy's task_state
    ("begin", "resize_prep", "pre-migrating", None),
    ("records", "resize_prep", "pre-migrating", "resize_prep"),
    ("ready", "resize_prep", "pre-migrating", "resize_prep"),
    ("leave", "resize_migrating", "migrating", "resize_prep"),
    ("activate", "resize_migrated", "post-migrating", "resize_prep"),
    ("show", "resize_migrated", "post-migrating", "resize_finish"),
    ("hide", None, "finished", "resize_finish"),
]


@pytest.mark.parametrize(("step", "task", "status", "there"), ON_THE_WAY)
def test_states_on_the_way(
    step: str, task: str | None, status: str, there: str | None, tmp_path: Path
) -> None:
    """CC-3.6, 4.2, 5.10, 6.1, 6.4, 7.1, 7.5: and the copy is hidden until it is complete."""
    world = TwoCells(tmp_path, RESIZE)
    home, operation = world.accept(RESIZE)
    with pytest.raises(Killed):
        world.run(home, operation, Faults(Fault(step, "do", "recorded", "kill")))
    source, copy, move = world.in_cell("cell1"), world.in_cell("cell2"), migration(world, "cell1")
    marked = move["cross_cell"]
    assert source is not None and (source["task_state"], move["status"], marked) == (
        task,
        status,
        1,
    )
    assert (None if copy is None else copy["task_state"]) == there
    assert copy is None or bool(copy["hidden"]) == (step not in ("show", "hide"))
    shown = world.row()
    assert shown["host"] == ("cell2-host1" if step == "hide" else "cell1-host1")
    world.engines[-1].abandon()
    world.engine().open()
    assert world.run(home, operation) == "done"
    world.close()


def test_the_flavor_asked_for_is_claimed(tmp_path: Path) -> None:
    """CC-5.1, 5.13, 8.1: new size by the server, old one by the migration; a confirm or revert leaves one of them."""
    world = moved(tmp_path)
    uuid = str(migration(world, "cell1")["uuid"])
    held = world.services.world.read(
        lambda tx: [allocations.of_consumer(tx, c) for c in (world.server, uuid)]
    )
    (new,), (old,) = (h.values() for h in held)
    assert (new["VCPU"], old["VCPU"]) == (2, 1)
    assert world.run(*world.accept(REVERT)) == "done"
    held = world.services.world.read(
        lambda tx: [allocations.of_consumer(tx, c) for c in (world.server, uuid)]
    )
    world.close()
    assert [dict(v) for h in held for v in h.values()] == [dict(old)]


@pytest.mark.parametrize("end", [CONFIRM, REVERT])
def test_devices_are_claimed_and_released(end: str, tmp_path: Path) -> None:
    """CC-12.2: what a flavor asks of devices is claimed there, and given back."""
    world = TwoCells(tmp_path, MIGRATE)
    flavor = FlavorRecord(
        flavorid="9",
        name="fpga",
        vcpus=2,
        memory_mib=1024,
        root_gib=2,
        extra_specs={"resources:CUSTOM_FPGA": "1"},
    )

    def equip(tx: object) -> None:
        classes.make(tx, "CUSTOM_FPGA", 1.0)  # type: ignore[arg-type]
        for host in ("cell1-host1", "cell2-host1"):
            state = world.hosts.find(host)
            assert state is not None
            found = providers.find(tx, state.uuid)  # type: ignore[arg-type]
            assert found is not None
            inventories.write(tx, found.id, "CUSTOM_FPGA", inventories.Inventory(4))  # type: ignore[arg-type]
            providers.touch(tx, found.id, world.clock.now())  # type: ignore[arg-type]

    world.services.world.write(equip)
    world.services.scheduling.refresh(full=True)
    from kilonova.operations import accept

    world.engine().open()
    found = accept.find_server(world.services, CONTEXT, world.server)
    operation = server_resize_cross_cell.start(
        world.services, CONTEXT, found, flavor=flavor, host="cell2-host1"
    )
    state = world.run("global", operation or "")
    assert state == "done", fault_of(world, "cell1")
    amounts = _held(world, world.server)
    assert (amounts["CUSTOM_FPGA"], amounts["VCPU"]) == (1, 2)
    assert world.run(*world.accept(end)) == "done"
    after = _held(world, world.server)
    world.close()
    assert after.get("CUSTOM_FPGA") == (1 if end == CONFIRM else None)


def _held(world: TwoCells, consumer: str) -> dict[str, int]:
    found = world.services.world.read(lambda tx: allocations.of_consumer(tx, consumer))
    return {k: n for of in found.values() for k, n in of.items()}


@pytest.mark.parametrize("shape", [Shape(), Shape(boot=True)], ids=["local", "backed"])
def test_a_destination_that_does_not_answer(shape: Shape, tmp_path: Path) -> None:
    """CC-5.5: a host that is silent when it is asked fails the pre-check; the guest was never touched."""
    world = TwoCells(tmp_path, RESIZE, shape)
    boots = world.guests.find(world.server)[1].boots
    home, operation = world.accept(RESIZE)
    back = world.fall_silent("cell2-host1")
    world.hosts.set_service("cell2-host1", forced_down=False)  # it was only just heard of
    assert world.run(home, operation) == "failed"
    text, now = fault_of(world, "cell1"), world.guests.find(world.server)[1].boots
    back()
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert text.startswith("Migration pre-check error: ") and now == boots and ledger == clean


def test_a_source_that_dies_on_the_way(tmp_path: Path) -> None:
    """CC-6.5, 6.6, 8.3: the move is taken back; what the source cannot hear waits for it, and it starts its guest."""
    world = TwoCells(tmp_path, RESIZE)
    home, operation = world.accept(RESIZE)
    with pytest.raises(Killed):
        world.run(home, operation, Faults(Fault("leave", "do", "recorded", "kill")))
    world.engines[-1].abandon()
    world.engine().open()
    back = world.fall_silent("cell1-host1")
    assert world.run(home, operation) == "failed"
    assert (world.row()["vm_state"], world.row()["task_state"]) == (states.ACTIVE, None)
    back()
    for _ in range(
        2
    ):  # two orders for one guest: the second overtakes the first, which comes again
        cleanups.run(world.services)
        world.settle()
    world.clock.advance(40.0)
    guests.run(world.services)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_what_an_operator_reads(tmp_path: Path) -> None:
    """CC-1.2, 11.12: the steps done, the one that failed, and each undo, in reverse order, with times and reasons."""
    world = TwoCells(tmp_path, RESIZE)
    world.guests.faults.set("build_fail", host="cell2-host1")
    home, operation = world.accept(RESIZE)
    assert world.run(home, operation) == "failed"
    steps = world.services.world.read(lambda tx: journal.steps_of(tx, operation))
    forward = [s["step"] for s in steps if s["direction"] == "do"]
    backward = [s["step"] for s in steps if s["direction"] == "undo" and s["step"] != "unwound"]
    reason = [s["error"] for s in steps if s["state"] == "failed"]
    world.close()
    assert forward[-1] == "arrive" and reason and reason[0]
    assert [s for s in reversed(forward) if s in backward] == [s for s in backward if s]
    assert all(s["ended_at"] >= s["started_at"] for s in steps)


def test_what_changes_on_the_way_is_not_lost(tmp_path: Path) -> None:
    """CC-4.2, 11.6: a name and tags given between the copy and the swap are in the copy too."""
    world = TwoCells(tmp_path, RESIZE)
    home, operation = world.accept(RESIZE)
    with pytest.raises(Killed):
        world.run(home, operation, Faults(Fault("leave", "do", "recorded", "kill")))

    def change(tx: Tx) -> None:
        servers.set_columns(tx, world.server, name="anew")
        servers.set_tags(tx, world.server, ["late"], '["late"]', world.clock.now())

    world.databases["cell1"].write(change)
    world.engines[-1].abandon()
    world.engine().open()
    assert world.run(home, operation) == "done"
    row = world.row()
    tags = world.databases["cell2"].read(lambda tx: tx.select(sa.select(cell.server_tag.c.tag)))
    world.close()
    assert (row["name"], row["tags"], [t[0] for t in tags]) == ("anew", '["late"]', ["late"])


@pytest.mark.parametrize("kind", [RESIZE, UNSHELVE, EVACUATE])
def test_what_comes_in_the_moment_of_the_swap_is_kept(kind: str, tmp_path: Path) -> None:
    """CC-4.2: a request that found the server in its old cell, and writes there just after the swap."""
    world = TwoCells(tmp_path, kind)
    if kind == EVACUATE:
        world.fall_silent("cell1-host1")
    home, operation = world.accept(kind)
    stale = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(Killed):
        world.run(home, operation, Faults(Fault("swap", "do", "recorded", "kill")))
    world.engines[-1].abandon()
    world.clock.advance(1.0)
    records.change_server(world.services, CONTEXT, stale, None, name="late")
    world.engine().open()
    assert world.run(home, operation) == "done"
    assert (world.row()["host"], world.row()["name"]) == ("cell2-host1", "late")
    records.change_server(world.services, CONTEXT, stale, None, name="later")
    assert world.row()["name"] == "later"
    world.close()


PARTS = ("resize_prep:end", "resize_leave:start", "resize_leave:end", "resize_finish:start")
"""What is told between the begin and the end of a move: one part of it ends, the next begins."""


def test_subscribers_are_told_once(tmp_path: Path) -> None:
    """CC-10.2, 11.1, 12.6: one start and one end of each, of the copy that is seen, as of a move in one cell."""
    world = moved(tmp_path)
    for kind in (REVERT, RESIZE, CONFIRM):
        assert world.run(*world.accept(kind)) == "done"
    n = cell.notification
    told = []
    for name in ("cell1", "cell2"):
        stmt = sa.select(n.c.id, n.c.event, n.c.host).where(n.c.resource == world.server)
        told += [
            (r["event"], r["host"]) for r in world.databases[name].read(partial(_select, stmt))
        ]
    world.close()
    here, there = "cell1-host1", "cell2-host1"
    assert sorted(t for t in told if not t[0].startswith("create")) == sorted(
        [
            *2 * [("resize:start", here), ("resize:end", there)],
            *2 * [(part, here) for part in PARTS],
            *(("revertResize:start", there), ("revertResize:end", here)),
            *(("confirmResize:start", there), ("confirmResize:end", there)),
        ]
    )


@pytest.mark.parametrize(("kind", "name"), [(LIVE, "live-migration"), (EVACUATE, "evacuate")])
def test_subscribers_are_told_once_of_one_that_is_not_confirmed(
    kind: str, name: str, tmp_path: Path
) -> None:
    """CC-12.3, 12.5, 12.6: one start where it was, one end where it is."""
    world = TwoCells(tmp_path, kind)
    if kind == EVACUATE:
        world.fall_silent("cell1-host1")
    assert world.run(*world.accept(kind)) == "done"
    n, told = cell.notification, []
    for db in ("cell1", "cell2"):
        stmt = sa.select(n.c.event, n.c.host).where(n.c.resource == world.server)
        told += [tuple(r) for r in world.databases[db].read(partial(_select, stmt))]
    world.close()
    mine = [t for t in told if t[0].startswith(name)]
    assert mine == [(f"{name}:start", "cell1-host1"), (f"{name}:end", "cell2-host1")]


def _select(stmt: sa.Select[Any], tx: Tx) -> list[Any]:
    return tx.select(stmt)


def test_no_migration_is_forgotten(tmp_path: Path) -> None:
    """CC-4.4, 9.1, 11.5: all of a server's migrations go along by uuid, and a revert brings only their state back."""
    world = moved(tmp_path, MIGRATE)
    assert world.run(*world.accept(REVERT)) == "done"
    assert world.run(*world.accept(MIGRATE)) == "done"
    found = [
        [
            (m["uuid"], m["status"])
            for m in db.read(lambda tx: migrations.of_server(tx, world.server))
        ]
        for db in (world.databases["cell1"], world.databases["cell2"])
    ]
    assert found[0] == found[1] and [s for _, s in found[0]] == ["reverted", "finished"]
    created = world.databases["cell1"].read(lambda tx: migrations.of_server(tx, world.server))
    assert [m["id"] for m in created] == sorted(m["id"] for m in created)
    assert world.run(*world.accept(CONFIRM)) == "done"
    last = [
        m["status"]
        for m in world.databases["cell2"].read(lambda tx: migrations.of_server(tx, world.server))
    ]
    world.close()
    assert last == ["reverted", "confirmed"]
