"""Wait for a condition with a generous guard."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], guard_s: float = 30.0) -> None:
    """Return once ``condition`` holds; AssertionError after the guard."""
    end = time.monotonic() + guard_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
