"""What we tell others to copy works: the shipped examples, run as their readers would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients
ROOT = Path(__file__).parents[2]


def test_the_pytest_fixture() -> None:
    """examples/pytest runs by itself, with nothing of our test suite around it."""
    program = Path(sys.executable).with_name("kilonova")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-p",
        "no:cacheprovider",
        ".",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT / "examples" / "pytest",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "KILONOVA": str(program)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "2 passed" in done.stdout
