"""Drain a host under faults: every server that can move has moved, each once, and the rest is named with a reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.common.errors import Conflict, NotFound
from kilonova.db import migrations
from kilonova.operations import host_drain, states
from kilonova.operations.draining import Way
from kilonova.saga import journal
from tests.operations.harness import Case, case_id, expected_state, points_of, run_case
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
        self.host = self.row()["host"]

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


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", points_of(SAGA), ids=case_id)
def test_one_fault(case: Case, setup: str, tmp_path: Path) -> None:
    """R1: a kill costs nothing; what has moved stays moved; a drain that failed leaves the host enabled."""
    world = Drain(tmp_path, SETUPS[setup])
    outcome = run_case(world, case)
    row, disabled = world.row(), world.is_disabled()
    world.close()
    assert not outcome.missed
    assert outcome.state == expected_state(SAGA, case)
    assert lasting(outcome.ledger) == lasting(world.before)
    assert disabled == (outcome.state == "done")
    if outcome.state == "done":
        assert row["host"] != world.host
    assert row["vm_state"] == (states.ACTIVE if setup == "running" else states.STOPPED)


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
