"""What a person reads: aligned tables, marks, ages. Plain text, so that it can be piped and pasted."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

_BOLD, _DIM, _RED, _GREEN, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _fits(text: str, stream: TextIO) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def mark(good: bool | None, stream: TextIO | None = None) -> str:
    """Return ✓, ✗ or – (None: does not apply), or words where the terminal cannot show them."""
    stream = stream or sys.stdout
    signs = ("✓", "✗", "–") if _fits("✓✗–", stream) else ("ok", "NO", "-")
    sign = signs[2] if good is None else signs[0] if good else signs[1]
    if not _coloured(stream) or good is None:
        return sign
    return f"{_GREEN if good else _RED}{sign}{_PLAIN}"


def bold(text: str) -> str:
    """Return a text that stands out on a terminal."""
    return f"{_BOLD}{text}{_PLAIN}" if _coloured(sys.stdout) else text


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headers, columns as wide as their longest value; "(none)" when there are no rows."""
    cells = [["" if v is None else str(v) for v in row] for row in rows]
    if not cells:
        print("(none)")
        return
    widths = [max(len(h), *(len(r[i]) for r in cells)) for i, h in enumerate(headers)]
    print(
        bold("  ".join(h.upper().ljust(w) for h, w in zip(headers, widths, strict=True)).rstrip())
    )
    for row in cells:
        print("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> None:
    """Print one fact a line, names aligned; facts that are None or empty are left out."""
    items = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    shown = [(k, v) for k, v in items if v is not None and v != ""]
    width = max((len(k) for k, _ in shown), default=0)
    for key, value in shown:
        print(f"{key:<{width}}  {value}")


def print_json(value: Any) -> None:
    """Print one JSON document on one line, at once."""
    print(json.dumps(value, default=str), flush=True)


def age(seconds: float) -> str:
    """Return a time span in words: 4 s, 12 min, 3 h, 9 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def size(number: float) -> str:
    """Return a number of bytes in KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def use_it(clouds_yaml: object) -> None:
    """Print the three lines that make the ``openstack`` client work when pasted."""
    here = Path(sys.executable).with_name("openstack")
    program = "openstack" if shutil.which("openstack") or not here.is_file() else str(here)
    print(f"  export OS_CLIENT_CONFIG_FILE={clouds_yaml}")
    print("  export OS_CLOUD=kilonova            # or kilonova-admin")
    print(f"  {program} server list")


class Progress:
    """Lines on stderr, one per step, so that stdout keeps the result alone."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def done(self, text: str) -> None:
        """Say that a step is done."""
        self._line(mark(True, sys.stderr), text)

    def note(self, text: str) -> None:
        """Say something that the person should know."""
        self._line(mark(None, sys.stderr), text)

    def _line(self, sign: str, text: str) -> None:
        if not self.quiet:
            print(f"{sign} {text}", file=sys.stderr, flush=True)
