"""Decide: which host, which alternates in the same cell, and why. Touches nothing; a claim makes it so.

``select`` alone is a dry run. Time and randomness come in as arguments.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from kilonova.common.errors import Conflict
from kilonova.db.engine import Database
from kilonova.placement.candidates import Budget, Candidate, Node, Rules, solve
from kilonova.scheduler import reading, weighers
from kilonova.scheduler.columns import Floats
from kilonova.scheduler.explain import Dropped, Explanation, dropped_by, explain_failure
from kilonova.scheduler.filters import Asked, Filter, Local, Settings, chain
from kilonova.scheduler.request import Request
from kilonova.scheduler.view import CLASS_OF, INSTANCES, View

CHECKED_FIRST = 64
MOST_CHOICES = (
    500_000  # that a decision tries over all trees: about a second, and only for hopeless flavors
)
DEFAULTS = Settings()


class NoValidHost(Conflict):
    """No host can take the server; the message says why, the explanation says it in full."""

    code = "no_valid_host"

    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation.tenant_text(), table=explanation.table)
        self.explanation = explanation


@dataclass(frozen=True, slots=True)
class Selected:
    """One host. amounts: provider uuid -> class -> units, to claim. generations: of those providers, as decided on."""

    host: str
    node: str
    provider: str
    cell: str
    zone: str
    amounts: dict[str, dict[str, int]]
    generations: dict[str, int]
    weight: float = 0.0


@dataclass(frozen=True)
class Selection:
    """Where one server goes. alternates: where else it can go in the same cell, best first."""

    chosen: Selected
    alternates: tuple[Selected, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The answer to a request for ``num`` servers: as many selections as could be made, and why not more."""

    selections: tuple[Selection, ...]
    explanation: Explanation
    num: int = 1

    @property
    def complete(self) -> bool:
        """Whether every server has a host."""
        return len(self.selections) == self.num

    def require(self) -> "Decision":
        """Return the decision, or raise NoValidHost when a server has no host."""
        if not self.complete:
            raise NoValidHost(self.explanation)
        return self


def select(
    view: View,
    request: Request,
    num: int = 1,
    alternates: int = 2,
    *,
    settings: Settings = DEFAULTS,
    rng: random.Random | None = None,
) -> Decision:
    """Decide for ``num`` servers; nothing is claimed. See Decision; ``decision.require()`` raises NoValidHost.

    rng chooses among equals (and among the ``host_subset_size`` best); None: the first of them.
    """
    with view.lock:
        asked = Asked(view, request, settings, Local())
        if num > 1:
            _own_copies(asked)
        made: list[Selection] = []
        while True:
            explanation, filters, found = _decide(asked, alternates, rng)
            if not found:
                explain_failure(explanation, asked, filters)
                break
            made.append(Selection(found[0], tuple(found[1:])))
            if len(made) == num:
                break
            _take(asked, found[0])
        return Decision(tuple(made), explanation, num)


def select_fresh(
    view: View,
    db: Database,
    request: Request,
    num: int = 1,
    alternates: int = 2,
    *,
    now: float,
    settings: Settings = DEFAULTS,
    rng: random.Random | None = None,
) -> Decision:
    """``select``; before it says that there is no host, it decides once more on everything freshly read."""
    decision = select(view, request, num, alternates, settings=settings, rng=rng)
    if not decision.complete:
        reading.refresh(view, db, now, full=True)
        decision = select(view, request, num, alternates, settings=settings, rng=rng)
    return decision


def _decide(
    asked: Asked, alternates: int, rng: random.Random | None
) -> tuple[Explanation, list[Filter], list[Selected]]:
    view = asked.view
    n = view.roots.n
    left = view.is_host.data[:n]
    count = view.hosts
    explanation = Explanation(count)
    filters = chain(asked)
    for f in filters:
        if count == 0:
            break
        mask = f.mask(asked)
        before = count
        if mask is not None:
            kept = left & mask
            count = int(np.count_nonzero(kept))
            if count < before:
                explanation.dropped.append(dropped_by(f, asked, before, count, left & ~mask))
            else:
                explanation.dropped.append(Dropped(f.name, before, before))
            left = kept
        else:
            explanation.dropped.append(Dropped(f.name, before, before))
    if count == 0:
        return explanation, filters, []
    rows = None if count == n else np.flatnonzero(left)
    weights = weighers.weigh(asked, rows)
    found = _best(asked, rows, weights, alternates, rng, explanation, count)
    return explanation, filters, found


def _best(
    asked: Asked,
    rows: Any,
    weights: Floats,
    alternates: int,
    rng: random.Random | None,
    explanation: Explanation,
    count: int,
) -> list[Selected]:
    found: list[Selected] = []
    size = max(1, asked.settings.host_subset_size)
    simple = _simple(asked)
    tried, budget = 0, Budget(MOST_CHOICES)
    order = _by_weight(weights, size, rng)
    while (at := next(order, None)) is not None:
        row = int(at if rows is None else rows[at])
        amounts = _flat_amounts(asked, row) if simple else _tree_amounts(asked, row, budget)
        tried += 1
        if budget.spent:
            break
        if amounts is None:
            continue
        found.append(_selected(asked, row, amounts, float(weights[at])))
        if len(found) > alternates:
            break
        if len(found) == 1 and len(asked.view.cells.values) > 2:  # "" and one cell
            weights = _same_cell(asked, rows, weights, found[0].cell, at)
            order = _by_weight(weights, 1, None)
    if not found:
        many = "has" if tried == 1 else "have"
        cut = " (the search was cut short)" if budget.spent else ""
        text = f"{many} what is asked for, but not on resource providers that go together{cut}"
        explanation.dropped.append(Dropped("Placement:tree", count, 0, None, text))
    return found


