"""Drain a host under faults: every server that can move has moved, each once, and the rest is named with a reason."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.common.errors import Conflict, NotFound
from kilonova.db import mappings, migrations, servers
from kilonova.objects.server import RequestedServer
from kilonova.operations import accept, host_drain, server_resize_cross_cell, states
from kilonova.operations.draining import Way
from kilonova.saga import journal
from tests.operations.harness import (
    Case,
    case_id,
    expected_state,
    points_of,
    run_case,
    zombies_of,
)
from tests.operations.server_world import CONTEXT, ServerWorld
from tests.operations.test_server_delete import HISTORY

SAGA = host_drain.SAGA
ADMIN = CONTEXT.replace(roles=("admin", "manager", "member", "reader"))
ENDED = (*HISTORY, *(f"migration:{s}" for s in migrations.ENDED))


def lasting(ledger: Mapping[str, int]) -> dict[str, int]:
    """Return what is no history; a stopped server has no tap where it came to be."""
    return {k: v for k, v in ledger.items() if not k.startswith((*ENDED, "tap"))}


class Drain(ServerWorld):
    """A world whose operation drains the host of its server."""

    def __init__(self, path: Path, setup: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(path, "server_stop", setup=setup, **{"hosts": 3, **more})
        self.first = self.row()
        self.host = self.first["host"]

    def begin(self, **asked: Any) -> tuple[str, str]:
        if not self.engines:
            self.engine().open()
        return "cell1", host_drain.start(self.services, ADMIN, self.host, **asked)

    def more(self, n: int) -> list[str]:
        """Make servers; return those that are on the host."""
        self.engine().open()
        names = [self.server]
        others = [h.host for h in self.hosts.all() if h.host != self.host]
        for other in others:
            self.hosts.set_service(other, disabled=True)
        for _ in range(n):
            assert self.run(*self.create()) == "done"
            names.append(self.server)
        for other in others:
            self.hosts.set_service(other, disabled=False)
        self.server = names[0]
        return names

    def output(self, operation: str) -> dict[str, Any]:
        row = self.databases["cell1"].read(lambda tx: journal.get(tx, operation))
        found: dict[str, Any] = msgspec.json.decode(row["outputs"])["move"]
        return found

    def at(self, server: str) -> str:
        self.server = server
        return str(self.row()["host"])

    def is_disabled(self) -> bool:
        state = self.hosts.find(self.host)
        assert state is not None
        return state.disabled


SETUPS = {"running": (), "stopped": ("server_stop",)}


def _check(world: Drain, case: Case) -> None:
    outcome = run_case(world, case)
    row, disabled = world.row(), world.is_disabled()
    world.close()
    assert not outcome.missed
    assert outcome.state == expected_state(SAGA, case)
    assert lasting(outcome.ledger) == lasting(world.before)
    assert disabled == (outcome.state == "done")
    if outcome.state == "done":
        assert row["host"] != world.host
    assert row["vm_state"] == world.first["vm_state"]


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, setup: str, tmp_path: Path) -> None:
    """R1: a kill costs nothing; what has moved stays moved; a drain that failed leaves the host enabled."""
    _check(Drain(tmp_path, SETUPS[setup]), case)


class Shared(Drain):
    """Its conductors have leases."""

    shared = True


@pytest.mark.parametrize("case", zombies_of(SAGA), ids=case_id)
def test_a_conductor_that_slept_beyond_its_lease(case: Case, tmp_path: Path) -> None:
    """R8: another one goes on with the drain, and the moves that it began."""
    _check(Shared(tmp_path), case)


def anywhere(ledger: Mapping[str, int]) -> dict[str, int]:
    """Return what lasts, whichever of the two cells it is in: one too many in either is one too many."""
    found: Counter[str] = Counter()
    for key, n in lasting(ledger).items():
        found[key.replace("cell2", "cell1")] += n
    return dict(found)


class Across(Drain):
    """Two cells with a host each; the server is in the first."""

    cells = ("cell1", "cell2")

    def __init__(self, path: Path, setup: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(path, setup, **{"hosts": 1, **more})

    def _requested(self, now: float) -> RequestedServer:
        return super()._requested(now).replace(requested_host="cell1-host1")

    def begin(self, **asked: Any) -> tuple[str, str]:
        return super().begin(**{"across_cells": True, **asked})

    def row(self) -> Any:
        """Return the server's row where its mapping says that it is."""
        found = mappings.cells_of
        cell = self.databases["global"].read(lambda tx: found(tx, [self.server]))[self.server]
        return self.databases[str(cell)].read(lambda tx: servers.find(tx, self.server))


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault_across_cells(case: Case, setup: str, tmp_path: Path) -> None:
    """R1: the same when the cell has no other host, and another cell may be used."""
    world = Across(tmp_path, SETUPS[setup])
    outcome = run_case(world, case)
    row, disabled = world.row(), world.is_disabled()
    left = world.databases["cell1"].read(lambda tx: servers.on_host(tx, world.host))
    world.close()
    assert not outcome.missed
    assert outcome.state == expected_state(SAGA, case)
    assert anywhere(outcome.ledger) == anywhere(world.before)
    assert disabled == (outcome.state == "done")
    if outcome.state == "done":
        assert (row["host"], left) == ("cell2-host1", [])
    assert row["vm_state"] == (states.ACTIVE if setup == "running" else states.STOPPED)


