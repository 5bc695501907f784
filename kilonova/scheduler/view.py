"""The scheduler's picture of all hosts: columns in memory, kept fresh from the database and by our own claims.

Rows are resource providers. Root providers are one segment (row = host), those below them another, with their root's
row as a column. Host facts (enabled, up, cell, hypervisor) come from whoever hears of them: ``put_host``, ``set_up`` …
One lock guards it: a decision takes a fraction of a millisecond; a refresh reads the database before it takes the lock.
"""

import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np

from kilonova.placement import names
from kilonova.placement.candidates import Node, Slot
from kilonova.placement.claims import Change, Delta
from kilonova.placement.loading import ProviderRow
from kilonova.scheduler.columns import Bools, Interned, Numbers, Segment

DEFAULT_ZONE = "nova"
WEIGHED = ("ram", "cpu", "disk", "io_ops", "instances", "build_failures", "hypervisor_version")
CLASS_OF = {names.MEMORY_MB: 0, names.VCPU: 1, names.DISK_GB: 2}
IO_OPS, INSTANCES, BUILD_FAILURES, HYPERVISOR_VERSION = 3, 4, 5, 6


@dataclass(frozen=True)
class HostKind:
    """What many hosts have in common. supported: (architecture, hypervisor type, vm mode)."""

    hypervisor_type: str = "QEMU"
    hypervisor_version: int = 0
    supported: tuple[tuple[str, str, str], ...] = (("x86_64", "qemu", "hvm"),)
    cpu_info: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """What is known of a host besides its provider. uuid: of its root provider. node: hypervisor host name."""

    uuid: str
    host: str
    cell: str
    node: str = ""
    enabled: bool = True
    forced_down: bool = False
    up: bool = True
    kind: HostKind = HostKind()
    host_ip: str = ""

    @property
    def usable(self) -> bool:
        """Whether new servers may go there as far as its service is concerned."""
        return self.enabled and self.up and not self.forced_down


@dataclass(frozen=True)
class Aggregate:
    """A host aggregate of the compute API."""

    id: int
    uuid: str
    name: str
    metadata: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(self.id)


