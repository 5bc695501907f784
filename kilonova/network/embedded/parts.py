"""Documents in messages that the bus carries: by what they weigh, not by how many they are."""

from collections.abc import Iterable, Iterator

from kilonova.common.ids import new_uuid
from kilonova.objects.base import spoken
from kilonova.objects.netstate import Document, ForwardingState, GroupState

MOST_BYTES = 128 * 1024
MOST = 100
_PLAIN, _ENTRY, _MEMBER, _MAC, _PEER = 700, 120, 45, 20, 20  # bytes, roughly, of one encoded
_EACH = (MOST_BYTES - _PLAIN) // (_ENTRY + _PEER)  # entries, and peers, of one part of a whole


def weight(document: Document) -> int:
    """Return roughly how many bytes a document takes when it is encoded."""
    if isinstance(document, ForwardingState):
        macs, peers = len(document.gone), len(document.peers) + len(document.peers_gone)
        return _PLAIN + _ENTRY * len(document.entries) + _MAC * macs + _PEER * peers
    if isinstance(document, GroupState):
        return _PLAIN + _MEMBER * (len(document.ipv4) + len(document.ipv6))
    return _PLAIN


def divides() -> bool:
    """Tell whether every host reads differences and parts of where MACs live (the deployment's pin)."""
    pin = spoken()
    return pin is None or pin.get(ForwardingState.__name__, (1, 0)) >= (1, 1)


def pieces(document: Document) -> Iterator[Document]:
    """Give a document, or the parts of one that is too heavy for a message and can be divided."""
    if not isinstance(document, ForwardingState) or weight(document) <= MOST_BYTES or not divides():
        yield document
        return
    lists = {name: getattr(document, name) for name in ("entries", "gone", "peers", "peers_gone")}
    count = -(-max(len(held) for held in lists.values()) // _EACH)
    sending = new_uuid()
    for n in range(count):
        some = {name: held[n * _EACH : (n + 1) * _EACH] for name, held in lists.items()}
        yield document.replace(**some, part=n, parts=count, sending=sending)


def in_parts(documents: Iterable[Document]) -> list[tuple[Document, ...]]:
    """Return the documents, in order, in at least one part; one that is too heavy has parts of its own."""
    parts: list[list[Document]] = [[]]
    held = 0
    for document in (piece for whole in documents for piece in pieces(whole)):
        heavy = weight(document)
        if parts[-1] and (held + heavy > MOST_BYTES or len(parts[-1]) >= MOST):
            parts.append([])
            held = 0
        parts[-1].append(document)
        held += heavy
    return [tuple(p) for p in parts]
