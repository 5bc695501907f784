"""Live answers from a server's host: console log, diagnostics, topology. Read-only, at most 10 s, no journal."""

import re
from typing import Any

import msgspec

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import ADMIN, MEMBER, READER
from kilonova.api.compute.schemas.common import Json, wrap
from kilonova.api.compute.servers.finding import placed, seen
from kilonova.api.compute.shared import NO_QUERY, R, action, versioned
from kilonova.cells.filters import Rendered
from kilonova.common.errors import BadRequest, Conflict, NotFound, Unavailable
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.objects import query as q
from kilonova.objects.base import Versioned
from kilonova.objects.server import FlavorRecord
from kilonova.operations import guest_orders, host_devices
from kilonova.operations.ask import ask

_CONSOLE, _DIAGNOSTICS = R + "os-console-output", R + "os-server-diagnostics"
_TOPOLOGY = "compute:server:topology:"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f]")
MOST_LINES = 1_000_000


def _ask(req: Request, row: Rendered, question: Versioned) -> Versioned:
    """Return the host's answer. NotFound: no such guest; Conflict: not ready, or its state has no answer."""
    answer = ask(req.cloud, placed(row), question)
    if isinstance(answer, q.QueryFailed):
        if answer.code == "guest_missing":
            raise NotFound("Guest does not have a console available.")
        if answer.code == "driver":
            raise Conflict(answer.message)
        raise Unavailable(answer.message)
    return answer


def console_output(req: Request) -> Any:
    """Return the last lines of a server's console; without a length, or with -1, all that is kept."""
    row = seen(req, _CONSOLE)
    length = req.body["os-getConsoleOutput"].get("length")
    lines = None if length is None else int(length)
    if lines is not None and lines < -1:
        raise BadRequest("length: it must be at least -1")
    if lines is not None:
        lines = None if lines == -1 else min(lines, MOST_LINES)
    answer = _ask(req, row, q.ConsoleLogQuery(server_id=row["uuid"], lines=lines))
    if not isinstance(answer, q.ConsoleLog):
        raise Unavailable("The host gave no console log.")
    text = _CONTROL.sub("", answer.text)
    if lines is not None:  # what follows the last line feed is a line too: so counts Nova
        text = "\n".join(text.split("\n")[-lines:]) if lines else ""
    return {"output": text}


_PLAIN = (
    "state",
    "driver",
    "hypervisor",
    "hypervisor_os",
    "uptime",
    "config_drive",
    "num_cpus",
    "num_nics",
    "num_disks",
)
_DISK = ("read_bytes", "read_requests", "write_bytes", "write_requests", "errors_count")
_NIC = tuple(
    f"{way}_{what}"
    for way in ("rx", "tx")
    for what in ("octets", "errors", "drop", "packets", "rate")
)
_LISTS = {
    "disk_details": _DISK,
    "cpu_details": ("id", "time", "utilisation"),
    "nic_details": ("mac_address", *_NIC),
}


def diagnostics(req: Request) -> Any:
    """Return a running server's counters; before 2.48 as a flat object."""
    row = seen(req, _DIAGNOSTICS)
    answer = _ask(req, row, q.DiagnosticsQuery(server_id=row["uuid"]))
    if not isinstance(answer, q.Diagnostics):
        raise Unavailable("The host gave no diagnostics.")
    facts: dict[str, Any] = msgspec.json.decode(answer.facts)
    if not req.version >= V(2, 48):
        return _flat(facts)
    out: dict[str, Any] = {name: facts.get(name) for name in _PLAIN}
    for name, fields in _LISTS.items():
        out[name] = [{f: item.get(f) for f in fields} for item in facts.get(name) or []]
    memory = facts.get("memory_details") or {}
    out["memory_details"] = {f: memory.get(f) for f in ("maximum", "used")}
    return out


def _flat(facts: dict[str, Any]) -> dict[str, int]:
    """Return the counters as versions before 2.48 name them: by CPU, disk and NIC, memory in KiB."""
    out: dict[str, Any] = {}
    for n, cpu in enumerate(facts.get("cpu_details") or []):
        out[f"cpu{n}_time"] = cpu.get("time")
    memory = (facts.get("memory_details") or {}).get("maximum")
    out["memory"] = None if memory is None else memory * 1024
    for n, disk in enumerate(facts.get("disk_details") or []):
        letter = "vd" + chr(ord("a") + n % 26)
        out[f"{letter}_read"] = disk.get("read_bytes")
        out[f"{letter}_read_req"] = disk.get("read_requests")
        out[f"{letter}_write"] = disk.get("write_bytes")
        out[f"{letter}_write_req"] = disk.get("write_requests")
        out[f"{letter}_errors"] = disk.get("errors_count")
    for n, nic in enumerate(facts.get("nic_details") or []):
        for way in ("rx", "tx"):
            for old, new in (("", "octets"), ("_packets", "packets"), ("_errors", "errors")):
                out[f"vnet{n}_{way}{old}"] = nic.get(f"{way}_{new}")
            out[f"vnet{n}_{way}_drop"] = nic.get(f"{way}_drop")
    return {name: -1 if value is None else value for name, value in out.items()}


def topology(req: Request) -> Any:
    """Show a server's NUMA topology (from 2.78); where it is on the host, to those who may know."""
    row = seen(req, _TOPOLOGY + "index")
    flavor = msgspec.json.decode(row["flavor"], type=FlavorRecord)
    image = guest_orders.system_of(row).image
    cells = host_devices.cells_of(flavor, image)
    admin = bool(row["host"]) and req.may(_TOPOLOGY + "host:index")
    places: dict[int, int | None] = {}
    if admin and len(cells) > 1:
        found = host_devices.nodes_of(req.cloud, row, flavor, image)
        places = {n.number: n.host_node for n in found}
    nodes = []
    for cell in cells:
        node: dict[str, Any] = {
            "memory_mb": cell.memory_mib,
            "siblings": [],
            "vcpu_set": list(cell.cpus),
        }
        if admin:
            node["cpu_pinning"] = {}
        if cell.number in places:
            node["host_node"] = places[cell.number]
        nodes.append(node)
    return {"nodes": nodes, "pagesize_kb": None}


_LENGTH: Json = {
    "type": "object",
    "properties": {
        "length": {
            "type": ["integer", "string", "null"],
            "pattern": "^-?[0-9]{1,9}$",
            "minimum": -1,
            "maximum": 999_999_999,
        }
    },
    "additionalProperties": False,
}
_S = "/servers/{server_id}/"
_E = (403, 404, 409, 503)
ROUTES = [
    *action(
        _S + "action",
        "os-getConsoleOutput",
        console_output,
        _CONSOLE,
        wrap("os-getConsoleOutput", _LENGTH),
        errors=(400, *_E),
        answer=a.CONSOLE_OUTPUT,
        idempotent="",
    ),
    *versioned(
        "GET",
        _S + "diagnostics",
        diagnostics,
        _DIAGNOSTICS,
        queries=NO_QUERY,
        errors=(400, *_E),
        answer=a.DIAGNOSTICS,
    ),
    *versioned(
        "GET",
        _S + "topology",
        topology,
        _TOPOLOGY + "index",
        queries=NO_QUERY,
        since=78,
        answer=a.TOPOLOGY,
    ),
]
RULES = {
    _CONSOLE: MEMBER,
    _DIAGNOSTICS: ADMIN,
    _TOPOLOGY + "index": READER,
    _TOPOLOGY + "host:index": ADMIN,
}
