"""Kinds of databases side by side: CPU per step of an operation, durable claims per second, creates per second.

Run: python -m benchmarks.databases [--quick] [postgresql] [mariadb]. Prints; asserts nothing. Servers are started for
it on disk, with the durability that they have when nobody sets anything; their CPU is told beside this process's.
DESIGN §13 asks ≤ 0.3 ms of this process's CPU per step and ≥ 2,000 durable claims/s on PostgreSQL.
"""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from benchmarks.claims import BASE, fill
from benchmarks.engine import PLAIN, STEPS, accept
from kilonova.bus.memory import MemoryBus
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Database
from kilonova.db.opening import open_database
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.operations.stores import WORLD
from kilonova.placement import claims
from kilonova.saga.engine import Engine
from kilonova.saga.schema import add_tables
from tests import databases
from tests.whole import running

Used = Callable[[], float]


class Kind:
    """One kind of database, with a server if it has one."""

    def __init__(self, name: str) -> None:
        self.name = name
        kinds = {"postgresql": databases.Postgresql, "mariadb": databases.Mariadb}
        self.server = kinds[name](durable=True) if name in kinds else None
        self._folder = tempfile.TemporaryDirectory()
        self._made = 0

    def open(self) -> Database:
        """Return a new database."""
        if self.server is not None:
            return open_database(self.server.make(), "home")
        self._made += 1
        path = Path(self._folder.name) / f"{self._made}.db"
        return SqliteDatabase(path, "home", self.name.rpartition(" ")[2])

    def server_cpu_s(self) -> float:
        """Return what the server has used; 0 for files."""
        return self.server.cpu_s() if self.server is not None else 0.0

    def close(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.close()
        self._folder.cleanup()


def told(kind: Kind, what: str, count: int, run: Callable[[], None]) -> None:
    """Run something; print what one of ``count`` cost."""
    wall, cpu, served = time.perf_counter(), time.process_time(), kind.server_cpu_s()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    served = kind.server_cpu_s() - served
    print(
        f"{kind.name:<14} {what:<34} {count / wall:8.0f} /s   {cpu / count * 1e3:7.3f} CPU ms each here, "
        f"{served / count * 1e3:7.3f} in the server",
        flush=True,
    )


def steps(kind: Kind, count: int) -> None:
    """Operations of seven steps that do nothing: what the journal costs."""
    db = kind.open()
    metadata = sa.MetaData()
    add_tables(metadata)
    ensure(db, metadata)
    bus = MemoryBus()
    engine = Engine({"home": db}, bus, None, workers=2)
    engine.start()
    engine.wait("home", accept(db, PLAIN, engine.nudge))
    waiting = [accept(db, PLAIN, lambda d, o: None) for _ in range(count)]

    def run() -> None:
        for operation in waiting:
            engine.nudge("home", operation)
        for operation in reversed(waiting):
            engine.wait("home", operation, 300)

    told(kind, "steps of operations", count * STEPS, run)
    engine.stop()
    bus.close()
    db.close()


def claiming(kind: Kind, hosts: int, threads: int, count: int, guarded: bool = True) -> None:
    """Claims, each its own durable transaction; not ``guarded``: SERIALIZABLE."""
    db = kind.open()
    ensure(db, WORLD)
    uuids = fill(db, hosts)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(count // threads):
            where, who = {rng.choice(uuids): BASE}, new_uuid()
            db.write(
                lambda tx, where=where, who=who: claims.claim(  # type: ignore[misc]
                    tx, consumer=who, project="p", user="u", amounts=where, now=1.0
                ),
                guarded=guarded,
            )

    def run() -> None:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()

    how = "" if guarded else ", serializable"
    told(kind, f"claims, {threads} threads{how}", count, run)
    print(f"{'':14} of them run again: {getattr(db, 'repeats', 0)}", flush=True)
    db.close()


def creates(kind: Kind, count: int) -> None:
    """Servers over HTTP, by four clients, until all are ACTIVE: a whole cloud, its databases on the server."""
    server = kind.server
    urls = {} if server is None else {n: server.make() for n in databases.CLOUD}
    with running(hosts=10, databases=urls) as whole:
        quota = {"instances": -1, "cores": -1, "ram": -1}
        path = f"/compute/v2.1/os-quota-sets/{whole.project('demo')}"
        whole.call("PUT", path, {"quota_set": quota}, who="admin")
        body = {"name": "b", "flavorRef": "42", "imageRef": whole.image(), "networks": "none"}
        whole.token("demo")

        def work() -> None:
            for _ in range(count // 4):
                whole.call("POST", "/compute/v2.1/servers", {"server": body}, version="2.90")
            whole.hang_up()

        def run() -> None:
            workers = [threading.Thread(target=work) for _ in range(4)]
            for w in workers:
                w.start()
            for w in workers:
                w.join()
            whole.at_rest()

        told(kind, "creates (clients in this process)", count, run)


def main() -> None:
    """Print the table."""
    size = 1 if "--quick" in sys.argv else 5
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or ["postgresql", "mariadb"]
    for name in ("SQLite NORMAL", "SQLite FULL", *wanted):
        kind = Kind(name)
        try:
            steps(kind, 100 * size)
            claiming(kind, 1000, 1, 400 * size)
            for threads in (8, 16):
                if name == "postgresql":
                    claiming(kind, 1000, threads, 400 * size, guarded=False)
                claiming(kind, 1000, threads, 400 * size)
            if name != "SQLite FULL":
                creates(kind, 40 * size)
        finally:
            kind.close()


if __name__ == "__main__":
    main()
