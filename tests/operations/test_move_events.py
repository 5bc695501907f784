"""What is told of a move while it happens: events that begin and end with their part, and Nova's notifications."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilonova.db import actions, notifications
from kilonova.operations import instance_notices
from tests.operations.cross_cell_world import MIGRATE, TwoCells
from tests.operations.kill_matrix import Away
from tests.operations.server_world import ServerWorld

PREPARE, LEAVE, FINISH = "compute_prep_resize", "compute_resize_instance", "compute_finish_resize"
PARTS = [
    "instance.resize_prep.start",
    "instance.resize_prep.end",
    "instance.resize.start",
    "instance.resize.end",
    "instance.resize_finish.start",
    "instance.resize_finish.end",
]


def events(world: ServerWorld, operation: str, cell: str = "cell1") -> list[tuple[Any, ...]]:
    """Return (event, result, host) of an operation's events, oldest first."""
    rows = world.databases[cell].read(partial(actions.events_of, operation=operation))
    assert all((r["result"] is None) == (r["finished_at"] is None) for r in rows)
    assert all(r["started_at"] <= (r["finished_at"] or r["started_at"]) for r in rows)
    order = [PREPARE, LEAVE, FINISH]
    found = [(r["event"], r["result"], r["host"]) for r in rows]
    return sorted(found, key=lambda e: order.index(e[0]) if e[0] in order else -1)


def told(world: ServerWorld, since: int, cell: str = "cell1") -> list[str]:
    """Return the names of what was told of servers in a cell."""
    rows = world.databases[cell].read(lambda tx: notifications.after(tx, since, 1000))
    return [str(instance_notices.name_of(r)) for r in rows]


def newest(world: ServerWorld, cell: str = "cell1") -> int:
    return world.databases[cell].read(notifications.newest)


def watched(world: ServerWorld, home: str, operation: str) -> list[list[tuple[Any, ...]]]:
    """Run an operation; return each list of its events that could be seen on the way."""
    engine, seen = world.engines[-1], []
    engine.nudge(home, operation)
    for _ in range(2000):
        engine.step_once()
        world.bus.pump()
        now = events(world, operation)
        if not seen or seen[-1] != now:
            seen.append(now)
        if actions_end(world, operation):
            break
    assert world.run(home, operation) == "done"
    return seen


def actions_end(world: ServerWorld, operation: str) -> bool:
    cell = world.databases["cell1"]
    return cell.read(lambda tx: actions.stands(tx, operation)) == "finished"


def test_events_of_a_move_while_it_happens(tmp_path: Path) -> None:
    """Each part is there from its begin on, without a result, on its host; notifications are Nova's, in its order."""
    world = ServerWorld(tmp_path, "server_migrate")
    source, since = world.row()["host"], newest(world)
    home, operation = world.begin()
    seen = watched(world, home, operation)
    there, names = world.row()["host"], told(world, since)
    world.close()
    assert names == PARTS
    assert [x for x in seen if x] == [
        [(PREPARE, "Success", there), (LEAVE, None, source)],
        [(PREPARE, "Success", there), (LEAVE, "Success", source), (FINISH, None, there)],
        [(PREPARE, "Success", there), (LEAVE, "Success", source), (FINISH, "Success", there)],
    ]
    assert there != source


def test_a_move_that_fails(tmp_path: Path) -> None:
    """What was under way is said to have failed, with its host; what was done before stays so."""
    world = ServerWorld(tmp_path, "server_migrate")
    source, since = world.row()["host"], newest(world)
    world.guests.faults.set("build_fail")
    home, operation = world.begin()
    assert world.run(home, operation) == "failed"
    found, names = events(world, operation), told(world, since)
    world.close()
    assert [(e, r) for e, r, _ in found] == [
        (PREPARE, "Success"),
        (LEAVE, "Success"),
        (FINISH, "Error"),
    ]
    assert found[1][2] == source
    assert names == [*PARTS[:-1], "instance.resize.error"]


def test_what_is_told_of_the_new_flavor(tmp_path: Path) -> None:
    """The first part's notifications say which flavor the server is to get; the others are as all actions are."""
    world = Away(tmp_path, "server_resize")
    since = newest(world)
    assert world.run(*world.begin()) == "done"
    cell = world.databases["cell1"]
    rows = cell.read(lambda tx: notifications.after(tx, since, 1000))
    found = [cell.read(lambda tx, r=r: instance_notices.payload(tx, r, admin=True)) for r in rows]  # type: ignore[misc]
    names = told(world, since)
    world.close()
    assert names == PARTS
    kinds = [str(p["nova_object.name"]) for p in found if p is not None]
    assert kinds == ["InstanceActionResizePrepPayload"] * 2 + ["InstanceActionPayload"] * 4
    first = found[0]
    assert first is not None
    flavor = first["nova_object.data"]["new_flavor"]
    assert flavor["nova_object.name"] == "FlavorPayload"
    assert flavor["nova_object.data"]["memory_mb"] == 1024


@pytest.mark.parametrize("kind", ["server_resize", MIGRATE])
def test_the_same_is_told_of_other_moves(kind: str, tmp_path: Path) -> None:
    """CC-12.6: of a resize on one host, and of a move into another cell."""
    world: ServerWorld = (
        TwoCells(tmp_path, kind) if kind == MIGRATE else ServerWorld(tmp_path, kind, hosts=1)
    )
    since = {c: newest(world, c) for c in world.cells}
    assert world.run(*world.begin()) == "done"
    names = [n for c in world.cells for n in told(world, since[c], c)]
    world.close()
    assert names == PARTS
