"""Live migrations: the control plane, and a real guest with its downtime: ``python -m benchmarks.live_migration``.

Simulated hosts move nothing, so what is printed is the cloud's own part. The real half needs root and what ``kilonova
doctor`` asks for: two hosts on this machine; the downtime is what libvirt measured, kept by the operation.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import real_guest
from benchmarks.cloud import Cloud, cloud, percentile

COMPUTE = "/compute/v2.1"
MOVES, REAL_MOVES = 100, 4


def move(c: Cloud, server: str) -> float:
    """Move a server to another host; return the seconds from POST to its end."""
    body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
    began = time.perf_counter()
    path = f"{COMPUTE}/servers/{server}"
    status, _, answer = c.call("POST", f"{path}/action", body, token=c.admin)
    assert status == 202, answer
    while True:
        shown = c.call("GET", path, token=c.admin)[2]["server"]
        if shown["OS-EXT-STS:task_state"] is None:
            return time.perf_counter() - began
        time.sleep(0.005)


def made(c: Cloud) -> str:
    """Return an ACTIVE server."""
    status, _, answer = c.call("POST", f"{COMPUTE}/servers", c.server_body("mover"))
    assert status == 202, answer
    server = str(answer["server"]["id"])
    while c.call("GET", f"{COMPUTE}/servers/{server}")[2]["server"]["status"] == "BUILD":
        time.sleep(0.02)
    return server


def simulated() -> None:
    """Print the control plane's time and CPU."""
    with cloud(hosts=3) as c:
        server = made(c)
        move(c, server)
        cpu = c.cpu_s()
        times = [move(c, server) for _ in range(MOVES)]
        each = (c.cpu_s() - cpu) / MOVES * 1000
        print(
            f"live migration, simulated hosts: p50 {percentile(times, 50) * 1000:.0f} ms, "
            f"p95 {percentile(times, 95) * 1000:.0f} ms from POST, {each:.1f} CPU ms each (polling included)"
        )


def downtimes(directory: Path) -> list[tuple[int, int]]:
    """Return (total, downtime) in ms of the live migrations that a cloud keeps in its journal."""
    path = next(directory.rglob("cell1.db"))
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT outputs FROM operation WHERE kind = 'live_migrate' AND state = 'done'"
        ).fetchall()
    found = [json.loads(outputs).get("migrate", {}) for (outputs,) in rows]
    return [(int(m["total_ms"]), int(m["downtime_ms"])) for m in found if m]


def real() -> None:
    """Print time and downtime of a real guest with a local disk, between two hosts of this machine."""
    why = real_guest.missing()
    if why is not None:
        print(f"live migration of a real guest: skipped, {why}")
        return
    scratch = Path(tempfile.mkdtemp(prefix="kilonova-bench-", dir="/var/tmp"))
    scratch.chmod(0o755)
    image, directory = scratch / "tiny.qcow2", scratch / "cloud"
    cache = os.environ.get("KILONOVA_CACHE", "/var/cache/kilonova")
    build = [real_guest.REPOSITORY / "guest-image" / "build", "--cache", cache, image]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    kilonova = [sys.executable, "-m", "kilonova.cli.main"]
    up: list[Any] = [*kilonova, "up", "--driver", "libvirt", "--hosts", "2", "--port", "0"]
    up += ["--state-dir", directory, "--image", image, "--json", "--detach"]
    try:
        done = subprocess.run(up, check=True, capture_output=True, text=True)
        c = Cloud.of(json.loads(done.stdout))
        server = made(c)
        console = {"os-getConsoleOutput": {"length": 50}}
        until = time.monotonic() + real_guest.GUARD_S
        while time.monotonic() < until:
            answer = c.call("POST", f"{COMPUTE}/servers/{server}/action", console)[2]
            if "GUEST READY" in str(answer):
                break
            time.sleep(0.5)
        times = [move(c, server) for _ in range(REAL_MOVES)]
        kept = downtimes(directory)
        print(
            f"live migration of a real guest, local disk copied: {min(times):.1f} to {max(times):.1f} s from POST, "
            f"downtime {min(d for _, d in kept)} to {max(d for _, d in kept)} ms"
        )
    finally:
        if directory.exists():
            down = [*kilonova, "down", "--purge", "--state-dir", directory]
            subprocess.run(down, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    simulated()
    real()
