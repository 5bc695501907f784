"""Real processes that sleep beyond their lease: another one ends what they had; awake again they change nothing."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.operations.sample import SAMPLE, clean
from tests.processes.test_engine_kill import kill, read_until, start

POINTS = ("claim:do:after", "copy:do:before", "build:do:recorded", "announce:do:before")
EVERY = tuple(f"{s.name}:do:{when}" for s in SAMPLE.steps for when in ("before", "after"))


def _round(path: Path, points: tuple[str, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Let a process sleep at each point; return what the taker saw at its end, and each sleeper at its own."""
    sleepers: list[subprocess.Popen[str]] = []
    taker: subprocess.Popen[str] | None = None
    try:
        for point in points:
            sleepers.append(start(path, point, "1", "leases"))
            read_until(sleepers[-1], "AT")
        for child in sleepers:
            os.kill(child.pid, signal.SIGSTOP)
        taker = start(path, "", "0", "leases")
        taken = msgspec.json.decode(read_until(taker, "ENDED"))
        (path / "go").touch()
        for child in sleepers:
            os.kill(child.pid, signal.SIGCONT)
        return taken, [msgspec.json.decode(read_until(c, "ENDED")) for c in sleepers]
    finally:
        for child in (*sleepers, *([taker] if taker is not None else [])):
            kill(child)


def test_sleepers_change_nothing_when_they_wake(tmp_path: Path) -> None:
    """R3, R8: taken over within the lease; 0 double effects."""
    taken, woken = _round(tmp_path, POINTS)
    assert taken["ended"] == {"done": len(POINTS)}
    assert taken["ledger"] == clean(taken["ended"])
    assert woken[-1] == taken


@pytest.mark.slow
def test_a_hundred_sleepers(tmp_path: Path) -> None:
    """R8: 100 rounds, ten at a time; every point of every step comes."""
    for n in range(0, 100, 10):
        path = tmp_path / str(n)
        path.mkdir()
        points = tuple(EVERY[(n + k) % len(EVERY)] for k in range(10))
        taken, woken = _round(path, points)
        assert taken["ended"] == {"done": 10}
        assert woken[-1]["ledger"] == clean({"done": 10})
