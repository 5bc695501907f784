"""Where MACs live, told to the hosts of a network that have an underlay address: without one there is nothing to tell.

A host says its address when it asks for everything. Of a large network hosts are told differences (told.py). What a
host did not report is sent again three times; after that its next question for everything brings it.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable

import sqlalchemy as sa

from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded import documents
from kilonova.network.embedded.schema import network, underlay
from kilonova.network.embedded.store import moves
from kilonova.network.embedded.store.common import listed
from kilonova.network.embedded.told import LastTold
from kilonova.objects.netstate import BEHIND, Applied, Document

log = get_logger(__name__)
TRIES = 3
BEHIND_EVERY_S = 1.0  # a host that says so more often is not listened to
Outbox = dict[str, tuple[list[Document], list[tuple[str, str, int]]]]

_ALL = Q(sa.select(underlay.c.host, underlay.c.address))
_COUNTED = Q(sa.select(network.c.id, network.c.forwarding).where(network.c.external == 0))
_INSERT = insert(underlay)
_DROP = Q(sa.delete(underlay).where(underlay.c.host == P("host")))
_HOLDER = Q(sa.select(underlay.c.host).where(underlay.c.address == P("address")))


class Forwarding:
    """Marks of networks, and the underlay addresses of hosts as last read. Safe to use from any thread.

    alive: the hosts that are alive; an address of one that is not may be taken over. hears: whether this process is the
    one that hosts report to, and so repeats what was lost, whichever process sent it.
    """

    def __init__(self, database: Database) -> None:
        self.alive: Callable[[], Collection[str]] = tuple
        self.hears = True
        self._database = database
        self._guard = threading.Lock()
        self._underlays: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._told = LastTold()
        self._news: set[str] = set()  # networks of hosts whose address is new here: told whole
        self._behind: set[tuple[str, str]] = set()  # (host, network): the whole is owed
        self._said_behind: dict[tuple[str, str], float] = {}  # when one said so last, monotonic
        self._unheard: dict[tuple[str, str], tuple[int, float, int]] = {}
        # (host, network) -> generation, monotonic time of sending, how often it was sent again
        self._heard: dict[tuple[str, str], int] = {}  # (host, network) -> generation in force
        self._counted: dict[str, int] | None = (
            None  # network -> generation at the last look; one thread's
        )

    def load(self) -> None:
        """Read the addresses again: another process may have heard of a host. Networks of such a host are marked."""

        def read(tx: Tx) -> tuple[dict[str, str], set[str]]:
            found = {r["host"]: r["address"] for r in tx.all(_ALL)}
            news = [h for h, _ in found.items() ^ known.items()]
            nets = (tx.all(documents.NETWORKS_ON_HOST, host=h) for h in news)
            return found, {r[0] for rows in nets for r in rows}

        known = self.underlays()
        found, nets = self._database.read(read)
        with self._guard:
            self._underlays = found
            self._dirty |= nets
            self._news |= nets

    def underlays(self) -> dict[str, str]:
        """Return host -> underlay address."""
        with self._guard:
            return dict(self._underlays)

    def register(self, host: str, address: str, now: float) -> bool:
        """Note where a host's tunnels end ("": nowhere); tell whether that is new. What lives there is marked.

        An address that another host has stays with that one while it is alive: a host speaks for itself only.
        """
        with self._guard:
            if self._underlays.get(host, "") == address:
                return False
        alive = self.alive()

        def put(tx: Tx) -> list[str] | None:
            holder = tx.value(_HOLDER, address=address)
            if holder not in (None, host) and holder in alive:
                log.error(
                    "two hosts say that they have the same underlay address",
                    extra={"host": host, "holder": holder, "address": address},
                )
                return None
            for old in {host, holder or host}:
                tx.put(_DROP, host=old)
            if address:
                tx.put(_INSERT, host=host, address=address, updated_at=now)
            nets = [r[0] for r in tx.all(documents.NETWORKS_ON_HOST, host=host)]
            moves.count(tx, ((n, moves.ANYTHING) for n in nets))
            return nets

        nets = self._database.write(put)
        if nets is None:
            return False
        self.load()
        self.mark(set(nets))
        return True

    # -- what is to be sent

    def bump(self, tx: Tx, moved: Collection[tuple[str, str]]) -> None:
        """Count a change of where MACs live, in the transaction that makes it: what is read later is newer."""
        if moved and self.underlays():
            moves.count(tx, moved)

    def mark(self, networks: set[str]) -> bool:
        """Note networks in which something moved; False where no host has an underlay."""
        with self._guard:
            if not self._underlays or not networks:
                return False
            self._dirty |= networks
            return True

    def take(self) -> set[str]:
        """Return the marked networks, and forget the marks."""
        with self._guard:
            dirty, self._dirty = self._dirty, set()
            return dirty

    def collect(
        self, tx: Tx, networks: Iterable[str], out: Outbox, only: str | None = None
    ) -> None:
        """Put the documents of networks into an outbox, for every host of each, or ``only`` for one, whole."""
        known = self.underlays()
        if not known or (only is not None and only not in known):
            return
        rows = tx.all(documents.TENANT_NETWORKS, ids=listed(networks))
        generations = {r[0]: r[1] for r in rows}
        if only is None:
            with self._guard:
                news, self._news = self._news, set()
            self._told.forget(news)
            behind = self._take_behind(generations)
            told = self._told.tell(tx, generations, known, behind)
        else:
            whole = documents.forwarding_states(tx, generations, known)
            told = [(only, state) for _, state in whole.values()]
        for host, document in told:
            out.setdefault(host, ([], []))[0].append(document)
            self._sent(host, document.id, document.generation)

    def begin(self) -> None:
        """Take what is so for what hosts know, so that the first change of a large network is a small message."""
        if self.underlays():
            self._database.read(self._told.begin)
            with self._guard:
                self._news.clear()

    def owe(self, host: str, networks: Iterable[str]) -> None:
        """Mark networks of which one host is to be told the whole."""
        with self._guard:
            self._behind |= {(host, n) for n in networks}
            self._dirty |= set(networks)

    def _take_behind(self, networks: Collection[str]) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        with self._guard:
            for host, network_id in {key for key in self._behind if key[1] in networks}:
                self._behind.discard((host, network_id))
                out.setdefault(network_id, []).append(host)
        return out

    # -- what was heard

    def _sent(self, host: str, network_id: str, generation: int) -> None:
        with self._guard:
            known, _, tries = self._unheard.get((host, network_id), (generation, 0.0, 0))
            tries = tries if known == generation else 0
            if self.hears and self._heard.get((host, network_id), -1) < generation:
                self._unheard[host, network_id] = (generation, time.monotonic(), tries)

    def heard(self, report: Applied) -> bool:
        """Note what a host has in force; tell whether it is owed more."""
        behind = [
            n for kind, n, _, error in report.items if (kind, error) == ("forwarding", BEHIND)
        ]
        owed = [n for n in behind if self._may_say_so((report.host, n))]
        self.owe(report.host, owed)
        for kind, network_id, generation, error in report.items:
            if kind == "forwarding" and error is None:
                key = (report.host, network_id)
                with self._guard:
                    self._heard[key] = max(generation, self._heard.get(key, -1))
                    waiting = self._unheard.get(key)
                    if waiting is not None and waiting[0] <= generation:
                        del self._unheard[key]
        return bool(owed)

    def _may_say_so(self, key: tuple[str, str]) -> bool:
        now = time.monotonic()
        with self._guard:
            if now - self._said_behind.get(key, float("-inf")) < BEHIND_EVERY_S:
                return False
            self._said_behind[key] = now
            return True

    def expect(self) -> None:
        """Note what other processes told hosts since the last call: this one hears whether it came."""
        known, counted = self.underlays(), self._counted
        if not known:
            return

        def read(tx: Tx) -> dict[str, tuple[int, list[str]]]:
            rows = {r["id"]: r["forwarding"] for r in tx.all(_COUNTED)}
            moved = [i for i, n in rows.items() if counted is not None and counted.get(i) != n]
            hosts = {i: [h[0] for h in tx.all(documents.HOSTS_OF_NETWORK, id=i)] for i in moved}
            return {i: (n, hosts.get(i, [])) for i, n in rows.items()}

        found, now = self._database.read(read), time.monotonic()
        self._counted = {i: n for i, (n, _) in found.items()}
        with self._guard:
            for network_id, (generation, hosts) in found.items():
                for key in ((h, network_id) for h in hosts if h in known):
                    if key not in self._unheard and self._heard.get(key, -1) < generation:
                        self._unheard[key] = (generation, now, 0)

    def mark_unheard(self, before: float) -> None:
        """Mark what was sent before a moment (monotonic) and not reported; given up after three times."""
        with self._guard:
            late = {k: v for k, v in self._unheard.items() if v[1] < before}
            for key, (generation, _, tries) in late.items():
                if tries < TRIES:
                    self._dirty.add(key[1])
                    self._unheard[key] = (generation, time.monotonic(), tries + 1)
                else:
                    del self._unheard[key]
