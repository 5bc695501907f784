"""Creates per second and CPU by role: processes on PostgreSQL and NATS (DESIGN §13: at most 15 CPU ms per create).

Run: python -m benchmarks.split [--quick] [conductors …]. Simulated hosts; CPU is of every process of the cloud, the
database's included, the clients' not.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.client import Client
from tests.processes.test_split import Split

V = "/compute/v2.1/servers"
TICKS = os.sysconf("SC_CLK_TCK")
HOSTS = 20
CLIENTS = 4
POLL_S = 0.25


def _tree(pid: int) -> list[int]:
    """Return a process and all below it (PostgreSQL has one per connection)."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += _tree(int(child))
    return found


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children, ended ones too."""
    total = 0
    for one in _tree(pid):
        try:
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(w) for w in words[11:15])
    return total / TICKS


def _free(split: Split) -> None:
    """Lift the limits, and make a network that has room."""
    project = split.demo.project
    limits = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    split.admin.call("PUT", f"/compute/v2.1/os-quota-sets/{project}", limits)
    split.admin.call("PUT", f"/network/v2.0/quotas/{project}", {"quota": {"port": -1}})


def _network(client: Client) -> str:
    made = client.post("/network/v2.0/networks", {"network": {"name": "wide"}})["network"]["id"]
    subnet = {"network_id": made, "ip_version": 4, "cidr": "10.64.0.0/16"}
    client.post("/network/v2.0/subnets", {"subnet": subnet})
    return str(made)


def _create(client: Client, network: str, count: int) -> float:
    """Create servers from several clients; return the seconds until all are ACTIVE."""
    body = {**client.server_body("bench")["server"], "networks": [{"uuid": network}]}
    each = [count // CLIENTS] * CLIENTS

    def work(n: int) -> None:
        for _ in range(n):
            client.post(V, {"server": body})

    begun = time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in each]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    def active() -> bool:
        page = client.get(f"{V}?status=BUILD&limit=1")["servers"]
        return not page

    end = time.monotonic() + 120
    while (
        not active()
    ):  # rarely: a list is no part of a create, and every 10 ms it cost more than half of one
        assert time.monotonic() < end, "not all are ACTIVE"
        time.sleep(POLL_S)
    return time.perf_counter() - begun


def _run(conductors: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="kilonova-split-") as name:
        options = ["--hosts", str(HOSTS), "--conductors", str(conductors)]
        split = Split(Path(name) / "state", *options)
        try:
            _free(split)
            network = _network(split.demo)
            _create(split.demo, network, 40)  # warm
            before = {role: _cpu_s(pid) for role, pid in split.pids().items()}
            wall = _create(split.demo, network, count)
            after = {role: _cpu_s(pid) for role, pid in split.pids().items()}
        finally:
            split.close()
    each = {role: (after[role] - before[role]) * 1000 / count for role in sorted(after)}
    where = "PostgreSQL" if "postgresql" in each else "SQLite files"
    total = sum(each.values())
    print(
        f"{conductors} conductor{'s' * (conductors > 1)} on {where} and NATS: {count / wall:.1f} creates/s, "
        f"{total:.1f} CPU ms per create; budget 15 ms: {'met' if total <= 15 else 'missed'}"
    )
    print("   " + ", ".join(f"{role} {ms:.1f}" for role, ms in each.items()))


def main() -> None:
    """Print one line per number of conductors."""
    words = sys.argv[1:]
    count = 120 if "--quick" in words else 400
    for conductors in [int(w) for w in words if w.isdigit()] or [1, 2, 4]:
        _run(conductors, count)


if __name__ == "__main__":
    main()
