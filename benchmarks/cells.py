"""A list of servers over many cells, all well, and one dead: ``python -m benchmarks.cells [servers per cell]``.

Every cell is a SQLite file that is asked as a database server would be, on a thread of its own. Only prints.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.cells.filters import Filters, Order
from kilonova.cells.listing import Lists
from kilonova.common.ids import new_uuid
from kilonova.db import mappings, servers
from kilonova.db.engine import Database, Tx
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.objects.base import encode
from kilonova.objects.server import FlavorRecord, RequestedServer
from kilonova.operations import rows, stores
from tests.cells import Moody

PROJECT = "p" * 32
LIMIT, LOOKS = 50, 40


def make(root: Path, cells: int, each: int) -> tuple[Database, dict[str, Moody]]:
    """Make the databases, with ``each`` servers per cell."""
    world = SqliteDatabase(root / "global.db", "global")
    ensure(world, stores.WORLD)
    made = {}
    for n in range(cells):
        real = SqliteDatabase(root / f"cell{n}.db", f"cell{n}")
        ensure(real, stores.CELL)
        made[real.name] = Moody(real)
        wanted = [_requested(n * each + k) for k in range(each)]
        real.write(lambda tx, wanted=wanted: _fill(tx, wanted))  # type: ignore[misc]
        world.write(lambda tx, wanted=wanted, name=real.name: _map(tx, wanted, name))  # type: ignore[misc]
    return world, made


def _requested(n: int) -> RequestedServer:
    return RequestedServer(
        server_id=new_uuid(),
        project_id=PROJECT,
        user_id="u",
        request_id="req",
        name=f"s{n}",
        hostname=f"s{n}",
        flavor=FlavorRecord(flavorid="1", name="f", vcpus=1, memory_mib=64, root_gib=1),
        image=None,
        reservation_id="r",
        created_at=float(n % 997),
    )


def _fill(tx: Tx, wanted: list[RequestedServer]) -> None:
    for r in wanted:
        servers.add(tx, **{**rows.row_of(r), "vm_state": "active", "task_state": None})


def _map(tx: Tx, wanted: list[RequestedServer], cell: str) -> None:
    for r in wanted:
        mappings.add(
            tx,
            server=r.server_id,
            project_id=PROJECT,
            user_id="u",
            server_group=None,
            vcpus=1,
            memory_mib=64,
            requested=encode(r),
            operation=new_uuid(),
            now=r.created_at,
        )
        mappings.place(tx, r.server_id, cell=cell, host="h", now=r.created_at)


def look(lists: Lists) -> float:
    """List once; return ms."""
    began = time.perf_counter()
    page = lists.page(Filters(project_id=PROJECT), Order(), LIMIT, partial=True)
    assert len(page.rows) == LIMIT
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure 10 and 50 cells."""
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for cells in (10, 50):
        with tempfile.TemporaryDirectory() as root:
            world, made = make(Path(root), cells, each)
            lists = Lists(world, made, render_unplaced)
            dead = made["cell3"]
            for said, mood in (("all well", ""), ("one refuses", "error"), ("one hangs", "hang")):
                dead.mood = mood
                first = [look(lists) for _ in range(2)] if mood == "hang" else []
                times = sorted(look(lists) for _ in range(LOOKS))
                p50, worst = statistics.median(times), times[-1]
                begin = f"first two {first[0]:.0f} and {first[1]:.0f} ms, then " if first else ""
                print(
                    f"GET /servers?limit={LIMIT} over {cells} cells of {each} servers, {said}: {begin}"
                    f"p50 {p50:.1f} ms, worst {worst:.1f} ms"
                )
            dead.mood = ""
            lists.close()
            for cell in made.values():
                cell.real.close()
            world.close()


if __name__ == "__main__":
    main()
