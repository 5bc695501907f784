"""A process with an engine, made to be killed: python -m tests.processes.engine_child DIR [fault operations [form]]

Takes the directory's lock, accepts new operations, and runs everything that is in the journal; with ``leases`` as its
form, beside others, what it has claimed. Outside effects are files, so that they outlive the process. At ``fault``
(step:direction:when) it prints AT and waits for the file ``go``; it prints ENDED and the ledger once nothing is live.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import SYSTEM
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.saga import journal
from kilonova.saga.engine import Engine
from kilonova.saga.faults import Fault, Faults
from kilonova.saga.lease import StateLock
from kilonova.saga.leases import LeaseOwner
from tests.operations import sample


class Folder:
    """A set or dict of names that are files."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path

    def add(self, name: str) -> None:
        (self.path / name).touch()

    append = add

    def __setitem__(self, name: str, value: str) -> None:
        (self.path / name).write_text(value)

    def pop(self, name: str, default: Any) -> None:
        (self.path / name).unlink(missing_ok=True)

    def __iter__(self) -> Any:
        return (p.name for p in self.path.iterdir())

    def __len__(self) -> int:
        return len(list(self.path.iterdir()))


class FolderAgent(sample.Agent):
    """A host whose guests are files; it forgets its answers when it dies, and finds its guests again by name."""

    def _perform(self, order: Any) -> None:
        guests: Any = self.guests
        if (order.step, order.direction) in self.fails:
            super()._perform(order)
        elif order.direction == "do":
            guests.add(order.server_id)
            self._answer(order, sample.AnswerState.DONE)
        else:
            guests.pop(order.server_id, None)
            self._answer(order, sample.AnswerState.DONE)


class ChildWorld(sample.SampleWorld):
    """The sample's world in a directory that stays."""

    def __init__(self, path: Path, fails: int) -> None:
        self.saga = sample.SAMPLE
        self.clock = SYSTEM  # type: ignore[assignment]
        self.home = SqliteDatabase(path / "global.db", "global")
        self.cell = SqliteDatabase(path / "cell1.db", "cell1")
        ensure(self.home, sample.HOME)
        ensure(self.cell, sample.CELL)
        self.bus = MemoryBus()
        self.outside = sample.Outside()
        outside: Any = self.outside
        outside.ports, outside.announced = Folder(path / "ports"), Folder(path / "announced")
        self.services = sample.Services(self.home, self.cell, self.outside)
        self.agent: Any = FolderAgent(self.bus, "h1")
        self.agent.guests = Folder(path / "guests")
        self.agent.fails = [("build", "do")] * fails
        self.agent2 = sample.Agent(self.bus, "h2")
        self.things = []


def say(line: str) -> None:
    """Write one line whole: two threads that print at once would mix theirs."""
    os.write(1, f"{line}\n".encode())


def stop_here(path: Path) -> None:
    say("AT")
    end = time.monotonic() + 600
    while time.monotonic() < end and not (path / "go").exists():
        time.sleep(0.02)


def main(path: Path, where: str, count: int, form: str) -> None:
    shared = form == "leases"
    lock = StateLock(path, shared=shared)
    step, _, rest = where.partition(":")
    undoing = ":undo:" in where
    world = ChildWorld(path, fails=count if undoing else 0)
    faults = None
    if where:
        direction, when = rest.split(":")
        faults = Faults(Fault(step, direction, when, "pause"), pause=lambda _: stop_here(path))
    dbs = {"global": world.home, "cell1": world.cell}
    owner = LeaseOwner(SYSTEM) if shared else None
    engine = Engine(dbs, world.bus, world.services, faults=faults, ownership=owner)
    for _ in range(count):
        world.begin()
    engine.start()
    say("UP")
    live = world.home.read(lambda tx: journal.list_(tx, live=True, limit=1000))
    for row in live:
        engine.wait("global", row["id"])
    rows = world.home.read(lambda tx: journal.list_(tx, limit=1000))
    ended: dict[str, int] = {}
    for row in rows:
        ended[row["state"]] = ended.get(row["state"], 0) + 1
    report = {"ended": ended, "ledger": world.ledger()}
    engine.stop()
    say(f"ENDED {msgspec.json.encode(report).decode()}")
    lock.close()


if __name__ == "__main__":
    _, directory, *rest = [*sys.argv, *("", "0", "")[len(sys.argv) - 2 :]]
    main(Path(directory), rest[0], int(rest[1]), rest[2])
