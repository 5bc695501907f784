"""What is used: of one provider, and of a project (1.9; by consumer type from 1.38 on)."""

import re
from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.placement import allocations, inventories


def of_provider(req: Request) -> Response:
    """Show what is used of a provider; classes of which nothing is used say 0."""

    def found(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        used = dict.fromkeys(inventories.of(tx, p.id), 0) | inventories.used(tx, p.id)
        return common.answer(req, {"resource_provider_generation": p.generation, "usages": used})

    return common.read(req, found)


def of_project(req: Request) -> Response:
    """Sum what a project, or one user in it, uses."""
    common.only(
        req, {"project_id", "user_id"} | ({"consumer_type"} if req.version >= V(1, 38) else set())
    )
    project, user = req.query.get("project_id"), req.query.get("user_id")
    for name, value in (("project_id", project), ("user_id", user)):
        if value is not None and not 0 < len(value) <= 255:
            raise BadRequest(
                f"Invalid query string parameters: {name} must have 1 to 255 characters"
            )
    if project is None:
        raise BadRequest("Invalid query string parameters: 'project_id' is a required property")
    rows, counts = common.read(
        req,
        lambda tx: (
            allocations.usage(tx, project, user),
            allocations.consumers(tx, project, user),
        ),
    )
    if req.version >= V(1, 38):
        return common.answer(req, {"usages": _by_type(req, rows, counts)})
    out: dict[str, int] = {}
    for _, rc, n in rows:
        out[rc] = out.get(rc, 0) + n
    return common.answer(req, {"usages": out})


def _by_type(
    req: Request, rows: list[tuple[str, str, int]], counts: dict[str, int]
) -> dict[str, Any]:
    wanted = req.query.get("consumer_type")
    if wanted is not None and re.fullmatch(r"[A-Z0-9_]{1,255}|all|unknown", wanted) is None:
        raise BadRequest(
            "Invalid query string parameters: consumer_type is not a type, 'all' or 'unknown'"
        )
    out: dict[str, dict[str, int]] = {}
    for type_, rc, n in rows:
        if wanted not in (None, "all", type_):
            continue
        mine = out.setdefault("all" if wanted == "all" else type_, {})
        mine[rc] = mine.get(rc, 0) + n
    for key, mine in out.items():
        mine["consumer_count"] = sum(counts.values()) if key == "all" else counts.get(key, 0)
    return out


def _target(req: Request) -> dict[str, object]:
    return {"project_id": req.query.get("project_id")}


ROUTES = (
    Route(
        "GET",
        "/resource_providers/{uuid}/usages",
        of_provider,
        "placement:resource_providers:usages",
        since=V(1, 0),
        errors=(404,),
    ),
    Route(
        "GET",
        "/usages",
        of_project,
        "placement:usages",
        since=V(1, 9),
        errors=(400,),
        target=_target,
    ),
)
