"""Hypervisors, for admins: one per host. Numbers as ids until 2.52, uuids from 2.53; usage until 2.87."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.api.compute.answers import hosts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas.aggregates import HOSTNAME
from kilonova.api.compute.shared import (
    BOOL_TEXT,
    COUNT,
    PAGING,
    TEXT,
    R,
    next_link,
    one,
    page,
    query,
    versioned,
)
from kilonova.api.compute.views.server import instance_name
from kilonova.common.errors import BadRequest, NotFound, NotImplementedHere
from kilonova.common.ids import is_uuid
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import compute_hosts
from kilonova.operations.ask import HostSilent
from kilonova.operations.compute_hosts import ComputeHost, Usage
from kilonova.operations.services import Services

UPTIMES_BUDGET_S = 5.0
_TRUE = ("true", "t", "1", "on", "yes", "y")


class _View:
    """Shapes hosts for one request."""

    def __init__(self, req: Request, *, detail: bool, servers: bool = False) -> None:
        self.req, self.services = req, req.cloud
        self.whole, self.servers = detail, servers
        self.v28, self.v53, self.v75, self.v88 = (req.version >= V(2, n) for n in (28, 53, 75, 88))
        usage = detail and not self.v88
        self.usage = compute_hosts.usage(self.services) if usage else {}
        self.patience = time.monotonic() + UPTIMES_BUDGET_S

    def shape(self, h: ComputeHost) -> dict[str, Any]:
        """Return one hypervisor."""
        services: Services = self.services
        out: dict[str, Any] = {
            "id": h.uuid if self.v53 else h.number,
            "hypervisor_hostname": h.host,
            "state": "up" if services.hosts.is_up(h.host) else "down",
            "status": "disabled" if h.state.disabled else "enabled",
        }
        if self.whole:
            self._detail(out, h)
        if self.servers:
            found = [
                {"name": instance_name(u), "uuid": u}
                for u in compute_hosts.servers_on(services, h.host)
            ]
            if found or self.v75:
                out["servers"] = found
        return out

    def _detail(self, out: dict[str, Any], h: ComputeHost) -> None:
        inventory = h.state.inventory
        out["hypervisor_type"] = inventory.hypervisor_type
        out["hypervisor_version"] = inventory.hypervisor_version
        out["host_ip"] = inventory.host_ip
        out["service"] = {
            "id": out["id"],
            "host": h.host,
            "disabled_reason": h.state.disabled_reason,
        }
        if self.v88:
            out["uptime"] = self._uptime(h)
            return
        out |= amounts(h, self.usage.get(h.host, Usage()))
        cpu = dict(inventory.cpu_info)
        out["cpu_info"] = cpu if self.v28 else msgspec.json.encode(cpu).decode()

    def _uptime(self, h: ComputeHost) -> str | None:
        """A host that is silent, and every host once this list has waited long enough, has null."""
        if time.monotonic() > self.patience:
            return None
        try:
            return uptime_text(compute_hosts.uptime_s(self.services, h.host))
        except HostSilent:
            return None


def amounts(h: ComputeHost, used: Usage) -> dict[str, int]:
    """Return what a host has, what of it is used and what is free, by the API's names."""
    has = h.state.inventory
    memory_used = used.memory_mib + has.reserved_memory_mib
    free_disk = has.disk_gib - used.disk_gib
    return {
        "vcpus": has.vcpus,
        "memory_mb": has.memory_mib,
        "local_gb": has.disk_gib,
        "vcpus_used": used.vcpus,
        "memory_mb_used": memory_used,
        "local_gb_used": used.disk_gib,
        "free_ram_mb": has.memory_mib - memory_used,
        "free_disk_gb": free_disk,
        "current_workload": used.busy,
        "running_vms": used.servers,
        "disk_available_least": free_disk if has.disk_free_gib is None else has.disk_free_gib,
    }


def uptime_text(seconds: float | None) -> str | None:
    """Return for how long a host runs, as ``uptime`` begins; None for a simulated host."""
    if seconds is None:
        return None
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    clock = time.strftime("%H:%M:%S", time.gmtime())
    return f" {clock} up {days} days, {hours:2}:{minutes % 60:02}"


def index(req: Request) -> Any:
    """List hypervisors."""
    return _list(req, detail=False)


def detail(req: Request) -> Any:
    """List hypervisors with all their fields."""
    return _list(req, detail=True)


def _list(req: Request, *, detail: bool) -> Any:
    found: Sequence[ComputeHost] = compute_hosts.list_all(req.cloud)
    v53 = req.version >= V(2, 53)
    if not v53:  # the number of a host whose cell does not answer is not known
        found = [h for h in found if h.number is not None]
    pattern = req.query.get("hypervisor_hostname_pattern") if v53 else None
    servers = v53 and (req.query.get("with_servers") or "").lower() in _TRUE
    more = False
    if pattern is not None:
        if "limit" in req.query or "marker" in req.query:
            raise BadRequest(
                "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is "
                "not supported."
            )
        found = _matching(found, pattern)
    elif req.version >= V(2, 33):
        found, more = page(req, found, lambda h: h.uuid if v53 else str(h.number))
    view = _View(req, detail=detail, servers=servers)
    out: dict[str, Any] = {"hypervisors": [view.shape(h) for h in found]}
    if more:
        last = found[-1]
        path = "/os-hypervisors/detail" if detail else "/os-hypervisors"
        out["hypervisors_links"] = next_link(req, path, last.uuid if v53 else str(last.number))
    return out


