"""R14: no guest or disk is destroyed by a guess: agents of another name or boot, or wiped; older databases."""

import contextlib
import sqlite3
from pathlib import Path
from typing import cast

import pytest

from kilonova.agent.core import Agent, Identity
from kilonova.agent.journal import Journal
from kilonova.agent.workers import Workers
from kilonova.common.ids import new_uuid
from kilonova.operations import cleanup
from kilonova.reconcile import audit, cleanups
from kilonova.reconcile.loop import Reconcilers
from kilonova.virt.fake.world import Leftover
from tests.operations.server_world import ServerWorld, Shape

OURS = ("global", "cell1", "cell0")


def guests(world: ServerWorld) -> list[Leftover]:
    """Return every guest and disk on any host."""
    return [x for x in world.guests.ledger() if x.kind in ("guest", "disk", "kept disk")]


def keep(world: ServerWorld, to: Path) -> None:
    """Copy the databases of the control plane, as a backup does."""
    to.mkdir()
    for name in OURS:
        with (
            sqlite3.connect(world.path / f"{name}.db") as source,
            sqlite3.connect(to / name) as copy,
        ):
            source.backup(copy)


def restore(world: ServerWorld, kept: Path, hosts: int) -> ServerWorld:
    """Begin anew with the older copy; hosts and their agents' memories are as they are."""
    world.close()
    for name in OURS:
        for end in ("", "-wal", "-shm"):
            (world.path / f"{name}.db{end}").unlink(missing_ok=True)
        (kept / name).rename(world.path / f"{name}.db")
    again = ServerWorld.__new__(ServerWorld)
    again.kind, again.shape, again.server = world.kind, world.shape, world.server
    again._open(world.path, hosts)
    again.engine().open()
    return again


def live_on(world: ServerWorld) -> None:
    """Let conductors do all that they do by themselves, for a quarter of an hour.

    What only goes forward and is refused by its host is tried for ever: nobody guesses that it is done.
    """
    for _ in range(6):
        with contextlib.suppress(RuntimeError):
            world.engines[-1].run_until_idle(limit=2_000)
        reconcilers = Reconcilers(world.services)
        reconcilers.run_all()
        reconcilers.close()
        world.clock.advance(150.0)
        world.settle()


def test_an_older_database_that_has_it_elsewhere(tmp_path: Path) -> None:
    """The server has moved since: its guest stays where it is; the audit says that the record is wrong."""
    world = ServerWorld(tmp_path / "w", "server_migrate")
    source = world.row()["host"]
    keep(world, tmp_path / "old")
    assert world.run(*world.begin()) == "done"
    assert world.run(*world.accept("confirm_move")) == "done"
    there = world.row()["host"]
    world = restore(world, tmp_path / "old", 2)
    before = guests(world)
    assert world.row()["host"] == source != there and {x.host for x in before} == {there}
    live_on(world)
    found = {(f["kind"], f["subject"]) for f in audit.run(world.services)}
    after = guests(world)
    world.close()
    assert after == before
    assert {("guest_missing", world.server), ("guest_elsewhere", world.server)} <= found


def test_an_older_database_with_a_cleanup_that_is_long_done(tmp_path: Path) -> None:
    """What a host owed then is not asked of it again: the server is there again by now."""
    world = ServerWorld(tmp_path / "w", "confirm_move")
    there = world.row()["host"]
    source = next(h.host for h in world.hosts.all() if h.host != there)
    back = world.fall_silent(source)
    assert world.run(*world.begin()) == "done"
    keep(world, tmp_path / "old")
    back()
    cleanups.run(world.services)
    world.settle()
    assert world.run(*world.accept("server_migrate")) == "done"
    assert world.run(*world.accept("confirm_move")) == "done"
    assert world.row()["host"] == source
    world = restore(world, tmp_path / "old", 2)
    world.hosts.set_service(source, forced_down=False)
    before = guests(world)
    assert world.row()["host"] == there and {x.host for x in before} == {source}
    live_on(world)
    after, (owed,) = guests(world), world.databases["cell1"].read(cleanup.all_records)
    world.close()
    assert after == before
    assert owed["tries"] > 0, "it was asked, and refused"


@pytest.mark.parametrize("kind", ["server_migrate", "confirm_move", "revert_move", "server_stop"])
def test_operations_of_an_older_database(kind: str, tmp_path: Path) -> None:
    """Their orders are of an epoch that is over: hosts that know of later ones refuse them."""
    world = ServerWorld(tmp_path / "w", kind)
    world.engine().open()
    home, operation = world.accept(kind)
    keep(world, tmp_path / "old")
    assert world.run(home, operation) == "done"
    for later in ("server_reboot_hard", "server_migrate", "confirm_move", "server_reboot_hard"):
        if world.row()["vm_state"] == "resized":
            assert world.run(*world.accept("confirm_move")) == "done"
        elif world.row()["vm_state"] == "stopped" or later != "confirm_move":
            assert world.run(*world.accept(later)) == "done"
    if world.row()["vm_state"] == "resized":
        assert world.run(*world.accept("confirm_move")) == "done"
    world = restore(world, tmp_path / "old", 2)
    before = guests(world)
    live_on(world)
    after = guests(world)
    world.close()
    assert after == before


@pytest.mark.parametrize("who", ["source", "destination"])
@pytest.mark.parametrize("wrong", ["host_id", "wiped", "boot"])
def test_an_agent_that_is_another(wrong: str, who: str, tmp_path: Path) -> None:
    """Another host's under a known name is refused; one that forgot all, or is of another boot, removes nothing."""
    world = ServerWorld(tmp_path / "w", "confirm_move", Shape(own=1))
    here = world.row()["host"]
    host = here if who == "destination" else next(h for h in world.taps if h != here)
    before = guests(world)
    world.engine().open()
    old = next(a for a in world.agents if a.identity.host == host)
    old.close()
    world.agents.remove(old)
    name = "fake-stranger" if wrong == "host_id" else f"fake-{host}"
    journal = f"agent-{host}.db" if wrong == "boot" else "wiped.db"
    agent = Agent(
        Identity(host=host, host_id=name, cell="cell1", boot_id=new_uuid()),
        world.guests.driver(host),
        world.taps[host],
        world.bus,
        Journal(world.path / journal, full=False),
        cast(Workers, world.bus.workers),
        volumes=world.guests.volumes(host),
        clock=world.clock,
    )
    world.agents.append(agent)
    agent.start()
    live_on(world)
    after = guests(world)
    runs = {h for h in world.taps for g in world.guests.guests(h).values() if g.power == 1}
    world.close()
    assert after == before and runs == {here}
