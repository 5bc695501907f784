"""A microversion: an ordered value without equality, so that nobody can write "only in 2.32" (TAG-3, TAG-4)."""

import re
from typing import NoReturn

from kilonova.common.errors import BadRequest

_FORM = re.compile(r"([1-9]\d*)\.(0|[1-9]\d*)")


class Microversion:
    """``major.minor``. Ask ``v >= V(2, 32)``, ``v < V(2, 37)`` or ``v.between(a, b)``; ``==`` raises TypeError."""

    __slots__ = ("_key",)

    def __init__(self, major: int, minor: int) -> None:
        self._key = (major, minor)

    @classmethod
    def parse(cls, text: str) -> "Microversion":
        """Read ``2.96``; raises BadRequest for anything else."""
        m = _FORM.fullmatch(text)
        if m is None or len(text) > 12:
            raise BadRequest(
                f"API Version String {text[:40]} is of invalid format. Must be of format MajorNum.MinorNum."
            )
        return cls(int(m[1]), int(m[2]))

    @property
    def major(self) -> int:
        return self._key[0]

    @property
    def minor(self) -> int:
        return self._key[1]

    def between(self, low: "Microversion", high: "Microversion | None") -> bool:
        """Tell whether low <= self <= high; None is no upper end."""
        return self._key >= low._key and (high is None or self._key <= high._key)

    def __ge__(self, other: "Microversion") -> bool:
        return self._key >= other._key

    def __lt__(self, other: "Microversion") -> bool:
        return self._key < other._key

    def __le__(self, other: "Microversion") -> NoReturn:
        raise TypeError(
            "ask >= or <, or between(): a microversion's upper end is said as 'before the next change'"
        )

    __gt__ = __le__

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError(
            "a microversion has no equality: behaviour begins at a version and ends before another"
        )

    __ne__ = __eq__
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self._key[0]}.{self._key[1]}"

    def __repr__(self) -> str:
        return f"Microversion({self})"


V = Microversion
