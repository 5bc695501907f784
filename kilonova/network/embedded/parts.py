"""Documents in messages that the bus carries: by what they weigh, not by how many they are."""

from collections.abc import Iterable

from kilonova.objects.netstate import Document, ForwardingState, GroupState

MOST_BYTES = 128 * 1024
MOST = 100
_PLAIN, _ENTRY, _MEMBER = 700, 120, 45  # bytes, roughly, of one encoded


def weight(document: Document) -> int:
    """Return roughly how many bytes a document takes when it is encoded."""
    if isinstance(document, ForwardingState):
        return _PLAIN + _ENTRY * len(document.entries)
    if isinstance(document, GroupState):
        return _PLAIN + _MEMBER * (len(document.ipv4) + len(document.ipv6))
    return _PLAIN


def in_parts(documents: Iterable[Document]) -> list[tuple[Document, ...]]:
    """Return the documents, in order, in at least one part; one that is too heavy has a part of its own."""
    parts: list[list[Document]] = [[]]
    held = 0
    for document in documents:
        heavy = weight(document)
        if parts[-1] and (held + heavy > MOST_BYTES or len(parts[-1]) >= MOST):
            parts.append([])
            held = 0
        parts[-1].append(document)
        held += heavy
    return [tuple(p) for p in parts]