def _by_weight(weights: Floats, size: int, rng: random.Random | None) -> Iterator[int]:
    """Yield indexes, best first; the first one by ``rng`` among the equals or the ``size`` best."""
    n = len(weights)
    if size > 1 and rng is not None:
        top = min(size, n)
        best = np.argpartition(weights, n - top)[n - top :]
        first = int(best[rng.randrange(top)])
    elif rng is not None:
        equal = np.flatnonzero(weights == weights.max())
        first = int(equal[rng.randrange(len(equal))])
    else:
        first = int(weights.argmax())
    if weights[first] == -np.inf:
        return
    yield first
    rest = weights.copy()
    rest[first] = -np.inf
    for _ in range(min(8, n - 1)):
        at = int(rest.argmax())
        if rest[at] == -np.inf:
            return
        yield at
        rest[at] = -np.inf
    width = CHECKED_FIRST
    while True:  # widen: 64, 256, … all that are left
        left = int(np.count_nonzero(rest > -np.inf))
        if left == 0:
            return
        take = min(width, left)
        part = np.argpartition(rest, n - take)[n - take :]
        for at in part[np.argsort(-rest[part], kind="stable")]:
            yield int(at)
        rest[part] = -np.inf
        width *= 4


def _same_cell(asked: Asked, rows: Any, weights: Floats, cell: str, chosen: int) -> Floats:
    """Return the weights with everything in other cells, and the one that is chosen, out of reach."""
    same = asked.view.cells.numbers(lambda c: 0.0 if c == cell else -np.inf, asked.view.roots.n)
    out: Floats = weights + (same if rows is None else same[rows])
    out[chosen] = -np.inf
    return out


def _simple(asked: Asked) -> bool:
    """Whether a host's root provider alone can only be the answer: one group, no nested or sharing providers at all."""
    r = asked.request
    return (
        len(r.groups) == 1
        and not r.groups[0].suffix
        and not asked.view.children.n
        and not asked.view.sharing()
    )


def _flat_amounts(asked: Asked, row: int) -> dict[str, dict[str, int]]:
    return {asked.view.roots.uuids[row]: dict(asked.request.groups[0].resources)}


def _tree_amounts(asked: Asked, row: int, budget: Budget) -> dict[str, dict[str, int]] | None:
    """Return what to take in one tree, or None when its providers do not go together."""
    nodes = [_less_taken(asked, node) for node in asked.view.tree(row)]
    r = asked.request
    rules = Rules(r.group_policy, r.same_subtree, apart=r.apart)
    first: Candidate | None = next(
        islice(solve(nodes, asked.request.groups, rules, budget), 1), None
    )
    return None if first is None else first.amounts


def _less_taken(asked: Asked, node: Node) -> Node:
    if not asked.local.taken:
        return node
    slots = {
        rc: s._replace(free=s.free - asked.local.taken.get((node.uuid, rc), 0))
        for rc, s in node.slots.items()
    }
    return node._replace(slots=slots)


def _selected(
    asked: Asked, row: int, amounts: dict[str, dict[str, int]], weight: float
) -> Selected:
    view = asked.view
    facts = view.facts_of(row)
    generations = {}
    for uuid in amounts:
        known = view.generation_known(uuid)
        if known is not None:
            generations[uuid] = known
    return Selected(
        facts.host,
        facts.node or facts.host,
        facts.uuid,
        facts.cell,
        view.zone_of(view.host_aggregates.get(row)),
        amounts,
        generations,
        weight,
    )


def _own_copies(asked: Asked) -> None:
    """Give a decision over several servers numbers of its own to change."""
    view, n = asked.view, asked.view.roots.n
    for rc in asked.request.amounts():
        column = view.roots.classes.get(rc)
        if column is not None:
            asked.local.free[rc] = column.free.data[:n].copy()
    asked.local.weighed = view.weighed[:, :n].copy()
    group = asked.request.server_group
    if group is not None:
        asked.local.members = dict(group.hosts)


def _take(asked: Asked, chosen: Selected) -> None:
    """Count a server that this decision has placed."""
    view, local = asked.view, asked.local
    for uuid, amounts in chosen.amounts.items():
        is_root, row = view.row_of[uuid]
        for rc, n in amounts.items():
            local.taken[uuid, rc] = local.taken.get((uuid, rc), 0) + n
            if is_root:
                local.free[rc][row] -= n
                if rc in CLASS_OF:
                    local.weighed[CLASS_OF[rc], row] -= n
    row = view.row_of_host[chosen.host]
    local.weighed[INSTANCES, row] += 1
    if local.members is not None:
        local.members[chosen.host] = local.members.get(chosen.host, 0) + 1


__all__ = [
    "Decision",
    "NoValidHost",
    "Selected",
    "Selection",
    "Settings",
    "select",
    "select_fresh",
]
