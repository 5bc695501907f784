"""Reading pieces of a file that somebody else wrote, and refusing it."""

import os
from typing import NamedTuple

from kilonova.common.errors import BadRequest


class Refused(BadRequest):
    """The bytes are not an image that we take; the message says what is wrong with them."""

    code = "image_refused"


class Limits(NamedTuple):
    """What an image may ask for. max_virtual_bytes: size of the disk inside, None: no limit."""

    max_virtual_bytes: int | None = None


NO_LIMITS = Limits()


class Piece:
    """Bounded reads of an open file; a read past its end is a refusal."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def at(self, offset: int, length: int, what: str) -> bytes:
        """Return exactly ``length`` bytes; Refused if the file does not have them."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Refused(f"The image is damaged: its {what} lies outside of the file.")
        data = os.pread(self.fd, length, offset)
        if len(data) != length:
            raise Refused(f"The image is damaged: its {what} cannot be read.")
        return data

    def some(self, offset: int, length: int) -> bytes:
        """Return what there is, up to ``length`` bytes."""
        return os.pread(self.fd, length, offset) if 0 <= offset < self.size else b""


def check_virtual_size(size: int, limits: Limits) -> None:
    """Raise Refused for a disk larger than the limit; figures in bytes."""
    if limits.max_virtual_bytes is not None and size > limits.max_virtual_bytes:
        raise Refused(
            f"The disk inside the image is {size} bytes large; at most {limits.max_virtual_bytes} are allowed."
        )
