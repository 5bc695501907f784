"""GET /servers, /servers/detail and /servers/{id}."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.api.compute.servers.filters import read_filters, read_order
from kilonova.api.compute.shared import limit_of, next_link
from kilonova.api.compute.views import down_cell
from kilonova.api.compute.views.server import (
    BASIC_COLUMNS,
    DETAIL_COLUMNS,
    Extras,
    ServerView,
    fault,
)
from kilonova.cells.asking import CellDown
from kilonova.cells.down import is_down
from kilonova.cells.filters import Rendered
from kilonova.common.errors import NotFound
from kilonova.db import actions
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.objects.base import decode
from kilonova.objects.server import RequestedServer
from kilonova.operations import metadata, rows
from kilonova.operations.services import Services

_encode = msgspec.json.encode
Raw = msgspec.Raw


def render_unplaced(mapping: Any) -> Rendered:
    """Render a server that has no cell yet from what was asked for."""
    row = rows.row_of(decode(mapping["requested"], RequestedServer))
    if mapping["delete_requested"]:
        row["task_state"] = "deleting"
    return row


def find(req: Request, server_id: str, *, partial: bool = False) -> Rendered:
    """Return a server that the caller may see; NotFound alike for missing and foreign.

    CellDown when its cell does not answer; partial: then what is known without it.
    """
    services: Services = req.cloud
    row = services.lists.find(server_id, partial=partial)
    if row is None or row["deleted"] or not _may_see(req, row):
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def _may_see(req: Request, row: Rendered) -> bool:
    return row["project_id"] == req.ctx.project_id or req.ctx.is_admin


def index(req: Request) -> Any:
    """List servers: id, name and links."""
    return _list(req, detail=False)


def detail(req: Request) -> Any:
    """List servers with all their fields."""
    return _list(req, detail=True)


def _list(req: Request, *, detail: bool) -> Any:
    services: Services = req.cloud
    filters = read_filters(req, detail=detail)
    order = read_order(req)
    limit = limit_of(req)
    if filters is None or limit == 0:
        return {"servers": []}
    columns = DETAIL_COLUMNS if detail else BASIC_COLUMNS
    partial = req.version >= V(2, 69)
    marker = req.query.get("marker")
    page = services.lists.page(filters, order, limit, marker, columns, partial=partial)
    if page.down and not partial:
        _check_skipping(services, page.down)
    extras = extras_for(req, [r for r in page.rows if not is_down(r)]) if detail else Extras()
    view = ServerView(req, extras, single=False)
    shape = view.detail if detail else view.basic
    known = down_cell.detail if detail else down_cell.basic
    # Encoded one by one: of a thousand servers only the text is kept, not their fields.
    shaped = [Raw(_encode(known(view, r) if is_down(r) else shape(r))) for r in plain(page.rows)]
    out: dict[str, Any] = {"servers": shaped}
    if page.more and page.rows:
        path = "/servers/detail" if detail else "/servers"
        out["servers_links"] = next_link(req, path, page.rows[-1]["uuid"])
    return out


def _check_skipping(services: Services, silent: Sequence[str]) -> None:
    """Raise CellDown when a list may not leave out what is in cells that do not answer."""
    if not services.setting("list_records_by_skipping_down_cells", True):
        raise CellDown(", ".join(silent))


def plain(found: Iterable[Rendered]) -> Iterator[Mapping[str, Any]]:
    """Turn rows of one statement into dictionaries, one by one: a Row seeks a name from its first column on."""
    names: list[str] | None = None
    for row in found:
        if isinstance(row, dict):
            yield row
            continue
        if names is None:
            names = list(row.keys())
        yield dict(zip(names, row, strict=True))


def extras_for(req: Request, found: Sequence[Mapping[str, Any]]) -> Extras:
    """Read what the views need besides the rows: one query per kind, only for rows that need it."""
    services: Services = req.cloud
    broken = [r["uuid"] for r in found if r["vm_state"] in ("error", "deleted")]
    faults: dict[str, Any] = {}
    if broken:
        answers, _ = services.lists.ask_cells(lambda tx: actions.faults_of(tx, broken))
        newest: dict[str, Any] = {}
        for part in answers.values():
            for server, row in part.items():
                if server not in newest or row["created_at"] > newest[server]["created_at"]:
                    newest[server] = row
        faults = {s: fault(row, admin=req.ctx.is_admin) for s, row in newest.items()}
    user_data: dict[str, str] = {}
    if req.version >= V(2, 3) and req.may("os_compute_api:os-extended-server-attributes"):
        user_data = metadata.user_data_of(services, found)
    hints: dict[str, Any] = {}
    if req.version >= V(2, 100):
        hints = metadata.hints_of(services, [r["uuid"] for r in found])
    return Extras(faults=faults, host_up=services.hosts.status_of, user_data=user_data, hints=hints)


def show(req: Request) -> Any:
    """Show one server."""
    row = find(req, req.params["server_id"], partial=req.version >= V(2, 69))
    req.authorize("os_compute_api:servers:show", {"project_id": row["project_id"]})
    if is_down(row):
        return {"server": down_cell.show(ServerView(req, Extras()), row)}
    extras = extras_for(req, [row])
    view = ServerView(req, extras)
    return {"server": view.detail(next(plain([row])))}
