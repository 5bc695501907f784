"""Allocation candidates: which providers of a tree could give what is asked. One engine for the scheduler and the API.

A tree is a root, everything below it, and the providers that share with one of them through an aggregate.

source: Placement, "Allocation candidates": the group without suffix may be spread over the tree, its required traits
over the providers that give something; a group with a suffix comes from one provider that has all its traits and
aggregates; an aggregate of the root counts for the whole tree in the group without suffix only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Slot(NamedTuple):
    """What one provider has of one class."""

    free: int
    min_unit: int
    max_unit: int
    step_size: int
    capacity: int
    used: int

    def gives(self, n: int) -> bool:
        """Tell whether ``n`` can be had."""
        return n <= self.free and self.min_unit <= n <= self.max_unit and n % self.step_size == 0


class Node(NamedTuple):
    """One provider of a tree. sharing: it belongs to another tree and shares with this one."""

    uuid: str
    root: str
    parent: str | None
    slots: Mapping[str, Slot]
    traits: frozenset[str]
    aggregates: frozenset[str]
    sharing: bool = False


@dataclass(frozen=True)
class Group:
    """What is asked together. required: each set is "any of these"; member_of likewise."""

    suffix: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    required: tuple[frozenset[str], ...] = ()
    forbidden: frozenset[str] = frozenset()
    member_of: tuple[frozenset[str], ...] = ()
    not_member_of: frozenset[str] = frozenset()
    in_tree: str | None = None

    def traits_fit(self, traits: frozenset[str]) -> bool:
        """Tell whether a provider with these traits satisfies the group alone."""
        return all(any_of & traits for any_of in self.required) and not self.forbidden & traits

    def aggregates_fit(self, aggregates: frozenset[str]) -> bool:
        """Tell whether a member of these aggregates satisfies the group."""
        return (
            all(any_of & aggregates for any_of in self.member_of)
            and not self.not_member_of & aggregates
        )


@dataclass(frozen=True)
class Rules:
    """What holds over the groups. root_required, root_forbidden: traits of the tree's root.

    apart: suffixes of groups that come from different providers, whatever the policy says of the others.
    """

    group_policy: str | None = None
    same_subtree: tuple[frozenset[str], ...] = ()
    root_required: frozenset[str] = frozenset()
    root_forbidden: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """One answer. amounts: provider uuid -> class -> units. mappings: suffix -> uuids of the group's providers."""

    root: str
    amounts: dict[str, dict[str, int]]
    mappings: dict[str, tuple[str, ...]]


@dataclass
class Budget:
    """How many choices a search may still try. Groups over many providers can combine without end; this ends them."""

    left: int

    @property
    def spent(self) -> bool:
        """Whether the search was cut short: what was not found may still be there."""
        return self.left <= 0


class _Need(NamedTuple):
    suffix: str
    resources: Mapping[str, int]
    options: list[Node]


def solve(
    nodes: Sequence[Node],
    groups: Sequence[Group],
    rules: Rules | None = None,
    budget: Budget | None = None,
) -> Iterator[Candidate]:
    """Yield every candidate of one tree, as far as the budget goes. nodes: the root first, then the others."""
    rules = rules or Rules()
    root = nodes[0]
    if rules.root_required - root.traits or rules.root_forbidden & root.traits:
        return
    tree_ids = {n.uuid for n in nodes if not n.sharing}
    needs: list[_Need] = []
    for g in groups:
        own = _needs(g, nodes, root, tree_ids)
        if own is None:
            return
        needs += own
    needs.sort(key=lambda n: len(n.options))
    by_suffix = {g.suffix: g for g in groups}
    by_uuid = {n.uuid: n for n in nodes}
    search = _Search(needs, by_suffix, rules, by_uuid, budget or Budget(1_000_000))
    for chosen in search.run(0):
        yield _candidate(root.uuid, chosen)


