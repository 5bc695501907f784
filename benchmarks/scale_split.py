"""Thousands of simulated hosts over processes: ``python -m benchmarks.scale_split [hosts per cell] [cells]``.

``up --split`` (PostgreSQL where it is installed, NATS), an agent process per cell. Printed: the start until every host
is up, and the time from a ``kill -9`` of the conductor until the next one has heard every host again.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.client import until
from tests.processes.test_split import Split

LONG_S = 300.0


def heard(split: Split) -> list[tuple[str, str]]:
    """Return (state, when it was heard of last) of every host."""
    found: Any = split.admin.get("/compute/v2.1/os-services?binary=nova-compute")["services"]
    return [(s["state"], s["updated_at"] or "") for s in found]


def main() -> None:
    """Print the figures."""
    words = [int(w) for w in sys.argv[1:] if w.isdigit()]
    hosts, cells = (words[0], words[1]) if len(words) > 1 else (1000, 10)
    with tempfile.TemporaryDirectory(prefix="kilonova-scale-") as name:
        Path(name).chmod(0o755)
        began = time.perf_counter()
        split = Split(Path(name) / "state", "--hosts", str(hosts), "--cells", str(cells))
        try:
            until(lambda: len(heard(split)) == hosts * cells, "all hosts are there", LONG_S)
            print(
                f"{hosts * cells} hosts in {cells} cells, {json.dumps(sorted(split.pids()))}: all up after "
                f"{time.perf_counter() - began:.1f} s"
            )
            time.sleep(15.0)  # every host has beaten once
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            before, began = split.kill("conductor"), time.perf_counter()
            until(lambda: split.pids().get("conductor") not in (None, before), "it is back", LONG_S)
            back = time.perf_counter() - began
            until(lambda: min(when for _, when in heard(split)) > at, "all are heard", LONG_S)
            print(
                f"conductor killed: another one after {back:.1f} s, it has heard every host, and written so, after "
                f"{time.perf_counter() - began:.1f} s (written every 5 s)"
            )
        finally:
            split.close()


if __name__ == "__main__":
    main()
