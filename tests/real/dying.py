"""The ``kilonova`` command with one thing more: its cloud kills itself (SIGKILL) at a step that a file names.

``faults/armed`` in the state directory holds lines ``step:direction:when``; the first point that is met is written to
``faults/hit``, which proves that it was reached, and the process ends there. Production code has no part in it.
"""

import functools
import os
import signal
import sys
from pathlib import Path

import pytest

from kilonova.cli import main
from kilonova.saga.faults import Faults
from kilonova.server import plan

ARMED, HIT = "faults/armed", "faults/hit"


class DeathOnDemand(Faults):
    """A kill that is armed while the cloud runs."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def at(self, step: str, direction: str, when: str) -> str | None:
        """Die, if this point is the one."""
        try:
            wanted = (self._directory / ARMED).read_text().split()
        except FileNotFoundError:
            return None
        if f"{step}:{direction}:{when}" in wanted:
            (self._directory / HIT).write_text(f"{step}:{direction}:{when}")
            (self._directory / ARMED).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return None


def run(words: list[str]) -> int:
    """Run a command of ours; the last word is the state directory."""
    deadly = functools.partial(plan.Plan, faults=DeathOnDemand(Path(words[-1])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "Plan", deadly)
        return main.main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
