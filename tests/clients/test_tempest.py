"""A slice of Tempest, OpenStack's own test suite, against a simulated cloud (docs/tempest.md has the whole of it).

Skipped where Tempest is not installed; KILONOVA_TEMPEST names it: an environment of its own, `pip install tempest`.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPEST = os.environ.get("KILONOVA_TEMPEST") or shutil.which("tempest")
TOOLS = ROOT / "tools" / "tempest"


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.skipif(not TEMPEST, reason="tempest is not installed (KILONOVA_TEMPEST names it)")
def test_a_slice_of_tempest_passes(tmp_path: Path) -> None:
    env = {**os.environ, "TEMPEST": str(TEMPEST), "RESULTS": str(tmp_path)}
    done = subprocess.run(
        [TOOLS / "run", TOOLS / "short.txt"], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {k: int(v) for k, v in re.findall(r"- (Passed|Failed): (\d+)", done.stdout)}
    assert counts["Failed"] == 0 and counts["Passed"] >= 40, done.stdout


def test_the_lists_are_patterns_with_reasons() -> None:
    """What is left out is left out by name, under a line that says what is not there."""
    for name in ("all.txt", "short.txt", "unbuilt.txt"):
        for line in (TOOLS / name).read_text().splitlines():
            assert line == "" or line.startswith("#") or re.compile(line), line
