"""A whole cloud in a process of its own, which kills itself (SIGKILL, nothing is tidied) at a fault point.

Talks in lines: it prints ``{"url": …}`` when it answers; it takes ``arm [[kind, step, direction, when], …]``,
``ledger`` and ``rest``, and prints one JSON object for each. End of input ends it in order.

    python -m tests.processes.cloud_child STATE_DIR
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from kilonova.common.config import Settings
from kilonova.saga.faults import KILL, Fault, Faults
from tests.whole import Whole


class RealFaults(Faults):
    """Faults that are armed while the cloud runs; a kill is a kill."""

    def arm(self, faults: list[Fault]) -> None:
        with self._lock:
            self.faults = tuple(faults)
            self._passed = [0] * len(faults)
            self._hits = [0] * len(faults)

    def _take(self, step: str, direction: str, when: str) -> Fault | None:
        fault = super()._take(step, direction, when)
        if fault is not None and fault.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        return fault


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


def main(state_dir: str) -> None:
    """Serve until the end of input."""
    faults = RealFaults()
    x = Whole(Path(state_dir), hosts=2, faults=faults, settings=Settings(heartbeat_s=1.0))
    _say({"url": x.url, "demo": x.demo.token, "project": x.demo.project})
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "arm":
            faults.arm([Fault(step, way, when, kind) for kind, step, way, when in json.loads(rest)])
            _say({"armed": True})
        elif word == "rest":
            x.at_rest()
            _say({"rest": True})
        elif word == "ledger":
            _say({"ledger": dict(x.ledger()), "audit": x.audit()})
    x.close()


if __name__ == "__main__":
    main(sys.argv[1])
