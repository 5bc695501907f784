"""What placement decides: room per resource class, traits, granular groups; and limits on servers and I/O per host."""

import functools

import numpy as np

from kilonova.placement import names
from kilonova.placement.candidates import Group
from kilonova.scheduler.columns import Bools, Segment
from kilonova.scheduler.filters.base import Asked, Filter, Numbers, always, told
from kilonova.scheduler.view import INSTANCES, IO_OPS, View


@functools.cache
def room(resource_class: str) -> Filter:
    """Return the filter on one class of the group without suffix."""
    return Filter(
        f"Placement:{resource_class}",
        always,
        lambda asked: _room(asked, resource_class),
        _room_words,
        also_forced=True,
    )


def need_of(asked: Asked, resource_class: str) -> int:
    """Return what the group without suffix needs of a class."""
    return next(
        (g.resources.get(resource_class, 0) for g in asked.request.groups if not g.suffix), 0
    )


def _room(asked: Asked, resource_class: str) -> Bools:
    view, need = asked.view, need_of(asked, resource_class)
    column = view.roots.classes.get(resource_class)
    n = view.roots.n
    if column is None:
        mask: Bools = np.zeros(n, np.bool_)
    else:
        mask = column.fits(need, n, asked.local.free.get(resource_class))
    below = view.children.classes.get(resource_class)
    if below is not None and view.children.n:
        mask |= view.any_below(below.fits(need, view.children.n))
    for is_root, row in view.sharing():
        segment = view.roots if is_root else view.children
        shared = segment.classes.get(resource_class)
        if shared is not None and shared.free.data[row] >= need:
            _shared(view, segment, row, mask)
    return mask


def _shared(view: View, segment: Segment, row: int, mask: Bools) -> None:
    """Let every tree stay that a sharing provider shares with."""
    with_ = segment.aggregates.get(row)
    reached = view.roots.aggregates.where(lambda s: bool(s & with_), view.roots.n)
    mask |= True if reached is None else reached
    if view.children.n:
        below = view.children.aggregates.where(lambda s: bool(s & with_), view.children.n)
        mask |= view.any_below(np.ones(view.children.n, np.bool_) if below is None else below)


def most_free(asked: Asked, resource_class: str, dropped: Bools) -> int:
    """Return the most that one of the dropped hosts has free in one provider."""
    view, most = asked.view, 0
    column = view.roots.classes.get(resource_class)
    if column is not None:
        free = asked.local.free.get(resource_class)
        free = column.free.data[: view.roots.n] if free is None else free
        most = int(np.max(free, where=dropped, initial=0))
    below = view.children.classes.get(resource_class)
    if below is not None and view.children.n:
        roots = view.children.root.data[: view.children.n]
        of_dropped = dropped[roots] & (roots >= 0)
        most = max(
            most, int(np.max(below.free.data[: view.children.n], where=of_dropped, initial=0))
        )
    return most


def _room_words(n: int, asked: Asked, numbers: Numbers | None) -> str:
    if numbers is None:
        return "cannot give what is asked for"
    have = "has" if n == 1 else "have"
    rc = numbers.resource_class
    short = "few" if rc in (names.VCPU, names.PCPU) else "little"
    amount = functools.partial(names.amount, rc)
    if numbers.free >= numbers.needed:
        return f"{have} no {names.called(rc)} in such an amount ({amount(numbers.needed)} needed)"
    return (
        f"{have} too {short} {names.called(rc)} "
        f"({amount(numbers.needed)} needed, at most {amount(numbers.free)} free)"
    )


def _traits(asked: Asked) -> Bools | None:
    """Drop trees that lack a required trait altogether, or whose root alone would have to give and is forbidden."""
    group = next((g for g in asked.request.groups if not g.suffix), None)
    if group is None:
        return None
    view, mask = asked.view, np.ones(asked.view.roots.n, np.bool_)
    for any_of in group.required:
        mask &= _anywhere(view, any_of)
    if group.forbidden and not view.children.n and not view.sharing():
        found = view.roots.traits.where(lambda t: not group.forbidden & t, view.roots.n)
        if found is not None:
            mask &= found
    return mask


