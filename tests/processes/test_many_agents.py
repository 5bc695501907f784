"""Agents that are real processes: a restart storm, the database killed, servers coming and going; zero drift.

Issue 4 §1: 300 of them, for an hour, is the nightly form (KILONOVA_AGENTS, KILONOVA_CHURN_S); a dozen on every change.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.bus.credentials import Authority, Key, of_host
from tests import places
from tests.client import until
from tests.processes import test_split
from tests.processes.test_nats import nats_server
from tests.processes.test_split import LONG_S, ROOT, Split, V

OUTAGES = 2


class Agents:
    """A deployment's agents, forked by one parent (many_agents.py)."""

    def __init__(self, split: Split, directory: Path, count: int) -> None:
        self.names = [f"many-{n + 1}" for n in range(count)]
        self.directory = directory
        directory.mkdir()
        layout = split.directory / "split"
        authority = Authority(Key.of_seed((layout / "account.seed").read_text()))
        for name in self.names:
            made = authority.credentials(name, of_host(name), time.time())
            path = layout / "creds" / f"{name}.creds"
            path.write_text(made.reveal())
            path.chmod(0o600)
        command = [sys.executable, "-m", "tests.processes.many_agents"]
        command += [str(layout / "agent-cell1.toml"), str(directory), "cell1", *self.names]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def pids(self) -> dict[str, int]:
        """Return name -> pid of those that live."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, int] = json.loads((self.directory / "pids.json").read_text())
            return found
        return {}

    def registered(self) -> set[int]:
        """Return the pids of the lives in which a conductor replied."""
        found = set()
        for path in self.directory.glob("*/registered"):
            with contextlib.suppress(OSError, ValueError):
                found.add(int(path.read_text()))
        return found

    def settle(self, before: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
        """Wait until every agent lives and is registered, in a life that is not of ``before``; return the pids."""

        def look() -> set[int]:
            assert self.process.poll() is None, "the agents' parent ended"
            now = set(self.pids().values())
            whole = len(now) == len(self.names) and now <= self.registered()
            return now if whole and not now & before else set()

        return until(look, "all agents are registered", 10 * LONG_S)

    def storm(self) -> None:
        """kill -9 of all at once; return when all are back."""
        before = set(self.pids().values())
        assert len(before) == len(self.names)
        for pid in before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.settle(before)

    def guests(self) -> list[tuple[str, str]]:
        """Return (host, server) of every guest on any of them."""
        found = []
        for name in self.names:
            with contextlib.closing(sqlite3.connect(self.directory / name / "guests.db")) as conn:
                found += conn.execute("SELECT host, server FROM guest").fetchall()
        return found

    def memory_mib(self) -> float:
        """Return what all of them need, shared pages counted once."""
        kib = 0
        for pid in self.pids().values():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                kib += sum(int(x.split()[1]) for x in lines if x.startswith("Pss:"))
        return kib / 1024

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


@pytest.fixture
def split() -> Iterator[Split]:
    with nats_server(), places.place("agents") as path:
        made = Split(path / "state", "--hosts", "1")
        try:
            yield made
        finally:
            made.close()


def _churn(split: Split, agents: Agents, seconds: float) -> None:
    """Servers come and go while all agents die at once and the database dies."""
    ending = threading.Event()
    people = [test_split._Storm(split.demo, n, ending) for n in range(2)]
    for p in people:
        p.start()
    end = time.monotonic() + seconds
    agents.storm()
    hits = 1
    for _ in range(OUTAGES if "postgresql" in split.pids() else 0):
        before = split.kill("postgresql")
        until(
            lambda b=before: split.pids().get("postgresql") not in (None, b), "it is back", LONG_S
        )
        until(lambda: test_split._answers(split), "the API is back", LONG_S)
    while time.monotonic() < end:
        agents.storm()
        hits += 1
        ending.wait(min(10.0, max(0.0, end - time.monotonic())))
    ending.set()
    for p in people:
        p.join(LONG_S)
    assert [w for p in people for w in p.wrong] == []
    assert [s for p in people for s in (*p.kept, *p.left)], "nothing was under way"
    for server in (s for p in people for s in p.kept):
        test_split.wait(split.demo, server, "ACTIVE")
        split.demo.delete(f"{V}/{server}")
    until(lambda: split.demo.get(f"{V}/detail")["servers"] == [], "nothing left", LONG_S)
    print(f"{hits} restarts of all {len(agents.names)} agents in {seconds:.0f} s of churn")


def _no_drift(split: Split, agents: Agents) -> None:
    until(lambda: agents.guests() == [], "no guest is left on any host", LONG_S)
    until(lambda: test_split._clean(split), "the audit finds nothing", LONG_S)
    hosts = split.admin.get("/compute/v2.1/os-services?binary=nova-compute")["services"]
    assert {h["host"] for h in hosts if h["state"] == "up"} >= set(agents.names)


def _run(split: Split, directory: Path, count: int, seconds: float) -> None:
    test_split._lift_limits(split)
    agents = Agents(split, directory, count)
    try:
        agents.settle()
        print(f"{count} agents need {agents.memory_mib():.0f} MiB together")
        _churn(split, agents, seconds)
        _no_drift(split, agents)
    finally:
        agents.close()


def test_a_dozen_agents_die_at_once(split: Split, tmp_path: Path) -> None:
    """R2, R3, R9: every agent is killed, then the database, while servers come and go; nothing is left."""
    _run(split, tmp_path / "agents", 12, 0.0)


@pytest.mark.slow
def test_three_hundred_agents(split: Split, tmp_path: Path) -> None:
    """The nightly form: as many agents and as long as the environment says."""
    count = int(os.environ.get("KILONOVA_AGENTS", "300"))
    _run(split, tmp_path / "agents", count, float(os.environ.get("KILONOVA_CHURN_S", "600")))