class View:
    """See the module. Every public method may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.roots = Segment()
        self.children = Segment()
        self.is_host = Numbers(np.bool_, False)
        self.usable = Numbers(np.bool_, False)
        self.weighed = np.zeros((len(WEIGHED), self.roots.size), np.float32)
        self.kinds: Interned[HostKind | None] = Interned(None)
        self.cells: Interned[str] = Interned("")
        self.host_aggregates: Interned[frozenset[int]] = Interned(frozenset())
        self.aggregates: dict[int, Aggregate] = {}
        self.facts: dict[str, HostFacts] = {}  # by provider uuid, also of providers not read yet
        self.row_of: dict[str, tuple[bool, int]] = {}  # uuid -> (is a root, row)
        self.row_of_host: dict[str, int] = {}
        self.host_of_row: dict[int, str] = {}
        self.members: dict[int, set[int]] = {}  # root row -> rows of its children
        self.aggregates_of_host: dict[str, frozenset[int]] = {}
        self.multiplier_keys: frozenset[str] = frozenset()
        self.hosts = 0
        self.changed_at = 0.0  # the newest change of the database that is in here
        self.synced_at = -1e18  # when everything was compared last
        self._sharing: set[tuple[bool, int]] = set()
        self._waiting: dict[str, list[Delta]] = {}  # claims of ours after a gap, by provider
        self.refreshing = threading.Lock()
        self.aggregates_signature: tuple[object, ...] = ()

    # -- what hears of hosts calls these

    def put_host(self, facts: HostFacts) -> None:
        """Take over what is known of a host. Safe to repeat; the provider may come later."""
        with self.lock:
            self.facts[facts.uuid] = facts
            found = self.row_of.get(facts.uuid)
            if found is not None and found[0]:
                self._place_facts(found[1], facts)

    def change_host(
        self,
        host: str,
        *,
        enabled: bool | None = None,
        up: bool | None = None,
        forced_down: bool | None = None,
    ) -> None:
        """Change what is given; fine when the host is not known."""
        with self.lock:
            row = self.row_of_host.get(host)
            if row is None:
                return
            old = self.facts[self.roots.uuids[row]]
            self.put_host(
                replace(
                    old,
                    enabled=old.enabled if enabled is None else enabled,
                    up=old.up if up is None else up,
                    forced_down=old.forced_down if forced_down is None else forced_down,
                )
            )

    def set_up(self, alive: Set[str]) -> None:
        """Say which hosts are up, the others not."""
        with self.lock:
            for facts in [f for f in self.facts.values() if f.up != (f.host in alive)]:
                self.put_host(replace(facts, up=not facts.up))

    def remove_host(self, uuid: str) -> None:
        """Forget a host's facts; its provider, if it still is there, is no host any more."""
        with self.lock:
            self.facts.pop(uuid, None)
            found = self.row_of.get(uuid)
            if found is not None and found[0]:
                self._clear_facts(found[1])

    def set_io_ops(self, host: str, busy: int) -> None:
        """Say how many servers of a host are being built, resized, snapshot …"""
        self._set_weighed(host, IO_OPS, busy)

    def set_build_failures(self, host: str, failures: int) -> None:
        """Say how many builds failed in a row on a host; 0 after one that worked."""
        self._set_weighed(host, BUILD_FAILURES, failures)

    def build_failed(self, host: str) -> None:
        """Count one more failed build."""
        with self.lock:
            row = self.row_of_host.get(host)
            if row is not None:
                self.weighed[BUILD_FAILURES, row] += 1

    def _set_weighed(self, host: str, which: int, value: float) -> None:
        with self.lock:
            row = self.row_of_host.get(host)
            if row is not None:
                self.weighed[which, row] = value

    # -- our own claims

    def applied(self, change: Change) -> None:
        """Apply a claim, release or move of this process, after its commit; later decisions see it at once."""
        if not change.deltas:
            return
        with self.lock:
            for delta in change.deltas:
                found = self.row_of.get(delta.provider)
                if found is None:
                    continue
                segment = self.roots if found[0] else self.children
                if delta.generation <= segment.generations[found[1]]:
                    continue  # a read that came later had it
                self._add(found, delta)
                self._known(delta.provider, found, delta)

    def _add(self, at: tuple[bool, int], delta: Delta) -> None:
        is_root, row = at
        segment = self.roots if is_root else self.children
        for resource_class, more in delta.amounts.items():
            segment.column(resource_class).add(row, more)
            if is_root and resource_class in CLASS_OF:
                self.weighed[CLASS_OF[resource_class], row] -= more
        if is_root:
            self.weighed[INSTANCES, row] += delta.servers

    # -- reading the database

    def put_provider(self, p: ProviderRow) -> None:
        """Take over a provider as read; claims of ours that are newer than the read stay applied. Root first."""
        with self.lock:
            is_root = p.root == p.uuid
            found = self.row_of.get(p.uuid)
            segment = self.roots if is_root else self.children
            if found is not None and (
                found[0] != is_root or segment.created[found[1]] != p.created_at
            ):
                self.drop_provider(p.uuid)  # moved in or out of a tree, or another one of that id
                found = None
            if found is None:
                row = self._new(segment, p, is_root)
            else:
                row = found[1]
                if p.generation < segment.generations[row]:
                    return  # read before a claim of ours was committed
            segment.generations[row], segment.created[row] = p.generation, p.created_at
            segment.names[row], segment.parents[row] = p.name, p.parent
            self._place(segment, row, is_root, p)
            self._repeat_newer(p.uuid, (is_root, row))

    def _new(self, segment: Segment, p: ProviderRow, is_root: bool) -> int:
        row = segment.new_row(p.uuid, p.name)
        self.row_of[p.uuid] = (is_root, row)
        if is_root:
            segment.root.data[row] = row
            if segment.size > len(self.is_host.data):
                self._grow(segment.size)
            facts = self.facts.get(p.uuid)
            if facts is not None:
                self._place_facts(row, facts)
        return row

    def _grow(self, size: int) -> None:
        for column in (
            self.is_host,
            self.usable,
            self.kinds.ids,
            self.cells.ids,
            self.host_aggregates.ids,
        ):
            column.grow(size)
        wider = np.zeros((len(WEIGHED), size), np.float32)
        wider[:, : self.weighed.shape[1]] = self.weighed
        self.weighed = wider

    def _place(self, segment: Segment, row: int, is_root: bool, p: ProviderRow) -> None:
        for resource_class in p.inventory.keys() | segment.classes.keys() | p.used.keys():
            record = p.inventory.get(resource_class)
            column = segment.column(resource_class)
            column.put(row, record, p.used.get(resource_class, 0))
            if is_root and resource_class in CLASS_OF:
                self.weighed[CLASS_OF[resource_class], row] = column.free.data[row]
        segment.traits.set(row, p.traits)
        segment.aggregates.set(row, p.aggregates)
        if names.SHARES in p.traits:
            self._sharing.add((is_root, row))
        else:
            self._sharing.discard((is_root, row))
        if is_root:
            self.weighed[INSTANCES, row] = p.servers
            self._usable(row)
            return
        old = int(segment.root.data[row])
        root = self.row_of.get(p.root, (True, -1))[1]
        if old != root:
            self.members.get(old, set()).discard(row)
            segment.root.data[row] = root
        if root >= 0:
            self.members.setdefault(root, set()).add(row)

    def generation_known(self, uuid: str, created_at: float | None = None) -> int | None:
        """Return the generation at which a provider is known, our own claims counted; None when it is not known.

        created_at: only if it is the one that was made then.
        """
        found = self.row_of.get(uuid)
        if found is None:
            return None
        segment = self.roots if found[0] else self.children
        if created_at is not None and segment.created[found[1]] != created_at:
            return None
        return segment.generations[found[1]]

    def _repeat_newer(self, uuid: str, at: tuple[bool, int]) -> None:
        """Apply what waits and is newer than what was just read."""
        segment = self.roots if at[0] else self.children
        waiting = sorted(self._waiting.pop(uuid, ()), key=lambda d: d.generation)
        for delta in waiting:
            if delta.generation > segment.generations[at[1]]:
                self._add(at, delta)
                self._known(uuid, at, delta)

    def _known(self, uuid: str, at: tuple[bool, int], delta: Delta) -> None:
        """A change that follows on what is known is part of it; one after a gap waits for the read that fills it."""
        segment = self.roots if at[0] else self.children
        if delta.generation == segment.generations[at[1]] + 1 and uuid not in self._waiting:
            segment.generations[at[1]] = delta.generation
        else:
            self._waiting.setdefault(uuid, []).append(delta)

    def drop_provider(self, uuid: str) -> None:
        """Forget a provider that is gone; fine when it is not known."""
        with self.lock:
            found = self.row_of.pop(uuid, None)
            self._waiting.pop(uuid, None)
            if found is None:
                return
            is_root, row = found
            self._sharing.discard(found)
            if is_root:
                self._clear_facts(row)
                self.weighed[:, row] = 0
                self.roots.drop_row(row)
            else:
                self.members.get(int(self.children.root.data[row]), set()).discard(row)
                self.children.drop_row(row)

    # -- facts of hosts

    def _place_facts(self, row: int, facts: HostFacts) -> None:
        if not self.is_host.data[row]:
            self.hosts += 1
        self.row_of_host.pop(self.host_of_row.get(row, ""), None)
        self.is_host.data[row] = True
        self.row_of_host[facts.host], self.host_of_row[row] = row, facts.host
        self.kinds.set(row, facts.kind)
        self.cells.set(row, facts.cell)
        self.host_aggregates.set(row, self.aggregates_of_host.get(facts.host, frozenset()))
        self.weighed[HYPERVISOR_VERSION, row] = facts.kind.hypervisor_version
        self._usable(row)

    def _clear_facts(self, row: int) -> None:
        if self.is_host.data[row]:
            self.hosts -= 1
        self.row_of_host.pop(self.host_of_row.pop(row, ""), None)
        self.is_host.data[row] = self.usable.data[row] = False
        self.kinds.set(row, None)
        self.cells.set(row, "")
        self.host_aggregates.set(row, frozenset())

    def _usable(self, row: int) -> None:
        facts = self.facts.get(self.roots.uuids[row])
        self.usable.data[row] = (
            facts is not None and facts.usable and names.DISABLED not in self.roots.traits.get(row)
        )

    def put_aggregates(
        self, aggregates: Mapping[int, Aggregate], members: Mapping[str, frozenset[int]]
    ) -> None:
        """Take over all host aggregates. members: host -> ids of its aggregates."""
        with self.lock:
            self.aggregates = dict(aggregates)
            keys = {k for a in aggregates.values() for k in a.metadata}
            self.multiplier_keys = frozenset(k for k in keys if k.endswith("_multiplier"))
            old, self.aggregates_of_host = self.aggregates_of_host, dict(members)
            for host in old.keys() | members.keys():
                row = self.row_of_host.get(host)
                if row is not None and old.get(host) != members.get(host):
                    self.host_aggregates.set(row, members.get(host, frozenset()))

    # -- what decisions ask

    def facts_of(self, row: int) -> HostFacts:
        """Return a host's facts."""
        return self.facts[self.roots.uuids[row]]

    def zone_of(self, aggregates: frozenset[int]) -> str:
        """Return the availability zone that a set of aggregates gives."""
        for i in sorted(aggregates):
            a = self.aggregates.get(i)
            if a is not None and "availability_zone" in a.metadata:
                return a.metadata["availability_zone"]
        return DEFAULT_ZONE

    def metadata_of(self, aggregates: frozenset[int]) -> dict[str, set[str]]:
        """Return what the aggregates say, merged: key -> values; a value with commas is several (as Nova reads it)."""
        out: dict[str, set[str]] = {}
        for i in aggregates:
            a = self.aggregates.get(i)
            for key, value in a.metadata.items() if a is not None else ():
                out.setdefault(key, set()).update(v.strip() for v in value.split(","))
        return out

    def sharing(self) -> list[tuple[bool, int]]:
        """Return (is a root, row) of the providers that share with the members of their aggregates."""
        return sorted(self._sharing)

    def sharers_for(self, row: int) -> list[tuple[bool, int]]:
        """Return those that share with one root's tree."""
        if not self._sharing:
            return []
        mine = set(self.roots.aggregates.get(row))
        for child in self.members.get(row, ()):
            mine |= self.children.aggregates.get(child)
        return [
            s
            for s in self.sharing()
            if mine & (self.roots if s[0] else self.children).aggregates.get(s[1])
            and int((self.roots if s[0] else self.children).root.data[s[1]]) != row
        ]

    def tree(self, row: int) -> list[Node]:
        """Return a root's providers and those that share with it, for an exact search."""
        out = [self.node(True, row)]
        out += [self.node(False, child) for child in sorted(self.members.get(row, ()))]
        out += [self.node(*s, sharing=True) for s in self.sharers_for(row)]
        return out

    def node(self, is_root: bool, row: int, sharing: bool = False) -> Node:
        """Return one provider with what is free on it."""
        s = self.roots if is_root else self.children
        slots = {}
        for resource_class, column in s.classes.items():
            r = column.records[row]
            if r is not None:
                used = int(column.used.data[row])
                slots[resource_class] = Slot(
                    r.capacity - used, r.min_unit, r.max_unit, r.step_size, r.capacity, used
                )
        return Node(
            s.uuids[row],
            self.roots.uuids[int(s.root.data[row])] if s.root.data[row] >= 0 else s.uuids[row],
            s.parents[row],
            slots,
            s.traits.get(row),
            s.aggregates.get(row),
            sharing,
        )

    def any_below(self, mask: Bools) -> Bools:
        """From a mask over children, return the mask over roots that have one of them."""
        out = np.zeros(self.roots.n, np.bool_)
        rows = self.children.root.data[: self.children.n][mask]
        out[rows[rows >= 0]] = True
        return out