def _matching(found: Sequence[ComputeHost], pattern: str) -> list[ComputeHost]:
    hits = [h for h in found if pattern.lower() in h.host.lower()]
    if not hits:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return hits


def _get(req: Request) -> ComputeHost:
    text, services = req.params["hypervisor_id"], req.cloud
    if req.version >= V(2, 53):
        if not is_uuid(text):
            raise BadRequest(f"Invalid uuid {text}")
        found = compute_hosts.by_uuid(services, text)
    else:
        number = int(text) if text.isdigit() and len(text) < 12 else -1
        found = compute_hosts.by_number(services, number, "Hypervisor")
    if found is None:
        raise NotFound(f"Hypervisor with ID '{text}' could not be found.")
    return found


def show(req: Request) -> Any:
    """Show one hypervisor."""
    servers = (req.query.get("with_servers") or "").lower() in _TRUE
    view = _View(req, detail=True, servers=servers and req.version >= V(2, 53))
    return {"hypervisor": view.shape(_get(req))}


def uptime(req: Request) -> Any:
    """Show for how long a host runs (until 2.87)."""
    found = _get(req)
    try:
        text = uptime_text(compute_hosts.uptime_s(req.cloud, found.host))
    except HostSilent as exc:
        raise BadRequest(f"Compute service of {found.host} is unavailable at this time.") from exc
    if text is None:
        raise NotImplementedHere("A simulated host has no uptime.")
    return {"hypervisor": {**_View(req, detail=False).shape(found), "uptime": text}}


def search(req: Request) -> Any:
    """Find hypervisors by a part of their name (until 2.52)."""
    return _search(req, servers=False)


def servers(req: Request) -> Any:
    """Find hypervisors by a part of their name, with their servers (until 2.52)."""
    return _search(req, servers=True)


def _search(req: Request, *, servers: bool) -> Any:
    found = _matching(compute_hosts.list_all(req.cloud), req.params["hypervisor_id"])
    view = _View(req, detail=False, servers=servers)
    return {"hypervisors": [view.shape(h) for h in found]}


def statistics(req: Request) -> Any:
    """Sum what all hosts have and use (until 2.87)."""
    found = [h for h in compute_hosts.list_all(req.cloud) if not h.state.disabled]
    used = compute_hosts.usage(req.cloud)
    total = dict.fromkeys(_STATISTICS, 0)
    total["count"] = len(found)
    for h in found:
        for name, amount in amounts(h, used.get(h.host, Usage())).items():
            total[name] += amount
    return {"hypervisor_statistics": total}


_STATISTICS = (
    "count",
    "vcpus",
    "memory_mb",
    "local_gb",
    "vcpus_used",
    "memory_mb_used",
    "local_gb_used",
    "free_ram_mb",
    "free_disk_gb",
    "current_workload",
    "running_vms",
    "disk_available_least",
)
_WITH = {"with_servers": one(BOOL_TEXT)}
_LIST_53 = {
    "limit": one(COUNT),
    "marker": one(TEXT),
    "hypervisor_hostname_pattern": one(HOSTNAME),
    **_WITH,
}
_LIST = {33: query(PAGING), 53: query(_LIST_53, strict=True)}
_SHOW = {53: query(_WITH, strict=True)}
_RULE = R + "os-hypervisors:"
_ALL, _ONE = "/os-hypervisors", "/os-hypervisors/{hypervisor_id}"
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "list", queries=_LIST, answer=a.HYPERVISORS),
    *versioned(
        "GET",
        _ALL + "/detail",
        detail,
        _RULE + "list-detail",
        queries=_LIST,
        answer=a.HYPERVISORS_DETAIL,
    ),
    *versioned(
        "GET", _ALL + "/statistics", statistics, _RULE + "statistics", until=87, answer=a.STATISTICS
    ),
    *versioned("GET", _ONE, show, _RULE + "show", queries=_SHOW, answer=a.HYPERVISOR),
    *versioned(
        "GET", _ONE + "/uptime", uptime, _RULE + "uptime", until=87, answer=a.HYPERVISOR_UPTIME
    ),
    *versioned(
        "GET", _ONE + "/search", search, _RULE + "search", until=52, answer=a.HYPERVISOR_SEARCH
    ),
    *versioned(
        "GET", _ONE + "/servers", servers, _RULE + "servers", until=52, answer=a.HYPERVISOR_SERVERS
    ),
]
RULES = {
    _RULE + n: ADMIN
    for n in ("list", "list-detail", "statistics", "show", "uptime", "search", "servers")
}
