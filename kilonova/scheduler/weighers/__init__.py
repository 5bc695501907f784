"""Weighers: which of the hosts that pass is best. Names, defaults and meaning are Nova's.

Each is scaled so that the least of the candidates is 0 and the greatest 1, times its multiplier, which an aggregate's
metadata (``ram_weight_multiplier`` …) overrides for its hosts (the smallest counts).
Not there: MetricsWeigher, PCIWeigher and ImagePropertiesWeigher (0 by default).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kilonova.scheduler.columns import Floats
from kilonova.scheduler.filters.base import Asked
from kilonova.scheduler.view import BUILD_FAILURES, HYPERVISOR_VERSION, INSTANCES, IO_OPS, WEIGHED


@dataclass(frozen=True)
class Weigher:
    """One weigher over a column of the view. key: what aggregates override it by. default: its multiplier.

    sign: -1 when less is better and the multiplier is positive (failed builds, as in Nova).
    """

    name: str
    key: str
    default: float
    column: int
    sign: float = 1.0


COLUMNS = (
    Weigher("RAMWeigher", "ram_weight_multiplier", 1.0, WEIGHED.index("ram")),
    Weigher("CPUWeigher", "cpu_weight_multiplier", 1.0, WEIGHED.index("cpu")),
    Weigher("DiskWeigher", "disk_weight_multiplier", 1.0, WEIGHED.index("disk")),
    Weigher("IoOpsWeigher", "io_ops_weight_multiplier", -1.0, IO_OPS),
    Weigher("NumInstancesWeigher", "num_instances_weight_multiplier", 0.0, INSTANCES),
    Weigher(
        "BuildFailureWeigher", "build_failure_weight_multiplier", 1_000_000.0, BUILD_FAILURES, -1.0
    ),
    Weigher(
        "HypervisorVersionWeigher", "hypervisor_version_weight_multiplier", 1.0, HYPERVISOR_VERSION
    ),
)
SOFT_AFFINITY = "ServerGroupSoftAffinityWeigher"
SOFT_ANTI_AFFINITY = "ServerGroupSoftAntiAffinityWeigher"
CROSS_CELL = "CrossCellWeigher"
_SOFT_KEYS = {
    SOFT_AFFINITY: "soft_affinity_weight_multiplier",
    SOFT_ANTI_AFFINITY: "soft_anti_affinity_weight_multiplier",
}
CROSS_CELL_DEFAULT = 1_000_000.0


def weigh(asked: Asked, rows: Any) -> Floats:
    """Return a weight for each of ``rows`` (None: for all root rows); more is better."""
    view = asked.view
    table = view.weighed if asked.local.weighed is None else asked.local.weighed
    values = (
        table[:, : view.roots.n] if rows is None else table[:, : view.roots.n].take(rows, axis=1)
    )
    low, high = values.min(axis=1), values.max(axis=1)
    span = high - low
    varied: list[tuple[Weigher, float]] = []
    used: list[int] = []
    scales: list[float] = []
    for w in COLUMNS:
        s = float(span[w.column])
        if s <= 0:
            continue
        if view.multiplier_keys and w.key in view.multiplier_keys:
            varied.append((w, s))
        elif multiplier := asked.settings.multipliers.get(w.name, w.default):
            used.append(w.column)
            scales.append(w.sign * multiplier / s)
    total: Floats = np.zeros(values.shape[1], np.float32)
    for column, scale in zip(used, scales, strict=True):
        mine = (
            values[column] - low[column]
        )  # first: large numbers that differ little keep their difference
        mine *= np.float32(scale)
        total += mine
    for w, s in varied:
        each = _multipliers(asked, w.key, asked.settings.multipliers.get(w.name, w.default), rows)
        total = total + each * ((values[w.column] - low[w.column]) * np.float32(w.sign / s))
    return _extra(asked, rows, total)


def _extra(asked: Asked, rows: Any, total: Floats) -> Floats:
    """Add what only some requests need: soft group policies and the wish for a cell."""
    group = asked.request.server_group
    if group is not None and group.policy in ("soft-affinity", "soft-anti-affinity"):
        members = asked.group_members()
        if members:
            count = np.zeros(asked.view.roots.n, np.float32)
            for host, n in members.items():
                row = asked.view.row_of_host.get(host)
                if row is not None:
                    count[row] = n
            name = SOFT_AFFINITY if group.policy == "soft-affinity" else SOFT_ANTI_AFFINITY
            mine = count if rows is None else count[rows]
            mine = mine if name == SOFT_AFFINITY else -mine
            total = total + _scaled(asked, mine, name, _SOFT_KEYS[name], 1.0, rows)
    wish = asked.request.prefer_cell
    if wish is not None:
        same = asked.view.cells.numbers(lambda c: float(c == wish), asked.view.roots.n)
        mine = same if rows is None else same[rows]
        key = "cross_cell_move_weight_multiplier"
        total = total + _scaled(asked, mine, CROSS_CELL, key, CROSS_CELL_DEFAULT, rows)
    return total


def _scaled(asked: Asked, values: Floats, name: str, key: str, default: float, rows: Any) -> Floats:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(len(values), np.float32)
    multiplier = asked.settings.multipliers.get(name, default)
    scaled: Floats = (values - np.float32(low)) / np.float32(high - low)
    if key in asked.view.multiplier_keys:
        out: Floats = scaled * _multipliers(asked, key, multiplier, rows)
        return out
    return scaled * np.float32(multiplier)


def _multipliers(asked: Asked, key: str, default: float, rows: Any) -> Floats:
    """Return the multiplier of each host: the smallest number that its aggregates give, else the default."""
    view = asked.view

    def of(aggregates: frozenset[int]) -> float:
        given = [
            n for v in view.metadata_of(aggregates).get(key, ()) if (n := number(v)) is not None
        ]
        return min(given) if given else default

    each = view.host_aggregates.numbers(of, view.roots.n)
    return each if rows is None else each[rows]


def number(text: str) -> float | None:
    """Return a number, or None for a text that is none."""
    try:
        return float(text)
    except ValueError:
        return None


def names() -> list[str]:
    """Return the names of all weighers."""
    return [w.name for w in COLUMNS] + [SOFT_AFFINITY, SOFT_ANTI_AFFINITY, CROSS_CELL]