def _needs(g: Group, nodes: Sequence[Node], root: Node, tree_ids: set[str]) -> list[_Need] | None:
    """Return what one group needs with its options; None when something has no option."""
    members = [n for n in nodes if _member(g, n, root, tree_ids)]
    if not g.suffix:
        out = [
            _Need(
                "", {rc: n}, [m for m in members if _gives(m, rc, n) and not g.forbidden & m.traits]
            )
            for rc, n in g.resources.items()
        ]
        return out if all(need.options for need in out) else None
    options = [
        m
        for m in members
        if g.traits_fit(m.traits) and all(_gives(m, rc, n) for rc, n in g.resources.items())
    ]
    if not g.resources:
        options = [m for m in options if not m.sharing]
    return [_Need(g.suffix, g.resources, options)] if options else None


def _gives(node: Node, resource_class: str, n: int) -> bool:
    slot = node.slots.get(resource_class)
    return slot is not None and slot.gives(n)


def _member(g: Group, node: Node, root: Node, tree_ids: set[str]) -> bool:
    if g.in_tree is not None and (node.sharing or g.in_tree not in tree_ids):
        return False
    if not g.member_of and not g.not_member_of:
        return True
    spans = not g.suffix and not node.sharing
    return g.aggregates_fit(node.aggregates | root.aggregates if spans else node.aggregates)


class _Search:
    """Depth-first over the needs; what is taken so far counts against each provider."""

    def __init__(
        self,
        needs: list[_Need],
        groups: Mapping[str, Group],
        rules: Rules,
        nodes: Mapping[str, Node],
        budget: Budget,
    ) -> None:
        self.needs, self.groups, self.rules, self.nodes = needs, groups, rules, nodes
        self.budget = budget
        self.taken: dict[tuple[str, str], int] = {}
        self.chosen: list[tuple[_Need, Node]] = []

    def run(self, at: int) -> Iterator[list[tuple[_Need, Node]]]:
        """Yield each complete choice."""
        if at == len(self.needs):
            if self._fits():
                yield list(self.chosen)
            return
        need = self.needs[at]
        for node in need.options:
            self.budget.left -= 1
            if self.budget.left < 0:
                return
            if not self._allowed(need, node):
                continue
            for rc, n in need.resources.items():
                self.taken[node.uuid, rc] = self.taken.get((node.uuid, rc), 0) + n
            self.chosen.append((need, node))
            yield from self.run(at + 1)
            self.chosen.pop()
            for rc, n in need.resources.items():
                self.taken[node.uuid, rc] -= n

    def _allowed(self, need: _Need, node: Node) -> bool:
        if self.rules.group_policy == "isolate" and need.suffix and need.resources:
            for other, taken in self.chosen:
                if other.suffix and other.resources and taken.uuid == node.uuid:
                    return False
        if need.suffix in self.rules.apart and any(
            other.suffix in self.rules.apart and taken.uuid == node.uuid
            for other, taken in self.chosen
        ):
            return False
        return all(
            (s := node.slots[rc]).gives(n)
            and self.taken.get((node.uuid, rc), 0) + n <= min(s.free, s.max_unit)
            for rc, n in need.resources.items()
        )

    def _fits(self) -> bool:
        spread = self.groups.get("")
        if spread is not None and spread.required:
            have: set[str] = set()
            for need, node in self.chosen:
                if not need.suffix:
                    have |= node.traits
            if not all(any_of & have for any_of in spread.required):
                return False
        return all(self._one_subtree(s) for s in self.rules.same_subtree)

    def _one_subtree(self, suffixes: frozenset[str]) -> bool:
        involved = {n.uuid for need, n in self.chosen if need.suffix in suffixes}
        return any(all(self._above(top, u) for u in involved) for top in involved)

    def _above(self, top: str, uuid: str) -> bool:
        at: str | None = uuid
        while at is not None:
            if at == top:
                return True
            node = self.nodes.get(at)
            at = None if node is None else node.parent
        return False


def _candidate(root: str, chosen: list[tuple[_Need, Node]]) -> Candidate:
    amounts: dict[str, dict[str, int]] = {}
    mappings: dict[str, list[str]] = {}
    for need, node in chosen:
        mapped = mappings.setdefault(need.suffix, [])
        if node.uuid not in mapped:
            mapped.append(node.uuid)
        for rc, n in need.resources.items():
            mine = amounts.setdefault(node.uuid, {})
            mine[rc] = mine.get(rc, 0) + n
    return Candidate(root, amounts, {s: tuple(sorted(u)) for s, u in sorted(mappings.items())})
