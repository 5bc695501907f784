"""The usage audit log (os-instance_usage_audit_log), for admins: what hosts told of each period. No host of this cloud
sends such reports, as with Nova when they are switched off: every host "has not run". Periods are months.
"""

from datetime import UTC, datetime
from typing import Any

from kilonova.api.compute.answers import others as a
from kilonova.api.compute.rules import ADMIN
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.request import Request
from kilonova.operations.services import Services

_FORMS = ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S")


def index(req: Request) -> Any:
    """Show the report of the last period."""
    services: Services = req.cloud
    return {"instance_usage_audit_logs": _report(req, services.now())}


def show(req: Request) -> Any:
    """Show the report of the period before a moment."""
    text = req.params["before_timestamp"]
    for form in _FORMS:
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return {"instance_usage_audit_log": _report(req, moment.timestamp())}
    raise BadRequest(f"Invalid timestamp for date {text[:40]}")


def _report(req: Request, before: float) -> dict[str, Any]:
    services: Services = req.cloud
    at = datetime.fromtimestamp(before, UTC)
    end = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = end.replace(
        year=end.year - (end.month == 1), month=12 if end.month == 1 else end.month - 1
    )
    hosts = sorted(h.host for h in services.hosts.all())
    return {
        "period_beginning": str(begin.replace(tzinfo=None)),
        "period_ending": str(end.replace(tzinfo=None)),
        "num_hosts": len(hosts),
        "num_hosts_done": 0,
        "num_hosts_running": 0,
        "num_hosts_not_run": len(hosts),
        "hosts_not_run": hosts,
        "total_instances": 0,
        "total_errors": 0,
        "overall_status": f"0 of {len(hosts)} hosts done. 0 errors.",
        "log": {},
    }


_RULE = R + "os-instance-usage-audit-log:"
_ALL = "/os-instance_usage_audit_log"
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "list", queries=NO_QUERY, answer=a.AUDIT_LOGS),
    *versioned(
        "GET",
        _ALL + "/{before_timestamp}",
        show,
        _RULE + "show",
        queries=NO_QUERY,
        answer=a.AUDIT_LOG,
    ),
]
RULES = {_RULE + "list": ADMIN, _RULE + "show": ADMIN}
