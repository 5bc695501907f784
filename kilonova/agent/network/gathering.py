"""Parts of a heavy document, until all of one sending have come."""

from kilonova.objects.netstate import Change, Document, ForwardingState


class Gathering:
    """Of one host; keeps one sending per network. Not safe from several threads: the caller has a lock."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, ForwardingState]] = {}

    def take(self, change: Change) -> Change:
        """Return a change with what is complete; parts are kept until the rest of them comes.

        A newer sending, or one beside it, takes the place of an incomplete one: what is lost is asked for again.
        """
        if not any(isinstance(d, ForwardingState) and d.parts > 1 for d in change.documents):
            return change
        whole = tuple(w for d in change.documents if (w := self._whole(d)) is not None)
        return change.replace(documents=whole)

    def _whole(self, document: Document) -> Document | None:
        if not isinstance(document, ForwardingState) or document.parts <= 1:
            return document
        held = self._parts.get(document.id, {})
        if any(other.sending != document.sending for other in held.values()):
            held = {}
        held[document.part] = document
        if len(held) < document.parts:
            self._parts[document.id] = held
            return None
        self._parts.pop(document.id, None)
        parts = [held[n] for n in sorted(held)]
        return document.replace(
            entries=tuple(e for p in parts for e in p.entries),
            gone=tuple(m for p in parts for m in p.gone),
            peers=tuple(a for p in parts for a in p.peers),
            peers_gone=tuple(a for p in parts for a in p.peers_gone),
            part=0,
            parts=1,
            sending="",
        )
