"""A server whose cell does not answer, from 2.69 on: what is known without it. source: Nova, "Handling Down Cells"."""

from collections.abc import Mapping
from typing import Any

from kilonova.api.compute.views.server import ServerView
from kilonova.common.clock import iso

UNKNOWN = "UNKNOWN"


def basic(view: ServerView, row: Mapping[str, Any]) -> dict[str, Any]:
    """The form of GET /servers."""
    return {"id": row["uuid"], "status": UNKNOWN, "links": view.links(row["uuid"])}


def detail(view: ServerView, row: Mapping[str, Any]) -> dict[str, Any]:
    """The form of GET /servers/detail."""
    known = {"tenant_id": row["project_id"], "created": iso(row["created_at"])}
    return {**basic(view, row), **known}


def show(view: ServerView, row: Mapping[str, Any]) -> dict[str, Any]:
    """The form of GET /servers/{id}: also what was asked for when it was made."""
    out = detail(view, row)
    out |= {
        "user_id": row["user_id"],
        "image": view.image(row),
        "flavor": view.flavor(row),
        "OS-EXT-AZ:availability_zone": row["requested_zone"] or UNKNOWN,
        "OS-EXT-STS:power_state": 0,
    }
    if view.v71:
        group = row["server_group"]
        out["server_groups"] = [group] if group else []
    return out
