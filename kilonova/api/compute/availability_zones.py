"""Availability zones: those that hosts are in; a zone is available while one of its hosts is enabled."""

from typing import Any

from kilonova.api.compute.answers import aggregates as a
from kilonova.api.compute.rules import ADMIN, ANY
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.clock import iso_micro
from kilonova.http.request import Request
from kilonova.operations.hosts_elsewhere import HostState
from kilonova.operations.services import Services


def _zones(services: Services) -> list[tuple[str, list[HostState]]]:
    """Return each zone with its hosts; available ones first."""
    found: dict[str, list[HostState]] = {}
    for state in services.hosts.all():
        found.setdefault(services.scheduling.zone_of(state.host), []).append(state)
    return sorted(found.items(), key=lambda z: (not _available(z[1]), z[0]))


def _available(hosts: list[HostState]) -> bool:
    return any(not h.disabled for h in hosts)


def index(req: Request) -> Any:
    """List availability zones."""
    return {
        "availabilityZoneInfo": [
            {"zoneName": name, "zoneState": {"available": _available(hosts)}, "hosts": None}
            for name, hosts in _zones(req.cloud)
        ]
    }


def detail(req: Request) -> Any:
    """List availability zones with their hosts."""
    services: Services = req.cloud
    out = []
    for name, hosts in _zones(services):
        up = _available(hosts)
        shown = {
            h.host: {
                "nova-compute": {
                    "available": services.hosts.is_up(h.host),
                    "active": True,
                    "updated_at": iso_micro(h.seen_at),
                }
            }
            for h in hosts
            if not h.disabled
        }
        out.append(
            {"zoneName": name, "zoneState": {"available": up}, "hosts": shown if up else None}
        )
    return {"availabilityZoneInfo": out}


_RULE = R + "os-availability-zone:"
ROUTES = [
    *versioned(
        "GET", "/os-availability-zone", index, _RULE + "list", queries=NO_QUERY, answer=a.ZONES
    ),
    *versioned(
        "GET",
        "/os-availability-zone/detail",
        detail,
        _RULE + "detail",
        queries=NO_QUERY,
        answer=a.ZONES_DETAIL,
    ),
]
RULES = {_RULE + "list": ANY, _RULE + "detail": ADMIN}
