"""What a disk image really is: the one module that decides, before any tool of QEMU's sees a byte (RELIABILITY S1-S8).

Two opinions must agree: the format inspectors of oslo.utils, and parsers of ours that are stricter. A file that is
more than one thing, is not what it was declared to be, refers to anything outside itself, or asks for more room than
allowed is refused. Nothing here runs a program or follows a reference.
"""

from kilonova.image.inspect.decide import (
    CHECKER_VERSION,
    DISK_FORMATS,
    Found,
    inspect,
)
from kilonova.image.inspect.parts import NO_LIMITS, Limits, Refused

__all__ = ["CHECKER_VERSION", "DISK_FORMATS", "NO_LIMITS", "Found", "Limits", "Refused", "inspect"]
