"""What a move to another cell costs the control plane besides copying data (DESIGN §13: at most 0.1 s).

Run: python -m benchmarks.cross_cell [--quick]. The cloud, its simulated hosts and its client are this one process;
wall time is that of one server on an idle cloud, from the request to VERIFY_RESIZE, CPU counts all of it.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.whole import Whole, until

V = "/compute/v2.1"
BUDGET_S = 0.1


def _status(whole: Whole, server: str) -> tuple[str, Any]:
    shown = whole.call("GET", f"{V}/servers/{server}", who="admin").json["server"]
    return shown["status"], shown["OS-EXT-STS:task_state"]


def _timed(whole: Whole, server: str, body: dict[str, Any], end: str) -> tuple[float, float]:
    """Ask for something; return (wall s, CPU s) until the server is in its end state."""
    wall, cpu = time.perf_counter(), time.process_time()
    got = whole.call("POST", f"{V}/servers/{server}/action", body, who="admin", version="2.56")
    assert got.status in (202, 204), got
    until(lambda: _status(whole, server) == (end, None))
    return time.perf_counter() - wall, time.process_time() - cpu


def _row(name: str, times: list[tuple[float, float]]) -> None:
    wall, cpu = (sorted(t[k] for t in times) for k in (0, 1))
    middle = len(times) // 2
    print(
        f"{name:34} p50 {wall[middle] * 1000:6.1f} ms, worst {wall[-1] * 1000:6.1f} ms, "
        f"{cpu[middle] * 1000:6.1f} CPU ms with the client; budget {BUDGET_S * 1000:.0f} ms: "
        f"{'met' if wall[middle] <= BUDGET_S else 'missed'}"
    )


def _rounds(
    whole: Whole, n: int, end: Callable[[Whole, str], tuple[float, float]], name: str
) -> None:
    out, back = [], []
    for _ in range(n):
        server = whole.server(who="admin", networks="auto", availability_zone="nova:cell1-host1")
        body = {"migrate": {"host": "cell2-host1"}}
        out.append(_timed(whole, server, body, "VERIFY_RESIZE"))
        back.append(end(whole, server))
        whole.gone(server)
    _row(f"move to another cell ({name})", out)
    _row(f"  {name}", back)


def _live(whole: Whole, n: int) -> None:
    """Print live moves: simulated hosts send nothing, so this is the cloud's own part."""
    server = whole.server(who="admin", networks="auto", availability_zone="nova:cell1-host1")
    times = []
    for k in range(n):
        host = ("cell2-host1", "cell1-host1")[k % 2]
        body = {"os-migrateLive": {"host": host, "block_migration": "auto"}}
        times.append(_timed(whole, server, body, "ACTIVE"))
    whole.gone(server)
    _row("live move to another cell", times)


def main() -> None:
    """Print moves, confirms and reverts, and live moves."""
    n = 5 if "--quick" in sys.argv else 30
    with tempfile.TemporaryDirectory() as folder:
        whole = Whole(Path(folder) / "state", cells=2, hosts=2)
        try:
            _rounds(
                whole, n, lambda w, s: _timed(w, s, {"confirmResize": None}, "ACTIVE"), "confirm"
            )
            _rounds(whole, n, lambda w, s: _timed(w, s, {"revertResize": None}, "ACTIVE"), "revert")
            _live(whole, n)
        finally:
            whole.close()


if __name__ == "__main__":
    main()
