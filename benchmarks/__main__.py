"""Run every benchmark in turn and compare with the budgets: ``make bench``. Prints; asserts nothing about time."""

import compileall
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NOT_ALONE = {"__init__", "__main__", "cloud"}


@dataclass(frozen=True)
class Budget:
    """One figure of the design. pattern: where its number stands in what a benchmark prints. least: more is better."""

    what: str
    benchmark: str
    pattern: str
    limit: float
    unit: str
    least: bool = False


_N = r"([\d.]+)"
BUDGETS = (
    Budget(
        "start to first answer, everything", "servers", rf"cloud that answers: {_N} s", 1.2, "s"
    ),
    Budget(
        "10,000 hosts registered again after kill -9",
        "scale",
        rf"hosts registered again in {_N} s",
        10,
        "s",
    ),
    Budget("resident memory, idle", "servers", rf"cloud that answers: .*; {_N} MiB", 120, "MiB"),
    Budget(
        "resident memory after 1,000 servers and lists",
        "servers",
        rf"after the lists: {_N} MiB",
        150,
        "MiB",
    ),
    Budget(
        "create to ACTIVE, 8 clients",
        "servers",
        rf"create 1000 with 8 clients: {_N}/s",
        150,
        "/s",
        True,
    ),
    Budget(
        "create, CPU per server", "servers", rf"create 1000 with 8 clients: .*?{_N} CPU ms", 5, "ms"
    ),
    Budget(
        "POST to ACTIVE p50, one client",
        "servers",
        rf"POST -> ACTIVE, one client: p50 {_N} ms",
        200,
        "ms",
    ),
    Budget("delete", "servers", rf"delete 1000 with 8 clients: {_N}/s", 200, "/s", True),
    Budget(
        "delete, CPU per server", "servers", rf"delete 1000 with 8 clients: .*?{_N} CPU ms", 3, "ms"
    ),
    Budget(
        "GET /servers/detail, 1,000 servers",
        "servers",
        rf"detail\?limit=1000: {_N} CPU ms",
        30,
        "ms",
    ),
    Budget("GET /servers?limit=50 p50", "servers", rf"servers\?limit=50: .*p50 {_N} ms", 3, "ms"),
    Budget("GET /servers/{id} p50", "servers", rf"servers/\{{id\}}: .*p50 {_N} ms", 1, "ms"),
    Budget(
        "real guest: POST to SSH login, beyond bare QEMU",
        "real_guest",
        r"first server .*, ([+-][\d.]+) s against",
        3,
        "s",
    ),
    Budget(
        "engine CPU per step, SQLite",
        "engine",
        rf"workers=1 NORMAL: {_N} ms CPU per step",
        0.15,
        "ms",
    ),
    Budget(
        "create, CPU per server, roles on PostgreSQL + NATS",
        "split",
        rf"1 conductor on .*?{_N} CPU ms",
        15,
        "ms",
    ),
    Budget(
        "decision over 1,000 hosts", "decision", rf" 1000 flat hosts, typical\s+{_N} ms", 0.2, "ms"
    ),
    Budget(
        "decision over 10,000 hosts",
        "decision",
        rf" 10000 flat hosts, typical\s+{_N} ms",
        0.4,
        "ms",
    ),
)


def run(name: str) -> str:
    """Run one benchmark, show and return what it prints."""
    print(f"\n== {name} ==", flush=True)
    lines = []
    command = [sys.executable, "-u", "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        print(f"({name} ended with code {process.returncode})")
    return "".join(lines)


def summary(said: dict[str, str]) -> tuple[int, int]:
    """Print the table; return how many budgets there are for what was run, and how many are met."""
    asked = [b for b in BUDGETS if b.benchmark in said]
    width = max(len(b.what) for b in BUDGETS)
    print(f"\n{'figure':<{width}}  {'measured':>12}  {'budget':>12}")
    short = 0
    for b in asked:
        found = re.search(b.pattern, said.get(b.benchmark, ""))
        limit = f"{'≥' if b.least else '≤'} {b.limit:g} {b.unit}"
        if found is None:
            short += 1
            print(f"{b.what:<{width}}  {'not measured':>12}  {limit:>12}")
            continue
        value = float(found[1])
        met = value >= b.limit if b.least else value <= b.limit
        short += not met
        print(
            f"{b.what:<{width}}  {f'{value:g} {b.unit}':>12}  {limit:>12}  {'' if met else 'MISSED'}"
        )
    return len(asked), len(asked) - short


def main() -> None:
    """Run those that are named, or all."""
    names = sys.argv[1:] or sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NOT_ALONE)
    compileall.compile_dir(HERE.parent / "kilonova", quiet=1)  # as tools/install leaves it
    began = time.monotonic()
    said = {name: run(name) for name in names}
    asked, met = summary(said)
    print(f"\n{met} of {asked} budgets met, in {time.monotonic() - began:.0f} s.")
    print(
        "Wall-clock figures share the machine with the client; see docs/guarantees.md for how to read them."
    )


if __name__ == "__main__":
    main()
