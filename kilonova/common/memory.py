"""Keep the C library from holding memory that nobody uses: few arenas, and freed pages given back.

source: glibc manual, "Malloc Tunable Parameters". Elsewhere (musl) both do nothing.
"""

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 8 << 20


def few_arenas(n: int = 2) -> None:
    """Let all threads share ``n`` arenas, and let large blocks go back at once; call it before threads are started.

    A password hash takes 32 MiB for a moment; glibc would learn from the first one to keep them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, n)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return freed pages to the system (a few milliseconds)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
