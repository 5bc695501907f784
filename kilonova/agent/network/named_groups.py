"""Which groups the rules of a host's ports name: a group's set goes with the last port that names it."""

import collections

from kilonova.objects.netstate import Change, PortState


class NamedGroups:
    """Remote groups by port. Not safe from several threads; the caller has a lock."""

    def __init__(self) -> None:
        self._of_port: dict[str, frozenset[str]] = {}
        self._ports: collections.Counter[str] = collections.Counter()

    def take(self, change: Change) -> set[str]:
        """Note a change; return the groups that no port names since."""
        before = dict(self._ports)
        if change.full:
            self._of_port.clear()
            self._ports.clear()
        for kind, id_, _ in change.removed:
            if kind == "port":
                self._set(id_, frozenset())
        for document in change.documents:
            if isinstance(document, PortState):
                named = (r.remote_group for r in document.rules if r.remote_group is not None)
                self._set(document.id, frozenset(named))
        return {g for g, count in before.items() if count > 0 and self._ports[g] <= 0}

    def waiting(self, change: Change, groups: set[str]) -> list[str]:
        """Return the ports of a change whose rules name a group that is not in ``groups``, one per such group."""
        out: dict[str, str] = {}
        for document in change.documents:
            if isinstance(document, PortState):
                for group in self._of_port.get(document.id, frozenset()) - groups:
                    out.setdefault(group, document.id)
        return list(dict.fromkeys(out.values()))

    def _set(self, port_id: str, named: frozenset[str]) -> None:
        self._ports.subtract(self._of_port.pop(port_id, frozenset()))
        if named:
            self._of_port[port_id] = named
            self._ports.update(named)
