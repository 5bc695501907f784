"""Hosts by name (os-hosts), for admins, until 2.42; later versions use hypervisors and services."""

from typing import Any

from kilonova.api.compute.answers import hosts as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.schemas import services as s
from kilonova.api.compute.shared import TEXT, R, many, not_yet, query, versioned
from kilonova.api.compute.views.server import flavor_record
from kilonova.common.errors import NotFound, NotImplementedHere
from kilonova.db import servers
from kilonova.http.request import Request
from kilonova.operations import compute_hosts
from kilonova.operations.compute_hosts import Usage
from kilonova.operations.hosts_elsewhere import HostState
from kilonova.operations.services import Services


def _get(req: Request) -> HostState:
    services: Services = req.cloud
    name = req.params["host"]
    state = services.hosts.find(name)
    if state is None:
        raise NotFound(f"Host '{name}' is not mapped to any cell")
    return state


def index(req: Request) -> Any:
    """List enabled hosts, all or those of a zone."""
    services: Services = req.cloud
    zone = req.query.get("zone")
    out = []
    for state in services.hosts.all():
        its = services.scheduling.zone_of(state.host)
        if not state.disabled and (not zone or its == zone):
            out.append({"host_name": state.host, "service": "compute", "zone": its})
    return {"hosts": out}


def show(req: Request) -> Any:
    """Show what a host has, what is used now, and what its servers may use, by project."""
    services: Services = req.cloud
    state = _get(req)
    has, used = state.inventory, compute_hosts.usage(services).get(state.host, Usage())
    rows = services.cell(state.cell).read(lambda tx: servers.on_host(tx, state.host))
    by_project: dict[str, list[int]] = {}
    most = [0, 0, 0]
    for row in rows:
        f = flavor_record(row["flavor"])
        amounts = (f.vcpus, f.memory_mib, f.root_gib + f.ephemeral_gib)
        for total in (most, by_project.setdefault(row["project_id"], [0, 0, 0])):
            for i, amount in enumerate(amounts):
                total[i] += amount
    parts = [
        ("(total)", [has.vcpus, has.memory_mib, has.disk_gib]),
        ("(used_now)", [used.vcpus, used.memory_mib + has.reserved_memory_mib, used.disk_gib]),
        ("(used_max)", most),
        *by_project.items(),
    ]
    return {
        "host": [
            {
                "resource": {
                    "host": state.host,
                    "project": project,
                    "cpu": cpu,
                    "memory_mb": memory,
                    "disk_gb": disk,
                }
            }
            for project, (cpu, memory, disk) in parts
        ]
    }


def update(req: Request) -> Any:
    """Enable or disable a host. Maintenance windows are not offered."""
    services: Services = req.cloud
    state, body = _get(req), req.body
    if "maintenance_mode" in body:
        raise NotImplementedHere("maintenance_mode: the requested functionality is not supported.")
    enable = body["status"].strip().lower() == "enable"
    services.hosts.set_service(state.host, disabled=not enable)
    return {"host": state.host, "status": "enabled" if enable else "disabled"}


def power(req: Request) -> None:
    """Answer 501: switching hosts on and off is not offered; a host that is not there is 404."""
    _get(req)
    not_yet("Switching hosts on and off")(req)


_RULE = R + "os-hosts:"
_ONE = "/os-hosts/{host}"
_POWER = (("startup", "start"), ("shutdown", "shutdown"), ("reboot", "reboot"))
ROUTES = [
    *versioned(
        "GET",
        "/os-hosts",
        index,
        _RULE + "list",
        queries={1: query({"zone": many(TEXT)})},
        until=42,
        answer=a.HOSTS,
    ),
    *versioned("GET", _ONE, show, _RULE + "show", until=42, answer=a.HOST),
    *versioned(
        "PUT", _ONE, update, _RULE + "update", bodies={1: s.HOST}, until=42, answer=a.HOST_SET
    ),
    *(
        route
        for path, rule in _POWER
        for route in versioned(
            "GET",
            f"{_ONE}/{path}",
            power,
            _RULE + rule,
            until=42,
            errors=(403, 404, 501),
        )
    ),
]
RULES = {_RULE + n: ADMIN for n in ("list", "show", "update", "start", "shutdown", "reboot")}
