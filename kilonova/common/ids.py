"""Ids and units as types, and the checks that make them so."""

import os
import re
import uuid
from typing import NewType

ServerId = NewType("ServerId", str)  # UUID
OperationId = NewType("OperationId", str)  # UUID
MiB = NewType("MiB", int)
GiB = NewType("GiB", int)
Seconds = NewType("Seconds", float)

_UUID = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE
)


def new_uuid() -> str:
    """Return a random UUID (version 4) with dashes."""
    b = bytearray(os.urandom(16))
    b[6] = (b[6] & 0x0F) | 0x40
    b[8] = (b[8] & 0x3F) | 0x80
    h = b.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def new_hex() -> str:
    """Return a random id of 32 hex digits, the form identity uses for projects and users."""
    return new_uuid().replace("-", "")


def new_request_id() -> str:
    """Return a request id in the form that OpenStack clients look for (``req-`` + UUID)."""
    return "req-" + new_uuid()


def is_uuid(text: object) -> bool:
    """Tell whether ``text`` is a UUID, with or without its dashes."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def canonical_uuid(text: str) -> str:
    """Return the UUID with dashes and in lower case; ValueError when it is none."""
    if not is_uuid(text):
        raise ValueError(f"{text!r} is not a UUID")
    return str(uuid.UUID(text))
