"""Why a decision came out as it did: for the tenant without host names, for admins in full."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kilonova.placement import names
from kilonova.scheduler.columns import Bools
from kilonova.scheduler.filters import Asked, Filter, Numbers, capacity

TABLE_CAP = 200


@dataclass(frozen=True, slots=True)
class Dropped:
    """What one filter did: how many hosts it was asked about, how many it dropped, on what numbers, in whose words."""

    filter: str
    before: int
    after: int
    numbers: Numbers | None = None
    text: str = ""

    @property
    def count(self) -> int:
        """How many hosts it dropped."""
        return self.before - self.after


@dataclass(frozen=True)
class Nearest:
    """The host that missed by least. lacks: class -> (needed, free). filters: what else dropped it."""

    host: str
    lacks: dict[str, tuple[int, int]]
    filters: tuple[str, ...] = ()


@dataclass
class Explanation:
    """Kept with every decision. looked_at: hosts. table: host -> what dropped it (failed decisions, capped)."""

    looked_at: int
    dropped: list[Dropped] = field(default_factory=list)
    nearest: Nearest | None = None
    change: str = ""
    table: dict[str, str] = field(default_factory=dict)

    def tenant_text(self) -> str:
        """Say, without host names, why there was no host."""
        if self.looked_at == 0:
            return "No valid host was found. There are no hosts."
        hosts = "1 host was" if self.looked_at == 1 else f"{self.looked_at} hosts were"
        lost = sorted((d for d in self.dropped if d.count), key=lambda d: -d.count)
        parts = [f"{d.count} {d.text}" for d in lost]
        text = f"No valid host was found. {hosts} looked at: {', '.join(parts)}."
        return f"{text} {self.change}" if self.change else text

    def as_json(self, admin: bool = False) -> dict[str, Any]:
        """Return JSON values; host names and the table only for admins."""
        out: dict[str, Any] = {
            "hosts": self.looked_at,
            "filters": [_json(d) for d in self.dropped],
            "smallest_change": self.change or None,
        }
        if self.nearest is not None:
            lacks = {rc: {"needed": n, "free": f} for rc, (n, f) in self.nearest.lacks.items()}
            out["nearest"] = {"lacks": lacks, "filters": list(self.nearest.filters)}
            if admin:
                out["nearest"]["host"] = self.nearest.host
        if admin and self.table:
            out["table"] = self.table
        return out


def _json(d: Dropped) -> dict[str, Any]:
    out: dict[str, Any] = {"name": d.filter, "before": d.before, "after": d.after}
    if d.numbers is not None:
        out |= {"needed": d.numbers.needed, "most_free": d.numbers.free}
    return out


def dropped_by(f: Filter, asked: Asked, before: int, after: int, gone: Bools) -> Dropped:
    """Return the record of a filter that dropped the hosts in ``gone``."""
    numbers = None
    if f.name.startswith("Placement:") and (rc := f.name.partition(":")[2]) not in (
        "traits",
        "groups",
    ):
        numbers = Numbers(capacity.need_of(asked, rc), capacity.most_free(asked, rc, gone), rc)
    return Dropped(f.name, before, after, numbers, f.words(before - after, asked, numbers))


def explain_failure(found: Explanation, asked: Asked, filters: list[Filter]) -> None:
    """Fill in, for a decision without a host, the table, the nearest fit and the smallest change that would succeed."""
    view = asked.view
    n = view.roots.n
    hosts = view.is_host.data[:n]
    masks = []
    for f in filters:
        mask = f.mask(asked)
        masks.append(np.ones(n, np.bool_) if mask is None else mask.copy())
    failing = np.zeros(n, np.int32)
    for mask in masks:
        failing += ~mask
    rows = np.flatnonzero(hosts)
    if len(rows) == 0:
        return
    for row in rows[:TABLE_CAP]:
        first = next(
            (f.name for f, m in zip(filters, masks, strict=True) if not m[row]), "Placement:tree"
        )
        found.table[view.facts_of(row).host] = first
    found.nearest = _nearest(asked, filters, masks, rows, failing)
    found.change = _change(asked, filters, masks, hosts, failing, found.nearest)


def _lacks(asked: Asked, row: int) -> dict[str, tuple[int, int]]:
    out = {}
    only = np.zeros(asked.view.roots.n, np.bool_)
    only[row] = True
    for f in asked.request.groups:
        if f.suffix:
            continue
        for rc, need in f.resources.items():
            free = capacity.most_free(asked, rc, only)
            if free < need:
                out[rc] = (need, max(free, 0))
    return out


def _nearest(
    asked: Asked, filters: list[Filter], masks: list[Bools], rows: Any, failing: Any
) -> Nearest:
    least = failing[rows].min()
    best = rows[failing[rows] == least][:64]

    def missing(row: int) -> float:
        lacks = _lacks(asked, row)
        return sum((need - free) / need for need, free in lacks.values())

    row = min((int(r) for r in best), key=missing)
    others = tuple(
        f.name
        for f, m in zip(filters, masks, strict=True)
        if not m[row] and f.name.partition(":")[2] not in asked.request.amounts()
    )
    return Nearest(asked.view.facts_of(row).host, _lacks(asked, row), others)


def _change(
    asked: Asked,
    filters: list[Filter],
    masks: list[Bools],
    hosts: Bools,
    failing: Any,
    nearest: Nearest,
) -> str:
    """Say the smallest change that would succeed, as far as the tenant can make it; "" when there is none."""
    if nearest.lacks and not nearest.filters:
        parts = [
            f"at most {names.amount(rc, free)} {'of ' if rc in names.UNITS and names.UNITS[rc][1] else ''}"
            f"{names.called(rc)}"
            for rc, (_, free) in nearest.lacks.items()
        ]
        if all(free > 0 for _, free in nearest.lacks.values()):
            return f"A flavor with {' and '.join(parts)} would fit."
        return ""
    for f, mask in zip(filters, masks, strict=True):
        if f.change and bool((hosts & ~mask & (failing == 1)).any()):
            return f"It would fit {f.change}."
    return ""
