"""Draining a host: what would happen, begin it, and how far it is. For admins."""

from typing import Any

import msgspec

from kilonova.common.errors import NotFound
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.objects.base import decode
from kilonova.objects.drain import DrainParams
from kilonova.operations import draining, host_drain
from kilonova.operations.services import Services
from kilonova.saga import history

RULE = "kilonova:hosts:drain"
ACROSS = RULE + ":across_cells"
_PATH = "/v1/hosts/{host}/drain"
_BODY = Schema(
    {
        "type": "object",
        "properties": {
            "dry_run": {"type": "boolean"},
            "cold": {"type": "boolean"},
            "across_cells": {"type": "boolean"},
            "at_once": {"type": "integer", "minimum": 1, "maximum": 100},
            "reason": {"type": "string", "minLength": 1, "maxLength": 255},
        },
        "additionalProperties": False,
    }
)


def drain(req: Request) -> Any:
    """Begin to drain a host, or (dry_run) say what would happen: each server, how, and where to."""
    services: Services = req.cloud
    host, asked = req.params["host"], req.body
    how = {"cold": asked.get("cold", False), "across_cells": asked.get("across_cells", False)}
    if how["across_cells"]:
        req.authorize(ACROSS)
    plan = host_drain.preview(services, host, **how)
    if asked.get("dry_run", False):
        return {"drain": {"host": host, "operation": None, "state": "planned", "servers": plan}}
    operation = host_drain.start(
        services,
        req.ctx,
        host,
        **how,
        at_once=asked.get("at_once", 4),
        reason=asked.get("reason", ""),
    )
    return {"drain": {"host": host, "operation": operation, "state": "live", "servers": plan}}


def show(req: Request) -> Any:
    """Show the newest drain of a host: how many servers have moved, what is under way, what stays and why."""
    services: Services = req.cloud
    host = req.params["host"]
    row = host_drain.latest(services, host)
    if row is None:
        raise NotFound(f"Host {host:.80} was never drained.")
    operation = history.summary(row, services.now(), admin=True)
    params = decode(row["params"], DrainParams)
    view = draining.read(services, host, row["accepted_at"])
    tasks = draining.plan(view, row["id"], cold=params.cold)
    left = msgspec.json.decode(row["outputs"]).get("move", {}).get("left", [])
    return {
        "drain": {
            "host": host,
            "operation": row["id"],
            "state": operation["state"],
            "moved": draining.moved(view, row["id"]),
            "servers": left if row["ended_at"] is not None else draining.shown(tasks, {}),
        }
    }


ROUTES = (
    Route("POST", _PATH, drain, RULE, body=_BODY, success=202, errors=(400, 403, 404, 409)),
    Route("GET", _PATH, show, RULE, errors=(403, 404)),
)
RULES = {RULE: "rule:context_is_admin", ACROSS: "rule:context_is_admin"}
