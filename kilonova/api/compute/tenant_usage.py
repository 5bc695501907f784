"""Usage of projects in a period (os-simple-tenant-usage), in pages of servers from 2.40 on."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kilonova.api.compute.answers import quotas as a
from kilonova.api.compute.rules import ADMIN, READER
from kilonova.api.compute.shared import COUNT, MAX_LIMIT, TEXT, R, limit_of, many, query, versioned
from kilonova.api.compute.shared import next_link as link
from kilonova.api.compute.views.server import flavor_record
from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest
from kilonova.db import server_usage, servers
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.services import Services

_FORMS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f")
_TOTALS = ("total_local_gb_usage", "total_vcpus_usage", "total_memory_mb_usage", "total_hours")


@dataclass(frozen=True)
class Period:
    """From start to stop, seconds since the epoch; now bounds a stop in the future."""

    start: float
    stop: float
    now: float

    @property
    def end(self) -> float:
        """The last moment that counts."""
        return min(self.stop, self.now)


def _moment(text: str | None, now: float) -> float:
    if not text:
        return now
    for form in _FORMS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except (ValueError, OverflowError):
            continue
    raise BadRequest("Invalid datetime string: Datetime is in invalid format")


def _period(req: Request) -> Period:
    services: Services = req.cloud
    now = services.now()
    start, stop = (_moment(req.query.get(n), now) for n in ("start", "end"))
    if not start < stop:
        raise BadRequest("Invalid start time. The start time cannot occur after the end time.")
    return Period(start, stop, now)


def _rows(req: Request, period: Period, project: str | None) -> tuple[list[Row], bool]:
    """Return a page of the servers that ran in the period, and whether there are more."""
    services: Services = req.cloud
    paged = req.version >= V(2, 40)
    limit = limit_of(req) if paged else MAX_LIMIT
    after = _after(services, req.query.get("marker")) if paged else None
    answers, _ = services.lists.ask_cells(
        lambda tx: server_usage.in_period(
            tx, period.start, period.stop, project_id=project, after=after, limit=limit + 1
        )
    )
    rows = [r for part in answers.values() for r in part]
    rows.sort(key=lambda r: (r["launched_at"], r["uuid"]))
    return rows[:limit], paged and 0 < limit < len(rows)


def _after(services: Services, marker: str | None) -> tuple[float, str] | None:
    if marker is None:
        return None
    answers, _ = services.lists.ask_cells(lambda tx: servers.find(tx, marker))
    for row in answers.values():
        if row is not None and row["launched_at"] is not None:
            return row["launched_at"], row["uuid"]
    raise BadRequest(f"Marker {marker} could not be found.")


def _one(row: Row, period: Period) -> dict[str, Any]:
    """Return what one server used."""
    f = flavor_record(row["flavor"])
    launched, ended = row["launched_at"], row["terminated_at"]
    until = period.end if ended is None else min(period.end, ended)
    return {
        "hours": max(0.0, until - max(launched, period.start)) / 3600.0,
        "flavor": f.name,
        "instance_id": row["uuid"],
        "name": row["name"],
        "tenant_id": row["project_id"],
        "memory_mb": f.memory_mib,
        "local_gb": f.root_gib + f.ephemeral_gib,
        "vcpus": f.vcpus,
        "started_at": iso_micro(launched),
        "ended_at": None if ended is None else iso_micro(ended),
        "state": row["vm_state"] if ended is None else "terminated",
        "uptime": int((period.now if ended is None else ended) - launched),
    }


def _summaries(rows: list[Row], period: Period, *, detailed: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        usage = _one(row, period)
        total = found.get(row["project_id"])
        if total is None:
            total = found[row["project_id"]] = {
                "tenant_id": row["project_id"],
                **({"server_usages": []} if detailed else {}),
                **dict.fromkeys(_TOTALS, 0.0),
                "start": iso_micro(period.start),
                "stop": iso_micro(period.end),
            }
        hours = usage["hours"]
        total["total_local_gb_usage"] += usage["local_gb"] * hours
        total["total_vcpus_usage"] += usage["vcpus"] * hours
        total["total_memory_mb_usage"] += usage["memory_mb"] * hours
        total["total_hours"] += hours
        if detailed:
            total["server_usages"].append(usage)
    return list(found.values())


def index(req: Request) -> Any:
    """Show what every project used; with ``detailed=1`` each server too."""
    period = _period(req)
    rows, more = _rows(req, period, None)
    detailed = req.query.get("detailed") == "1"
    out: dict[str, Any] = {"tenant_usages": _summaries(rows, period, detailed=detailed)}
    if more:
        out["tenant_usages_links"] = link(req, "/os-simple-tenant-usage", rows[-1]["uuid"])
    return out


def show(req: Request) -> Any:
    """Show what one project used, server by server; nothing used is an empty object."""
    project = req.params["project_id"]
    period = _period(req)
    rows, more = _rows(req, period, project)
    found = _summaries(rows, period, detailed=True)
    out: dict[str, Any] = {"tenant_usage": found[0] if found else {}}
    if more:
        path = f"/os-simple-tenant-usage/{project}"
        out["tenant_usage_links"] = link(req, path, rows[-1]["uuid"])
    return out


def _target(req: Request) -> dict[str, object]:
    return {"project_id": req.params["project_id"]}


_SHOW = {"start": many(TEXT), "end": many(TEXT)}
_LIST = {**_SHOW, "detailed": many(TEXT)}
_PAGE = {"limit": many(COUNT), "marker": many(TEXT)}
_RULE = R + "os-simple-tenant-usage:"
ROUTES = [
    *versioned(
        "GET",
        "/os-simple-tenant-usage",
        index,
        _RULE + "list",
        queries={1: query(_LIST), 40: query(_LIST | _PAGE), 75: query(_LIST | _PAGE, strict=True)},
        answer=a.USAGES,
    ),
    *versioned(
        "GET",
        "/os-simple-tenant-usage/{project_id}",
        show,
        _RULE + "show",
        queries={1: query(_SHOW), 40: query(_SHOW | _PAGE), 75: query(_SHOW | _PAGE, strict=True)},
        target=_target,
        answer=a.USAGE,
    ),
]
RULES = {_RULE + "list": ADMIN, _RULE + "show": READER}
