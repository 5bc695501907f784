"""Keep the C library from holding memory that nobody uses: few arenas, and freed pages given back.

source: glibc manual, "Malloc Tunable Parameters". Elsewhere (musl) both do nothing.
"""

import ctypes

_M_ARENA_MAX = -8


def few_arenas(n: int = 2) -> None:
    """Let all threads share ``n`` arenas; call it before threads are started."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, n)


def give_back() -> None:
    """Return freed pages to the system (a few milliseconds)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
