"""A small operation that has everything: home effects, outside effects, a foreign database, a host, no return.

mint      choose the ids
claim     take a slot (home database)
port      make a port (a neighbour)
copy      write into another database, fenced
build     order a host to build a guest
activate  the point of no return
announce  tell a neighbour
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.bus.disturbed import Disturbed
from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import Clock, ManualClock
from kilonova.common.context import service_context
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Database, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.db.versions import ensure
from kilonova.objects.base import Versioned, decode, encode
from kilonova.objects.order import Answer, AnswerState, Direction, Order
from kilonova.saga import journal
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.saga.engine import Engine
from kilonova.saga.faults import Faults
from kilonova.saga.leases import LeaseOwner
from kilonova.saga.schema import add_tables
from tests import databases

HOME = sa.MetaData()
add_tables(HOME)
THING = sa.Table(
    "thing", HOME, sa.Column("id", sa.Text, primary_key=True), sa.Column("state", sa.Text)
)
CLAIM = sa.Table("claim", HOME, sa.Column("thing", sa.Text))  # no key: a double would be seen
CLEANUP = sa.Table("cleanup", HOME, sa.Column("host", sa.Text), sa.Column("thing", sa.Text))
CELL = sa.MetaData()
add_tables(CELL)
COPY = sa.Table("copy", CELL, sa.Column("thing", sa.Text))

NEW_THING, NEW_CLAIM, NEW_CLEANUP, NEW_COPY = (
    insert(THING),
    insert(CLAIM),
    insert(CLEANUP),
    insert(COPY),
)
SET_STATE = Q(sa.update(THING).where(THING.c.id == P("the_id")).values(state=P("state")))
DROP_CLAIM = Q(sa.delete(CLAIM).where(CLAIM.c.thing == P("thing")))
DROP_COPY = Q(sa.delete(COPY).where(COPY.c.thing == P("thing")))


class SampleParams(Versioned, frozen=True, kw_only=True):
    thing: str
    host: str = "h1"


class Outside:
    """A neighbour: things by key, found again by it."""

    def __init__(self) -> None:
        self.ports: dict[str, str] = {}
        self.announced: set[str] = set()


class Agent:
    """A toy host: remembers answers by seq, refuses lower fences, leaves tombstones."""

    def __init__(self, bus: Any, host: str) -> None:
        self.host = host
        self.guests: list[str] = []  # a list: a guest that was made twice would be seen
        self.performed = 0
        self.fails: list[tuple[str, str]] = []
        self.silent = False
        self.remembers = True
        self._bus = bus
        self._last: dict[str, tuple[int, int]] = {}
        self._answers: dict[tuple[str, str, int], Answer] = {}
        self._orders: list[bytes] = []
        bus.subscribe(f"agent.{host}.order", self.hear)

    def hear(self, subject: str, body: bytes) -> None:
        if self.silent:
            return
        order = decode(body, Order)
        stored = self._answers.get((order.operation, f"{order.step}:{order.direction}", order.seq))
        if stored is not None and self.remembers:
            self._bus.publish(f"answer.{order.host}.{order.answer_to}", encode(stored))
            return
        if (order.fence, order.seq) < self._last.get(order.operation, (0, 0)) and self.remembers:
            self._answer(order, AnswerState.REFUSED)
            return
        self._last[order.operation] = (order.fence, order.seq)
        self._perform(order)

    def _perform(self, order: Order) -> None:
        if (order.step, order.direction) in self.fails:
            self.fails.remove((order.step, order.direction))
            self._answer(order, AnswerState.FAILED)
            return
        self.performed += 1
        if order.direction == Direction.DO:
            self.guests.append(order.server_id)
        else:
            self.guests = [g for g in self.guests if g != order.server_id]
        self._answer(order, AnswerState.DONE)

    def _answer(self, order: Order, state: AnswerState) -> None:
        a = Answer(
            host=self.host,
            operation=order.operation,
            step=order.step,
            direction=order.direction,
            seq=order.seq,
            state=state,
            message=None if state == AnswerState.DONE else "It did not work.",
        )
        self._answers[order.operation, f"{order.step}:{order.direction}", order.seq] = a
        self._bus.publish(f"answer.{order.host}.{order.answer_to}", encode(a))


@dataclasses.dataclass
class Services:
    home: Database
    cell: Database
    outside: Outside
    down: set[str] = dataclasses.field(default_factory=set)

    def host_is_down(self, host: str) -> bool:
        return host in self.down


def mint(run: Run) -> Output:
    return {"port": new_uuid()}


def claim(run: Run) -> Output:
    return {"slot": 1}


def record_claim(tx: Tx, run: Run, output: Output) -> None:
    tx.run(NEW_CLAIM, thing=run.resource)


def unrecord_claim(tx: Tx, run: Run) -> None:
    tx.run(DROP_CLAIM, thing=run.resource)


def port(run: Run) -> None:
    run.services.outside.ports[run.outputs["mint"]["port"]] = run.resource


def drop_port(run: Run) -> None:
    run.services.outside.ports.pop(run.outputs["mint"]["port"], None)


def copy(run: Run) -> None:
    def write(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        tx.run(DROP_COPY, thing=run.resource)
        tx.run(NEW_COPY, thing=run.resource)

    run.services.cell.write(write)


def drop_copy(run: Run) -> None:
    def write(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        tx.run(DROP_COPY, thing=run.resource)

    run.services.cell.write(write)


def _order(run: Run, direction: Direction) -> Order:
    return Order(
        host=run.params.host,
        verb="guest_build",
        server_id=run.resource,
        epoch=run.epoch,
        operation=run.operation,
        step=run.step,
        direction=direction,
        fence=run.fence,
        seq=run.seq,
        answer_to=run.home,
        deadline_s=60.0,
        body=msgspec.Raw(b"null"),
    )


def build(run: Run) -> Order:
    return _order(run, Direction.DO)


def unbuild(run: Run) -> Order:
    return _order(run, Direction.UNDO)


def built(run: Run, answer: Answer) -> Output:
    return {"host": answer.host}


def leave_behind(tx: Tx, run: Run, order: Order) -> None:
    tx.run(NEW_CLEANUP, host=order.host, thing=run.resource)


def activate(run: Run) -> None:
    return None


def record_active(tx: Tx, run: Run, output: Output) -> None:
    tx.run(SET_STATE, the_id=run.resource, state="ACTIVE")


def announce(run: Run) -> None:
    run.services.outside.announced.add(run.resource)


def record_unwound(tx: Tx, run: Run) -> None:
    tx.run(SET_STATE, the_id=run.resource, state="ERROR")


SAMPLE = register(
    Saga(
        kind="sample",
        version=1,
        params=SampleParams,
        steps=(
            Step("mint", mint, NoUndo("makes nothing outside the journal"), 1.0),
            Step("claim", claim, NoUndo("only rows"), 10.0, record_claim, unrecord_claim),
            Step("port", port, drop_port, 30.0),
            Step("copy", copy, drop_copy, 30.0),
            Ask("build", build, built, unbuild, 60.0, park=leave_behind, queue="build"),
            Step(
                "activate",
                activate,
                NoUndo("nothing is outside"),
                10.0,
                record_active,
                point_of_no_return=True,
            ),
            Step("announce", announce, NoUndo("never unwound"), 10.0),
        ),
        unwound_record=record_unwound,
    )
)


class SampleWorld:
    """Two real SQLite files, a neighbour, two hosts. disturbed: seed of a bus that loses, doubles and delays."""

    shared = False

    def __init__(self, path: Path, saga: Saga = SAMPLE, disturbed: int | None = None) -> None:
        self.saga = saga
        self.clock = ManualClock()
        self.home = databases.at(path / "global.db", "global")
        self.cell = databases.at(path / "cell1.db", "cell1")
        ensure(self.home, HOME)
        ensure(self.cell, CELL)
        self.plain = MemoryBus(workers=0)
        self.bus: MemoryBus | Disturbed = self.plain
        if disturbed is not None:
            self.bus = Disturbed(
                self.plain, disturbed, lose=0.2, delay_s=30.0, monotonic=self.clock.monotonic
            )
        self.outside = Outside()
        self.services = Services(self.home, self.cell, self.outside)
        self.agent = Agent(self.bus, "h1")
        self.agent2 = Agent(self.bus, "h2")
        self.things: list[str] = []
        self.events: list[tuple[str, str, str]] = []

    def engine(self, faults: Faults | None = None, **kw: Any) -> Engine:
        if self.shared:
            kw.setdefault("ownership", LeaseOwner(self.clock))
        return Engine(
            {"global": self.home, "cell1": self.cell},
            self.bus,
            self.services,
            clock=self.clock,
            faults=faults,
            observer=lambda kind, step, outcome, s: self.events.append((kind, step, outcome)),
            **kw,
        )

    def begin(
        self, host: str = "h1", deadline_s: float | None = None, clock: Clock | None = None
    ) -> tuple[str, str]:
        thing, operation = new_uuid(), new_uuid()
        self.things.append(thing)

        def write(tx: Tx) -> None:
            tx.run(NEW_THING, id=thing, state="BUILD")
            journal.accept(
                tx,
                id=operation,
                kind=self.saga.kind,
                version=self.saga.version,
                resource=thing,
                epoch=1,
                project_id="p1",
                context=service_context(),
                params=SampleParams(thing=thing, host=host),
                deadline_s=deadline_s,
                now=(clock or self.clock).now(),
            )

        self.home.write(write)
        return "global", operation

    def ledger(self) -> dict[str, Any]:
        def rows(tx: Tx) -> dict[str, Any]:
            return {
                "claims": len(tx.select(sa.select(CLAIM))),
                "cleanups": len(tx.select(sa.select(CLEANUP))),
                "things": sorted(r["state"] for r in tx.select(sa.select(THING))),
                "live": len(journal.list_(tx, live=True)),
            }

        return {
            **self.home.read(rows),
            "copies": self.cell.read(lambda tx: len(tx.select(sa.select(COPY)))),
            "ports": len(self.outside.ports),
            "guests": len(self.agent.guests) + len(self.agent2.guests),
            "announced": len(self.outside.announced),
        }

    def clean(self, state: str) -> Mapping[str, Any]:
        return clean({"done": 1} if state == "done" else {"failed": 1})

    def close(self) -> None:
        self.bus.close()
        self.home.close()
        self.cell.close()


def clean(ended: Mapping[str, int]) -> dict[str, Any]:
    """Return the ledger after so many sample operations ended well (``done``) or not (any other key)."""
    good = ended.get("done", 0)
    bad = sum(ended.values()) - good
    return {
        "claims": good,
        "cleanups": 0,
        "things": ["ACTIVE"] * good + ["ERROR"] * bad,
        "live": 0,
        "copies": good,
        "ports": good,
        "guests": good,
        "announced": good,
    }
