"""Which processors this process runs on.

CPython lets one thread run at a time. When its threads wake on two cores, they mostly wait for each other: a simulated
cloud took 5.2 CPU ms per create on two free cores and 3.3 on one, at a third more creates per second (``make bench``).
"""

import os
import sys


def stay_on_one() -> int | None:
    """Keep this process, and what it starts from now on, on one of its processors; return which, None: on all.

    Call it before threads are started, and only where no child of ours needs a processor of its own. Several such
    processes spread over the processors. Does nothing without the interpreter's lock, or where it cannot be done.
    """
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not locked or not hasattr(os, "sched_setaffinity"):
        return None
    try:
        mine = sorted(os.sched_getaffinity(0))
        chosen = mine[os.getpid() % len(mine)]
        os.sched_setaffinity(0, {chosen})
    except OSError:
        return None
    return chosen