def test_across_cells_only_when_it_must_and_may(tmp_path: Path) -> None:
    """The plan names cell and host; without leave nothing goes there; with room in its own a server stays."""
    world = Across(tmp_path)
    (plain,) = host_drain.preview(world.services, world.host)
    (wide,) = host_drain.preview(world.services, world.host, across_cells=True)
    assert (plain["to"], plain["to_cell"]) == (None, None) and "No valid host" in plain["why"]
    assert (wide["to"], wide["to_cell"], wide["why"]) == ("cell2-host1", "cell2", "")
    home, operation = world.begin(across_cells=False)
    assert world.run(home, operation) == "done"
    assert len(world.output(operation)["left"]) == 1
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    assert world.output(operation) == {"moved": 1, "left": []}
    world.close()
    roomy = Across(tmp_path / "roomy", hosts=2)
    (near,) = host_drain.preview(roomy.services, roomy.host, across_cells=True)
    assert near["to_cell"] == "cell1"
    home, operation = roomy.begin()
    assert roomy.run(home, operation) == "done"
    assert roomy.row()["host"] == "cell1-host2"
    roomy.close()


def test_across_cells_what_cannot_go(tmp_path: Path) -> None:
    """Two tries, each another operation, then it stays where it is, and is named."""
    world = Across(tmp_path, ("server_stop",))
    world.guests.faults.set("build_fail")
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    (left,) = world.output(operation)["left"]
    ledger, row = lasting(world.ledger()), world.row()
    world.close()
    assert world.guests.faults.hits["build_fail"] >= 2
    assert left["server"] == world.server and "could not be moved" in left["why"]
    assert ledger == lasting(world.before) and row["host"] == world.host


def test_what_a_user_moved_across_cells_is_left(tmp_path: Path) -> None:
    """What waits here for a user's confirm in another cell is the user's: named, not confirmed."""
    world = Across(tmp_path, ("server_stop",))
    found = accept.find_server(world.services, ADMIN, world.server)
    world.engine().open()
    operation = server_resize_cross_cell.start(world.services, ADMIN, found, host="cell2-host1")
    assert operation is not None and world.run("global", operation) == "done"
    home, drain = world.begin()
    assert world.run(home, drain) == "done"
    (left,) = world.output(drain)["left"]
    row = world.row()
    world.close()
    assert left["server"] == world.server and "confirmed or reverted" in left["why"]
    assert (row["vm_state"], row["host"]) == (states.RESIZED, "cell2-host1")


def test_many_servers(tmp_path: Path) -> None:
    """Running, stopped, shelved ones go, never more than were allowed at once; the rest is named."""
    world = Drain(tmp_path)
    names = world.more(5)
    for server, kind in zip(
        names[1:4], ("server_stop", "shelve_kept", "server_suspend"), strict=True
    ):
        world.server = server
        assert world.run(*world.accept(kind)) == "done"
    plan = {t["server"]: t for t in host_drain.preview(world.services, world.host)}
    ways = [Way.LIVE, Way.COLD, Way.OFFLOAD, Way.NONE, Way.LIVE, Way.LIVE]
    assert [plan[s]["way"] for s in names] == [str(w) for w in ways]
    assert plan[names[0]]["to"] not in (None, world.host) and plan[names[2]]["to"] is None
    assert "suspended" in plan[names[3]]["why"]
    before = lasting(world.ledger())
    assert before == lasting(world.ledger()) and not world.is_disabled(), "a plan touches nothing"
    home, operation = world.begin(at_once=2)
    with pytest.raises(Conflict, match="being drained already"):
        world.begin()
    assert world.run(home, operation) == "done"
    output = world.output(operation)
    assert [t["server"] for t in output["left"]] == [names[3]] and output["moved"] == 4
    assert world.at(names[3]) == world.host
    assert world.host not in {world.at(s) for s in (names[0], names[1], names[4], names[5])}
    world.server = names[2]
    assert world.row()["vm_state"] == states.SHELVED_OFFLOADED
    guests = [g.server for g in world.guests.guests(world.host).values()]
    world.close()
    assert guests == [names[3]]


