"""What a create asks of the databases and the processor as hosts fill up: flat in the servers per host (DESIGN §13).

Run: python -m benchmarks.per_host [--quick]. The whole cloud and its client are this one process, so CPU counts both;
the growth from row to row is what is looked at. The servers have no networks: one has too few addresses.
"""

import sys
import tempfile
import time
from pathlib import Path

from kilonova.common.config import Settings
from kilonova.db import servers
from tests.whole import Whole, until

HOSTS = 10
QUOTA = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}


def statements(whole: Whole) -> tuple[int, int]:
    """Return (statements, commits) of the global, the cells' and the network's database so far."""
    cloud = whole.cloud
    stores = [cloud.world, *cloud.cells.values(), cloud.network.database]
    return sum(d.statements for d in stores), sum(d.commits for d in stores)


def fill(whole: Whole, image: str, have: int, wanted: int) -> None:
    """Make servers up to ``wanted`` in all; print what each cost."""
    body = {"name": "b", "flavorRef": "42", "imageRef": image, "networks": "none"}
    before, cpu, wall = statements(whole), time.process_time(), time.perf_counter()
    for _ in range(wanted - have):
        got = whole.call("POST", "/compute/v2.1/servers", {"server": body}, version="2.90")
        assert got.status == 202, got
    until(lambda: _active(whole) == wanted or None)
    n, after = wanted - have, statements(whole)
    print(
        f"up to {wanted // HOSTS:4} servers per host: {(time.process_time() - cpu) / n * 1000:6.2f} CPU ms (with the "
        f"client), {(after[0] - before[0]) / n:6.1f} statements, {(after[1] - before[1]) / n:5.1f} commits each, "
        f"{n / (time.perf_counter() - wall):5.0f}/s"
    )


def _active(whole: Whole) -> int:
    """Count servers that are built, past the API."""
    names = [f"cell1-host{n + 1}" for n in range(HOSTS)]
    cell = whole.cloud.cells["cell1"]
    rows = cell.read(lambda tx: [r for name in names for r in servers.powers_on(tx, name)])
    return len([r for r in rows if r["task_state"] is None])


def main() -> None:
    """Print a row at 10, 20, 100 and 110 servers per host."""
    steps = (50, 100) if "--quick" in sys.argv else (100, 200, 900, 1000)
    with tempfile.TemporaryDirectory() as folder:
        whole = Whole(Path(folder) / "state", hosts=HOSTS, settings=Settings())
        try:
            project = whole.project("demo")
            whole.call("PUT", f"/compute/v2.1/os-quota-sets/{project}", QUOTA, who="admin")
            image, have = whole.image(), 0
            for wanted in steps:
                fill(whole, image, have, wanted)
                have = wanted
        finally:
            whole.close()


if __name__ == "__main__":
    main()
