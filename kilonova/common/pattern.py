"""Regular expressions that tenants send, on an engine that never goes back: linear in the text, whatever the pattern.

Letters match in either case, as Nova's names do on MySQL. The engine is the one that JSON schemas are checked with.
"""

import functools
import re
from collections.abc import Callable

import jsonschema_rs

MOST = 255  # characters of a pattern
_SIZE = 1 << 20  # bytes of a compiled one
_LETTER = re.compile(r"\\.|[A-Z]", re.DOTALL)
_SPECIAL = re.compile(r"[\\.^$*+?{}\[\]|()]")


def is_plain(pattern: str) -> bool:
    """Tell whether a pattern only says which letters must be there."""
    return _SPECIAL.search(pattern) is None


@functools.lru_cache(maxsize=256)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a text has a match somewhere. ValueError: it is no pattern, or too big."""
    if len(pattern) > MOST:
        raise ValueError(f"the pattern has more than {MOST} characters")
    small = _LETTER.sub(lambda m: m[0] if len(m[0]) > 1 else m[0].lower(), pattern)
    validator = jsonschema_rs.Draft7Validator(
        {"pattern": small}, pattern_options=jsonschema_rs.RegexOptions(size_limit=_SIZE)
    )
    return lambda text: bool(validator.is_valid(text.lower()))


def matches(pattern: str, text: str | None) -> bool:
    """Tell whether a text matches; nothing matches no text. For databases: REGEXP."""
    return text is not None and matcher(pattern)(text)
