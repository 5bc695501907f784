"""Filters on a host's service, place and name: ComputeFilter, AvailabilityZoneFilter, requested hosts, cell."""

import ipaddress

import numpy as np

from kilonova.scheduler.columns import Bools
from kilonova.scheduler.filters.base import Asked, Filter, always, told


def _compute(asked: Asked) -> Bools:
    mask: Bools = asked.view.usable.data[: asked.view.roots.n]
    return mask


def _zone(asked: Asked) -> Bools | None:
    view, wanted = asked.view, asked.request.availability_zone
    return view.host_aggregates.where(lambda s: view.zone_of(s) == wanted, view.roots.n)


def _cell(asked: Asked) -> Bools | None:
    wanted = asked.request.cell
    return asked.view.cells.where(lambda c: c == wanted, asked.view.roots.n)


def only(asked: Asked, rows: list[int], stay: bool = True) -> Bools:
    """Return a mask in which just ``rows`` stay (or, with stay=False, just they go)."""
    mask = np.full(asked.view.roots.n, not stay, np.bool_)
    mask[rows] = stay
    return mask


def _requested(asked: Asked) -> Bools:
    r = asked.request
    hosts = asked.rows_of(frozenset({r.only_host})) if r.only_host else None
    if r.only_node:
        rows = hosts if hosts is not None else asked.view.row_of_host.values()
        hosts = [
            i
            for i in rows
            if (f := asked.view.facts_of(i)).node == r.only_node or f.host == r.only_node
        ]
    return only(asked, hosts or [])


def _ignored(asked: Asked) -> Bools:
    return only(asked, asked.rows_of(asked.request.ignore_hosts), stay=False)


def _same(asked: Asked) -> Bools:
    return only(asked, asked.rows_of(asked.request.same_host or frozenset()))


def _different(asked: Asked) -> Bools:
    return only(asked, asked.rows_of(asked.request.different_host or frozenset()), stay=False)


def _near(asked: Asked) -> Bools | None:
    network = asked.request.near
    if network is None:
        return None
    rows = []
    for row in asked.view.row_of_host.values():
        try:
            near = ipaddress.ip_address(asked.view.facts_of(row).host_ip) in network
        except ValueError:
            near = False
        if near:
            rows.append(row)
    return only(asked, rows)


def _isolated(asked: Asked) -> Bools | None:
    s = asked.settings
    isolated = asked.rows_of(s.isolated_hosts)
    if asked.request.image_id in s.isolated_images:
        return only(asked, isolated)
    return (
        only(asked, isolated, stay=False) if s.restrict_isolated_hosts_to_isolated_images else None
    )


FILTERS = (
    Filter(
        "ComputeFilter",
        always,
        _compute,
        told("is disabled or down", "are disabled or down"),
        also_forced=True,
    ),
    Filter(
        "RequestedHost",
        lambda a: bool(a.request.only_host or a.request.only_node),
        _requested,
        told("is not the one that was asked for", "are not the one that was asked for"),
        also_forced=True,
        change="without naming a host",
    ),
    Filter(
        "IgnoredHosts",
        lambda a: bool(a.request.ignore_hosts),
        _ignored,
        told("was tried before", "were tried before"),
    ),
    Filter(
        "CellFilter",
        lambda a: a.request.cell is not None,
        _cell,
        told("is in another cell", "are in another cell"),
        also_forced=True,
    ),
    Filter(
        "AvailabilityZoneFilter",
        lambda a: bool(a.request.availability_zone),
        _zone,
        told("is in another availability zone", "are in another availability zone"),
        change="in another availability zone",
    ),
    Filter(
        "SameHostFilter",
        lambda a: a.request.same_host is not None,
        _same,
        told("does not run a server named by same_host", "do not run a server named by same_host"),
        change="without the hint same_host",
    ),
    Filter(
        "DifferentHostFilter",
        lambda a: bool(a.request.different_host),
        _different,
        told("runs a server named by different_host", "run a server named by different_host"),
        change="without the hint different_host",
    ),
    Filter(
        "SimpleCIDRAffinityFilter",
        lambda a: a.request.near is not None,
        _near,
        told("is in another network than asked for", "are in another network than asked for"),
        change="without the hint build_near_host_ip",
    ),
    Filter(
        "IsolatedHostsFilter",
        lambda a: bool(a.settings.isolated_hosts or a.settings.isolated_images),
        _isolated,
        told("is kept for other images", "are kept for other images"),
    ),
)
