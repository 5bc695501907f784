"""Durable claims per second on SQLite: decide, claim, apply; the claim alone. DESIGN §13 asks 2,000/s on PostgreSQL.

Run: python -m benchmarks.claims [--quick]. Prints; asserts nothing. Each claim is its own transaction; NORMAL survives
the death of every process, FULL a power cut too (writers that wait share a commit).
"""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.operations.stores import WORLD
from kilonova.placement import claims, providers
from kilonova.placement.candidates import Group
from kilonova.placement.inventories import Inventory
from kilonova.scheduler import reading
from kilonova.scheduler.request import Request
from kilonova.scheduler.select import select
from kilonova.scheduler.view import HostFacts, View

BASE = {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}


def fill(db: SqliteDatabase, hosts: int) -> list[str]:
    """Make hosts; return their providers."""
    uuids = [new_uuid() for _ in range(hosts)]
    stock = {rc: Inventory(10**6) for rc in BASE}

    def write(tx: Tx) -> None:
        for i, uuid in enumerate(uuids):
            providers.ensure_host(tx, uuid=uuid, name=f"host{i}", inventory=stock, now=1.0)

    db.write(write)
    return uuids


def measure(what: str, threads: int, count: int, fn: Callable[[random.Random], None]) -> None:
    """Print rate and CPU of ``count`` calls over ``threads`` threads."""

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(count // threads):
            fn(rng)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    wall, cpu = time.perf_counter(), time.process_time()
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = count // threads * threads
    print(f"{what:<50} {done / wall:9.0f} /s   {cpu / done * 1000:7.3f} CPU ms each")


def run(sync: str, hosts: int, threads: int, count: int) -> None:
    """Measure one setting."""
    with tempfile.TemporaryDirectory() as folder:
        db = SqliteDatabase(Path(folder) / "world.db", "world", synchronous=sync)
        ensure(db, WORLD)
        uuids = fill(db, hosts)

        def claim(rng: random.Random) -> None:
            where = {rng.choice(uuids): BASE}
            who = new_uuid()
            db.write(
                lambda tx: claims.claim(
                    tx, consumer=who, project="p", user="u", amounts=where, now=1.0
                )
            )

        label = f"{sync:<6} {hosts:>6} hosts, {threads} threads"
        measure(f"{label}: claim", threads, count, claim)
        view = View()
        reading.refresh(view, db, 1.0, full=True)
        for i, uuid in enumerate(uuids):
            view.put_host(HostFacts(uuid, f"host{i}", "cell1"))
        request = Request(groups=(Group(resources=BASE),))

        def decide(rng: random.Random) -> None:
            chosen = select(view, request, rng=rng).selections[0].chosen
            who = new_uuid()
            view.applied(
                db.write(
                    lambda tx: claims.claim(
                        tx, consumer=who, project="p", user="u", amounts=chosen.amounts, now=1.0
                    )
                )
            )

        measure(f"{label}: decide + claim + apply", threads, count, decide)
        began = time.process_time()
        reading.refresh(view, db, 2.0)
        print(f"{label}: refresh after it {(time.process_time() - began) * 1000:13.1f} CPU ms")
        began = time.process_time()
        reading.refresh(view, db, 3.0, full=True)
        print(f"{label}: full comparison {(time.process_time() - began) * 1000:14.1f} CPU ms")
        db.close()


def main() -> None:
    """Print the table."""
    count = 400 if "--quick" in sys.argv else 4000
    for sync, hosts, threads in (
        ("NORMAL", 100, 1),
        ("NORMAL", 1000, 4),
        ("NORMAL", 10000, 4),
        ("FULL", 1000, 8),
    ):
        run(sync, hosts, threads, count)


if __name__ == "__main__":
    main()