def test_a_server_that_cannot_move(tmp_path: Path) -> None:
    """Two tries, then it is left where it is, and named."""
    world = Drain(tmp_path, ("server_stop",))
    world.guests.faults.set("build_fail")
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    assert world.guests.faults.hits["build_fail"] == 2
    (left,) = world.output(operation)["left"]
    ledger, row = lasting(world.ledger()), world.row()
    world.close()
    assert left["server"] == world.server and "could not be moved" in left["why"]
    assert ledger == lasting(world.before) and row["host"] == world.host


def test_no_other_host(tmp_path: Path) -> None:
    """The plan says so before, and the drain after."""
    world = Drain(tmp_path, ("server_stop",), hosts=1)
    (task,) = host_drain.preview(world.services, world.host)
    assert task["to"] is None and "No valid host" in task["why"]
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    assert len(world.output(operation)["left"]) == 1
    world.close()


def test_live_fails_and_cold_is_allowed(tmp_path: Path) -> None:
    """With ``cold`` a running server whose live migration failed is turned off for its move, and runs again."""
    world = Drain(tmp_path)
    world.guests.faults.set("live_migrate_fail", times=1)
    home, operation = world.begin(cold=True)
    assert world.run(home, operation) == "done"
    assert world.guests.faults.hits["live_migrate_fail"] == 1
    row, output = world.row(), world.output(operation)
    moves = world.databases["cell1"].read(lambda tx: migrations.of_server(tx, world.server))
    world.close()
    assert (row["vm_state"], row["host"] != world.host) == (states.ACTIVE, True)
    assert output == {"moved": 1, "left": []}
    assert [m["kind"] for m in moves] == ["live-migration", "migration"]


def test_it_is_cancelled(tmp_path: Path) -> None:
    """The host is enabled again; moves that had begun go on to their own end."""
    world = Drain(tmp_path)
    names = world.more(2)
    home, operation = world.begin(at_once=1)
    engine = world.engines[-1]
    engine.nudge(home, operation)
    for _ in range(500):
        engine.step_once()
        world.bus.pump()
        if world.databases["cell1"].read(lambda tx: any(journal.live_of(tx, s) for s in names)):
            break
    cell = world.databases["cell1"]
    assert cell.write(lambda tx: journal.request_cancel(tx, operation, now=world.clock.now()))
    assert world.run(home, operation) == "cancelled"
    engine.run_until_idle(limit=10_000)
    moved = [s for s in names if world.at(s) != world.host]
    busy = cell.read(lambda tx: [s for s in names if journal.live_of(tx, s)])
    disabled = world.is_disabled()
    world.close()
    assert len(moved) == 1 and busy == [] and not disabled


def test_what_a_user_resized_is_left(tmp_path: Path) -> None:
    """Disks that wait for a user's confirm are the user's: named, not confirmed."""
    world = Drain(tmp_path)
    assert world.run(*world.accept("resize_away")) == "done"
    home, operation = world.begin()
    assert world.run(home, operation) == "done"
    (left,) = world.output(operation)["left"]
    row = world.row()
    world.close()
    assert left["server"] == world.server and "confirmed or reverted" in left["why"]
    assert row["vm_state"] == states.RESIZED


def test_unknown_hosts(tmp_path: Path) -> None:
    """404, for the plan, the drain and the look."""
    world = Drain(tmp_path)
    for call in (host_drain.preview, host_drain.latest):
        with pytest.raises(NotFound):
            call(world.services, "nowhere")
    with pytest.raises(NotFound):
        host_drain.start(world.services, ADMIN, "nowhere")
    assert host_drain.latest(world.services, world.host) is None
    world.close()