def _anywhere(view: View, any_of: frozenset[str]) -> Bools:
    found = view.roots.traits.where(lambda t: bool(t & any_of), view.roots.n)
    mask = np.ones(view.roots.n, np.bool_) if found is None else found
    if view.children.n:
        below = view.children.traits.where(lambda t: bool(t & any_of), view.children.n)
        mask |= view.any_below(np.ones(view.children.n, np.bool_) if below is None else below)
    for is_root, row in view.sharing():
        segment = view.roots if is_root else view.children
        if segment.traits.get(row) & any_of:
            _shared(view, segment, row, mask)
    return mask


def _granular(asked: Asked) -> Bools | None:
    """Drop trees that have no provider for some group with a suffix, or too few for an isolating policy."""
    view, request = asked.view, asked.request
    mask = np.ones(view.roots.n, np.bool_)
    groups = [g for g in request.groups if g.suffix]
    some_root, some_child = np.zeros(view.roots.n, np.bool_), np.zeros(view.children.n, np.bool_)
    for g in groups:
        root, child = _gives_all(view.roots, g), _gives_all(view.children, g)
        some_root |= root
        some_child |= child
        found = root | view.any_below(child) if view.children.n else root
        for is_root, row in view.sharing():
            if (root if is_root else child)[row]:
                _shared(view, view.roots if is_root else view.children, row, found)
        mask &= found
    giving = [g for g in groups if g.resources]
    if request.group_policy == "isolate" and len(giving) > 1 and not view.sharing():
        rows = view.children.root.data[: view.children.n][some_child]
        count = np.bincount(rows[rows >= 0], minlength=view.roots.n) + some_root
        mask &= count >= len(giving)
    return mask


def _gives_all(segment: Segment, g: Group) -> Bools:
    mask: Bools = segment.present.data[: segment.n].copy()
    for rc, n in g.resources.items():
        column = segment.classes.get(rc)
        mask &= column.fits(n, segment.n) if column is not None else False
    found = segment.traits.where(g.traits_fit, segment.n)
    if found is not None:
        mask &= found
    if g.member_of or g.not_member_of:
        inside = segment.aggregates.where(g.aggregates_fit, segment.n)
        if inside is not None:
            mask &= inside
    return mask


def _limit(asked: Asked, key: str, default: int | None, which: int) -> Bools | None:
    """Compare with a limit of the settings that an aggregate's metadata may override; the lowest counts, as in Nova."""
    view = asked.view
    n = view.roots.n
    count = asked.weighed(which)
    if not any(key in a.metadata for a in view.aggregates.values()):
        mask: Bools = count < default
        return mask
    highest = float("inf") if default is None else default

    def limit(aggregates: frozenset[int]) -> float:
        given = [float(v) for v in view.metadata_of(aggregates).get(key, ()) if v.isdigit()]
        return min(given) if given else highest

    out: Bools = count < view.host_aggregates.numbers(limit, n)
    return out


def _has(key: str, asked: Asked) -> bool:
    return any(key in a.metadata for a in asked.view.aggregates.values())


TRAITS = Filter(
    "Placement:traits",
    lambda a: any(not g.suffix and (g.required or g.forbidden) for g in a.request.groups),
    _traits,
    told(
        "lacks a required trait or has a forbidden one",
        "lack a required trait or have a forbidden one",
    ),
    also_forced=True,
)
GRANULAR = Filter(
    "Placement:groups",
    lambda a: any(g.suffix for g in a.request.groups),
    _granular,
    told(
        "cannot give one of the resource groups that the flavor asks for",
        "cannot give one of the resource groups that the flavor asks for",
    ),
    also_forced=True,
)
LIMITS = (
    Filter(
        "NumInstancesFilter",
        lambda a: (
            a.settings.max_instances_per_host is not None or _has("max_instances_per_host", a)
        ),
        lambda a: _limit(a, "max_instances_per_host", a.settings.max_instances_per_host, INSTANCES),
        told("runs as many servers as allowed", "run as many servers as allowed"),
    ),
    Filter(
        "IoOpsFilter",
        lambda a: a.settings.max_io_ops_per_host is not None or _has("max_io_ops_per_host", a),
        lambda a: _limit(a, "max_io_ops_per_host", a.settings.max_io_ops_per_host, IO_OPS),
        told("is busy building other servers", "are busy building other servers"),
    ),
)
