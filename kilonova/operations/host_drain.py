"""Drain a host: disable it, and get every server off it.

disable  nothing new is placed there
move     servers are moved, a few at a time, and what they leave is confirmed, until none is left that can be moved

A server stays in its cell while that has a host for it; with ``across_cells`` it goes to another one when it has none.
Each move is an operation of its own. What is to do is read anew each time (draining.py), so a kill costs nothing.
Cancelled, moves that have begun go on to their end, and the host is enabled again if the drain disabled it.
"""

from collections.abc import Iterable
from typing import Any

from kilonova.common.context import Context, service_context
from kilonova.common.errors import Conflict, KilonovaError, NotFound
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger
from kilonova.db.engine import Row, Tx
from kilonova.objects.drain import DrainParams
from kilonova.operations import (
    confirm_resize,
    draining,
    live_migrate,
    live_migrate_cross_cell,
    server_migrate,
    server_resize_cross_cell,
    server_shelve_offload,
)
from kilonova.operations.accept import Found, find_server
from kilonova.operations.draining import Task, Way
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import NotYet, NoUndo, Output, Run, Saga, Step, register

log = get_logger(__name__)
WEEK_S = 7 * 86400.0
LOOK_S = 1.0


def disable(run: Run) -> Output:
    """Take the host out of scheduling."""
    services: Services = run.services
    params: DrainParams = run.params
    services.hosts.set_service(params.host, disabled=True, reason=params.reason or "drained")
    return {}


def enable(run: Run) -> None:
    """Put it back, unless it was out before."""
    services: Services = run.services
    params: DrainParams = run.params
    if not params.was_disabled and services.hosts.find(params.host) is not None:
        services.hosts.set_service(params.host, disabled=False)


def move(run: Run) -> Output:
    """Begin what can be begun. Raises NotYet while anything is under way; returns what stays, and why."""
    services: Services = run.services
    params: DrainParams = run.params
    view = draining.read(services, params.host, run.accepted_at)
    tasks = draining.plan(view, run.operation, cold=params.cold)
    under_way = sum(t.way == Way.WAIT for t in tasks)
    stays = [t for t in tasks if t.way == Way.NONE]
    for task in tasks:
        if task.way in (Way.WAIT, Way.NONE):
            continue
        if task.way != Way.CONFIRM and under_way >= params.at_once:
            continue
        refused = _begin(run, view, task)
        if refused is None:
            under_way += 1
        else:
            stays.append(task._replace(way=Way.NONE, why=refused))
    done = draining.moved(view, run.operation)
    if under_way:
        waiting = len(tasks) - under_way - len(stays)
        raise NotYet(
            f"{done} moved, {under_way} under way, {waiting} to come, {len(stays)} stay.",
            after_s=LOOK_S,
        )
    return {"moved": done, "left": draining.shown(stays, {})}


def _begin(run: Run, view: draining.View, task: Task) -> str | None:
    """Begin what a task says; return why it was refused."""
    services: Services = run.services
    ctx = service_context(request_id=run.context.request_id)
    operation = draining.next_try(services, view, run.operation, run.params.host, task.server)
    try:
        found = find_server(services, ctx, task.server)
        if task.way == Way.CONFIRM:
            confirm_resize.start(services, ctx, found)
        elif task.way == Way.OFFLOAD:
            server_shelve_offload.start(services, ctx, found)
        elif operation is None:
            return "it could not be moved; its operations say why"
        else:
            _move(ctx.replace(operation=operation), run, found, task.way)
    except KilonovaError as exc:
        log.info(
            "a drain could not move a server", extra={"server": task.server, "why": exc.message}
        )
        return exc.message
    return None


def _move(ctx: Context, run: Run, found: Found, way: Way) -> None:
    """Accept a move; to another cell when that is allowed, and the scheduler finds no host in the server's own."""
    services: Services = run.services
    live = way == Way.LIVE
    if run.params.across_cells:
        across = live_migrate_cross_cell if live else server_resize_cross_cell
        if across.start(services, ctx, found) is not None:
            return
    (live_migrate if live else server_migrate).start(services, ctx, found)


SAGA = register(
    Saga(
        kind="host_drain",
        version=1,
        params=DrainParams,
        steps=(
            Step("disable", disable, enable, 60.0),
            Step("move", move, NoUndo("what has moved stays moved"), WEEK_S),
        ),
        in_turn=False,
    )
)


def preview(
    services: Services, host: str, *, cold: bool = False, across_cells: bool = False
) -> list[dict[str, Any]]:
    """Return what a drain would do, and where each server would go now; touches nothing. Raises NotFound."""
    _known(services, host)
    view = draining.read(services, host)
    tasks = draining.plan(view, None, cold=cold)
    rows = {r["uuid"]: r for r in view.rows}
    moves = [t for t in tasks if t.way in (Way.LIVE, Way.COLD)]
    to = {
        t.server: draining.where_to(services, host, rows[t.server], across=across_cells)
        for t in moves
    }
    return draining.shown(tasks, to)


def start(
    services: Services,
    ctx: Context,
    host: str,
    *,
    cold: bool = False,
    across_cells: bool = False,
    at_once: int = 4,
    reason: str = "",
) -> str:
    """Accept a drain; return the operation's id. Raises NotFound, Conflict: one is under way."""
    uuid, was_disabled = _known(services, host)
    operation, now = ctx.operation or new_uuid(), services.now()
    params = DrainParams(
        host=host,
        cold=cold,
        at_once=at_once,
        reason=reason,
        was_disabled=was_disabled,
        across_cells=across_cells,
    )

    def accept(tx: Tx) -> None:
        if journal.live_of(tx, uuid):
            raise Conflict(f"Host {host} is being drained already.")
        journal.accept(
            tx,
            id=operation,
            kind=SAGA.kind,
            version=SAGA.version,
            resource=uuid,
            epoch=1,
            project_id=ctx.project_id,
            context=ctx,
            params=params,
            now=now,
            nudge=services.engine.nudge,
        )

    services.cell(services.hosts.cell_of(host)).write(accept)
    return operation


def latest(services: Services, host: str) -> Row | None:
    """Return the newest drain of a host, whether it has ended or not. Raises NotFound."""
    uuid, _ = _known(services, host)
    cell = services.cell(services.hosts.cell_of(host))
    rows: Iterable[Row] = cell.read(
        lambda tx: journal.list_(tx, resource=uuid, kind=SAGA.kind, limit=1)
    )
    return next(iter(rows), None)


def _known(services: Services, host: str) -> tuple[str, bool]:
    state = services.hosts.find(host)
    if state is None:
        raise NotFound(f"Compute host {host[:80]} could not be found.")
    return state.uuid, state.disabled
