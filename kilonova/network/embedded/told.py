"""At which generation hosts were told last where a network's MACs live; of a large one they are told what moved since.

A difference names everything that was touched after its base (store/moves.py), as it is: it holds on every host whose
generation lies between its base and its own, whichever process told that one. A host that has less says so, and gets
the whole.
"""

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from kilonova.db.engine import Tx
from kilonova.db.sql import Q
from kilonova.network.embedded import documents
from kilonova.network.embedded.parts import divides
from kilonova.network.embedded.schema import network
from kilonova.network.embedded.store import moves
from kilonova.objects.netstate import ForwardingState

WHOLE_UNTIL = 200  # ports; a smaller network is told whole each time
MOST = 2000  # MACs and hosts in a difference

_ALL = Q(sa.select(network.c.id, network.c.forwarding).where(network.c.external == 0))


class LastTold:
    """By network; of one process. Not safe from several threads: what is told is told under one lock."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def begin(self, tx: Tx) -> None:
        """Take it that hosts were told what is so by the process before; those that were not will say so."""
        for row in tx.all(_ALL):
            self._told.setdefault(row["id"], row["forwarding"])

    def forget(self, networks: Collection[str]) -> None:
        """Tell the whole next: something came to networks that no move says."""
        for network_id in networks:
            self._told.pop(network_id, None)

    def tell(
        self,
        tx: Tx,
        generations: Mapping[str, int],
        underlays: Mapping[str, str],
        behind: Mapping[str, Collection[str]],
    ) -> list[tuple[str, ForwardingState]]:
        """Return (host, what it is told) of networks with their generations in this transaction.

        Where nothing moved a difference is empty: a host that has less than its base says so all the same.
        behind: by network, hosts that get the whole, whatever they were told. underlays: host -> address.
        """
        out: list[tuple[str, ForwardingState]] = []
        for network_id, generation in sorted(generations.items()):
            owed = behind.get(network_id, ())
            found = self._change(tx, network_id, generation, underlays)
            self._told[network_id] = generation
            if found is not None:
                hosts, change = found
                out += ((h, change) for h in hosts if h not in owed)
            if found is None or owed:
                whole = documents.forwarding_states(tx, {network_id: generation}, underlays)
                hosts, state = whole[network_id]
                out += ((h, state) for h in hosts if found is None or h in owed)
        return out

    def _change(
        self, tx: Tx, network_id: str, generation: int, underlays: Mapping[str, str]
    ) -> tuple[list[str], ForwardingState] | None:
        base = self._told.get(network_id)
        if base is None or not divides() or not documents.is_large(tx, network_id, WHOLE_UNTIL):
            return None
        what = moves.since(tx, network_id, base, generation, MOST)
        if what is None:
            return None
        empty = ForwardingState(id=network_id, generation=generation, base=base)
        return documents.forwarding_change(tx, empty, what, underlays)
