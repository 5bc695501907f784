"""kill -9 of a real process at a point of an operation; the next process ends what it left."""

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.common.errors import Conflict
from kilonova.saga.lease import StateLock
from tests.operations.sample import SAMPLE, clean

ROOT = Path(__file__).parents[2]
WHENS = ("before", "after", "recorded")
FORWARD = [
    f"{s.name}:do:{w}"
    for s in SAMPLE.steps
    for w in WHENS
    if s.name in ("claim", "port", "build", "announce")
]
BACK = [f"{n}:undo:{w}" for n in ("port", "copy", "build") for w in WHENS]


def start(path: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.processes.engine_child", str(path), *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(child: subprocess.Popen[str], word: str) -> str:
    """Return the line that begins with ``word``; the child is killed after 60 s, and the test fails."""
    assert child.stdout is not None
    guard = threading.Timer(60.0, child.kill)
    guard.start()
    try:
        for line in child.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
    finally:
        guard.cancel()
    raise AssertionError(f"the process ended ({child.wait()}) without saying {word}")


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def finish(path: Path) -> dict[str, Any]:
    child = start(path)
    try:
        report: dict[str, Any] = msgspec.json.decode(read_until(child, "ENDED"))
        return report
    finally:
        kill(child)


@pytest.mark.parametrize("points", [FORWARD, BACK], ids=["forward", "back"])
def test_kill_at_points_leaves_nothing(points: list[str], tmp_path: Path) -> None:
    """R2, R3: each process runs into its own point and is killed there; it also works on what the ones before left."""
    for point in points:
        child = start(tmp_path, point, "1")
        try:
            read_until(child, "AT")
        finally:
            kill(child)
    report = finish(tmp_path)
    assert sum(report["ended"].values()) == len(points)
    if points is FORWARD:
        assert report["ended"] == {"done": len(points)}
    assert report["ledger"] == clean(report["ended"])


def test_kill_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """R2: at random times, with twenty operations under way."""
    rng = random.Random(20261121)
    for _ in range(5):
        child = start(tmp_path, "", "20")
        try:
            read_until(child, "UP")
            threading.Event().wait(rng.uniform(0.0, 0.03))
        finally:
            kill(child)
    report = finish(tmp_path)
    assert set(report["ended"]) <= {"done"}
    assert report["ledger"] == clean(report["ended"])


def test_state_directory_has_one_owner(tmp_path: Path) -> None:
    """R3: the kernel frees the lock when its holder dies, however it dies."""
    child = start(tmp_path, "mint:do:before", "1")
    try:
        read_until(child, "AT")
        with pytest.raises(Conflict, match=f"in use by process {child.pid}"):
            StateLock(tmp_path)
    finally:
        kill(child)
    lock = StateLock(tmp_path)
    assert lock.held
    lock.close()
    lock.close()
    StateLock(tmp_path).close()
