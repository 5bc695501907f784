"""CPU of the engine per step on SQLite (budget 0.15 ms), and of the bus per message; prints only.

bench_asks: all steps but one order a host; its figure includes the toy host's half, two messages and their threads.

python benchmarks/engine.py [operations]
"""

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.bus import answers
from kilonova.bus.memory import MemoryBus
from kilonova.common.context import service_context
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.objects.base import Versioned, decode, encode
from kilonova.objects.order import Answer, AnswerState, Direction, Order
from kilonova.saga import journal
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.saga.engine import Engine
from kilonova.saga.schema import add_tables

STEPS = 7


class BenchParams(Versioned, frozen=True, kw_only=True):
    server: str


def work(run: Run) -> Output:
    return {"id": run.operation}


def order(run: Run) -> Order:
    return Order(
        host="h1",
        verb="guest_build",
        server_id=run.resource,
        epoch=1,
        operation=run.operation,
        step=run.step,
        direction=Direction.DO,
        fence=run.fence,
        seq=run.seq,
        answer_to=run.home,
        deadline_s=10.0,
        body=msgspec.Raw(b"null"),
    )


NOTHING = NoUndo("a benchmark")
PLAIN = register(
    Saga(
        kind="bench_plain",
        version=1,
        params=BenchParams,
        steps=tuple(Step(f"step{n}", work, NOTHING, 10.0) for n in range(STEPS)),
    )
)
ASKS = register(
    Saga(
        kind="bench_asks",
        version=1,
        params=BenchParams,
        steps=(
            Step("first", work, NOTHING, 10.0),
            *(Ask(f"ask{n}", order, lambda r, a: {}, NOTHING, 10.0) for n in range(STEPS - 1)),
        ),
    )
)


def agent(bus: MemoryBus) -> None:
    def hear(subject: str, body: bytes) -> None:
        o = decode(body, Order)
        a = Answer(
            host="h1",
            operation=o.operation,
            step=o.step,
            direction=o.direction,
            seq=o.seq,
            state=AnswerState.DONE,
        )
        bus.publish(answers.subject("h1", o.answer_to), encode(a))

    bus.subscribe("agent.h1.order", hear)


def accept(db: SqliteDatabase, saga: Saga, nudge: Any) -> str:
    operation = new_uuid()

    def write(tx: Tx) -> None:
        journal.accept(
            tx,
            id=operation,
            kind=saga.kind,
            version=1,
            resource=operation,
            epoch=1,
            project_id="p",
            context=service_context("p"),
            params=BenchParams(server=operation),
            nudge=nudge,
        )

    db.write(write)
    return operation


def run(saga: Saga, count: int, workers: int, synchronous: str = "NORMAL") -> None:
    with tempfile.TemporaryDirectory() as directory:
        db = SqliteDatabase(Path(directory) / "home.db", "home", synchronous)
        metadata = sa.MetaData()
        add_tables(metadata)
        ensure(db, metadata)
        bus = MemoryBus()
        agent(bus)
        engine = Engine({"home": db}, bus, None, workers=workers)
        engine.start()
        engine.wait("home", accept(db, saga, engine.nudge))
        cpu, wall = time.process_time(), time.perf_counter()
        operations = [accept(db, saga, lambda d, o: None) for _ in range(count)]
        accepted = time.process_time() - cpu
        db.statements = db.commits = 0
        cpu, wall = time.process_time(), time.perf_counter()
        for op in operations:
            engine.nudge("home", op)
        for op in reversed(operations):
            engine.wait("home", op, 300)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        engine.stop()
        bus.close()
        print(
            f"{saga.kind:12} workers={workers} {synchronous:6}: {cpu / count / STEPS * 1e3:.3f} ms CPU per step, "
            f"{cpu / count * 1e3:.2f} per operation of {STEPS} steps, accept {accepted / count * 1e3:.3f} ms, "
            f"{count / wall:.0f} operations/s, {db.commits / count:.1f} commits"
        )
        db.close()


def messages(count: int) -> None:
    bus = MemoryBus()
    done = threading.Event()
    seen = 0

    def hear(subject: str, body: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    bus.subscribe("agent.h1.order", hear)
    cpu = time.process_time()
    for _ in range(count):
        bus.publish("agent.h1.order", b"x" * 1000)
    done.wait()
    print(f"bus: {(time.process_time() - cpu) / count * 1e6:.1f} us CPU per message (a burst)")
    reply = threading.Event()
    bus.subscribe("ping", lambda s, b: reply.set())
    cpu = time.process_time()
    for _ in range(count // 10):
        reply.clear()
        bus.publish("ping", b"")
        reply.wait()
    print(
        f"bus: {(time.process_time() - cpu) / count * 1e7:.1f} us CPU per message (one at a time)"
    )
    bus.close()


if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    run(PLAIN, n, 1)
    run(PLAIN, n, 4)
    run(ASKS, n, 4)
    run(PLAIN, n // 4, 4, "FULL")
    messages(n * 20)
