"""Ten thousand simulated hosts in ten cells, in one process: ``python -m benchmarks.scale [hosts per cell] [cells]``.

Printed: the first start (every host registers and is written), memory, CPU while nothing happens (each host beats every
10 s), creates, lists, and a start after ``kill -9`` until every host has registered again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cloud import Cloud, percentile
from benchmarks.servers import create

IDLE_S = 20.0
READS = 100
SERVERS = 300


def up(directory: Path, cells: int, hosts: int) -> tuple[Cloud, float]:
    """Start, or start again; it answers when every host has registered. Return it and the seconds."""
    command = [sys.executable, "-m", "kilonova.cli.main", "up", "--driver", "fake", "--detach"]
    command += ["--port", "0", "--json", "--state-dir", str(directory)]
    command += ["--cells", str(cells), "--hosts", str(hosts)]
    began = time.perf_counter()
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    wall = time.perf_counter() - began
    return Cloud.of(json.loads(out.stdout)), wall


def hosts_up(c: Cloud) -> int:
    """Return how many hosts are up, as /metrics says."""
    text = c.raw("GET", "/metrics", token=c.admin)[2].decode()
    line = next(x for x in text.splitlines() if x.startswith('kilonova_hosts{state="up"}'))
    return int(float(line.split()[-1]))


def idle(c: Cloud) -> None:
    """Print what heartbeats cost."""
    cpu, began = c.cpu_s(), time.perf_counter()
    time.sleep(IDLE_S)
    share = (c.cpu_s() - cpu) / (time.perf_counter() - began)
    print(f"idle: {share * 100:.1f} % of a core, {c.rss_mib():.0f} MiB")


def reads(c: Cloud, what: str, path: str, token: str | None = None, count: int = READS) -> None:
    """Print the latency and CPU of one read."""
    c.call("GET", path, token=token)
    cpu, took = c.cpu_s(), []
    for _ in range(count):
        began = time.perf_counter()
        status, _, _ = c.raw("GET", path, token=token)
        took.append(time.perf_counter() - began)
        assert status == 200
    each = (c.cpu_s() - cpu) / count * 1000
    print(f"{what}: p50 {percentile(took, 50) * 1000:.1f} ms, {each:.1f} CPU ms")


def one_by_one(c: Cloud, count: int = 30) -> None:
    """Print POST to ACTIVE of one server at a time: a decision over all hosts is in it."""
    took = []
    for i in range(count):
        began = time.perf_counter()
        body: Any = c.call("POST", "/compute/v2.1/servers", c.server_body(f"one{i}", nets=False))[2]
        path = f"/compute/v2.1/servers/{body['server']['id']}"
        while c.call("GET", path)[2]["server"]["status"] != "ACTIVE":
            time.sleep(0.002)
        took.append(time.perf_counter() - began)
    print(f"POST -> ACTIVE over all hosts, one client: p50 {percentile(took, 50) * 1000:.0f} ms")


def main() -> None:
    """Print the figures."""
    words = [int(w) for w in sys.argv[1:] if w.isdigit()]
    hosts, cells = (*words, 1000, 10)[:2] if len(words) < 2 else words[:2]
    with tempfile.TemporaryDirectory(prefix="kilonova-scale-") as name:
        directory = Path(name) / "state"
        c, wall = up(directory, cells, hosts)
        try:
            n = hosts_up(c)
            print(
                f"{n} hosts in {cells} cells: first start {wall:.1f} s, {c.cpu_s():.1f} CPU s, {c.rss_mib():.0f} MiB"
            )
            idle(c)
            c.lift_quotas()
            one_by_one(c)
            create(c, SERVERS, 8, nets=False)
            reads(c, "GET servers?limit=50", "/compute/v2.1/servers?limit=50")
            reads(c, "GET servers/detail?limit=50", "/compute/v2.1/servers/detail?limit=50")
            hypervisors = "/compute/v2.1/os-hypervisors/detail?limit=50"
            reads(c, "GET os-hypervisors/detail?limit=50", hypervisors, c.admin, 10)
            os.kill(c.pid, signal.SIGKILL)
            again, wall = up(directory, cells, hosts)
            c = again
            print(
                f"started again after kill -9: every one of {hosts_up(c)} hosts registered again in {wall:.1f} s, "
                f"{c.cpu_s():.1f} CPU s"
            )
        finally:
            c.close()


if __name__ == "__main__":
    main()
