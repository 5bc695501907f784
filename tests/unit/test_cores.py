"""A simulated cloud stays on one processor; whoever started it does not."""

import os
import subprocess
import sys

import pytest

SAYS = """
import os
from kilonova.common import cores
before = os.sched_getaffinity(0)
chosen = cores.stay_on_one()
after = os.sched_getaffinity(0)
locked = getattr(__import__("sys"), "_is_gil_enabled", lambda: True)()
assert after == ({chosen} if locked else before) and after <= before
print("stays")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_one_of_its_processors() -> None:
    before = os.sched_getaffinity(0)
    done = subprocess.run(
        [sys.executable, "-c", SAYS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "stays", done.stderr
    assert os.sched_getaffinity(0) == before
