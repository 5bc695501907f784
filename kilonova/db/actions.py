"""Instance actions, their events, and faults: what a tenant may read of an operation. Cell database."""

import traceback

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.db import notifications
from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import action_event as ev
from kilonova.db.schema.cell import fault as f
from kilonova.db.schema.cell import instance_action as a
from kilonova.db.sql import P, Q, insert_or_ignore, insert_or_replace

_BEGIN = insert_or_ignore(a)
_FINISH = Q(
    sa.update(a)
    .where(a.c.operation == P("operation_"), a.c.finished_at.is_(None))
    .values(finished_at=P("now"), updated_at=P("now"), message=P("message"))
)
_EVENT = insert_or_replace(ev)
_END_EVENT = Q(
    sa.update(ev)
    .where(
        ev.c.operation == P("operation_"),
        ev.c.step == P("step_"),
        ev.c.finished_at.is_(None),
    )
    .values(finished_at=P("now"), result="Success")
)
_FAIL_EVENTS = Q(
    sa.update(ev)
    .where(ev.c.operation == P("operation_"), ev.c.finished_at.is_(None))
    .values(finished_at=P("now"), result="Error", details=P("why"))
)
_OF = Q(
    sa.select(a)
    .where(a.c.server == P("server"))
    .order_by(a.c.started_at.desc(), a.c.operation.desc())
)
_ONE = Q(
    sa.select(a)
    .where(a.c.server == P("server"), a.c.request_id == P("request_id"))
    .order_by(a.c.started_at)
    .limit(1)
)
_OPEN = Q(sa.select(a.c.finished_at).where(a.c.operation == P("operation")))
_EVENTS = Q(sa.select(ev).where(ev.c.operation == P("operation")).order_by(ev.c.started_at))
_ERASE_EVENTS = Q(sa.delete(ev).where(ev.c.operation == P("operation")))
_ERASE = Q(sa.delete(a).where(a.c.operation == P("operation")))
_FAULT = insert_or_ignore(f)
_LAST_FAULT = Q(
    sa.select(f).where(f.c.server == P("server")).order_by(f.c.created_at.desc()).limit(1)
)


def begin(tx: Tx, *, operation: str, server: str, action: str, ctx: Context, now: float) -> None:
    """Open an action, and tell subscribers; opening it again changes nothing."""
    opened = tx.run(
        _BEGIN,
        operation=operation,
        server=server,
        action=action,
        request_id=ctx.request_id,
        user_id=ctx.user_id or "",
        project_id=ctx.project_id or "",
        started_at=now,
        finished_at=None,
        updated_at=now,
        message=None,
    )
    if opened == 1:
        notifications.begun(tx, ctx, server, action, now)


def stands(tx: Tx, operation: str) -> str:
    """Return how an operation's action stands in this cell: "open", "finished", or "" when it never began here."""
    row = tx.one(_OPEN, operation=operation)
    return "" if row is None else "open" if row[0] is None else "finished"


def finish(tx: Tx, operation: str, now: float, *, error: bool = False, tell: bool = True) -> None:
    """Close an action, and tell subscribers what the server is now; ``error`` gives it the message "Error".

    tell: not of a copy that nobody sees, whose other one is told of.
    """
    ended = tx.run(_FINISH, operation_=operation, now=now, message="Error" if error else None)
    if ended == 1 and tell:
        notifications.ended(tx, operation, now, error=error)


def event(
    tx: Tx,
    *,
    operation: str,
    step: str,
    name: str,
    started: float,
    finished: float | None,
    ok: bool | None,
    host: str | None = None,
    details: str | None = None,
) -> None:
    """Write the event of one step; the key (operation, step) makes a repeat harmless. ok None: it has only begun."""
    tx.put(
        _EVENT,
        operation=operation,
        step=step,
        event=name,
        started_at=started,
        finished_at=finished,
        result=None if ok is None else "Success" if ok else "Error",
        host=host,
        details=details,
        traceback=None,
    )


def end_event(tx: Tx, operation: str, step: str, now: float) -> None:
    """Say that a step whose event was begun worked; fine when it has ended, or was never begun."""
    tx.put(_END_EVENT, operation_=operation, step_=step, now=now)


def fail_events(tx: Tx, operation: str, now: float, why: str) -> int:
    """Say of an operation's events that have only begun that they failed; return how many these were."""
    return tx.run(_FAIL_EVENTS, operation_=operation, now=now, why=why)


def erase(tx: Tx, operation: str) -> None:
    """Take an action and its events out as if they had never been."""
    tx.put(_ERASE_EVENTS, operation=operation)
    tx.put(_ERASE, operation=operation)


def of_server(tx: Tx, server: str) -> list[Row]:
    """Return a server's actions, newest first."""
    return tx.all(_OF, server=server)


def by_request(tx: Tx, server: str, request_id: str) -> Row | None:
    """Return the action of one request."""
    return tx.one(_ONE, server=server, request_id=request_id)


def events_of(tx: Tx, operation: str) -> list[Row]:
    """Return an action's events, oldest first."""
    return tx.all(_EVENTS, operation=operation)


def add_fault(
    tx: Tx,
    *,
    id_: str,
    server: str,
    code: int,
    message: str,
    details: str,
    host: str | None,
    now: float,
) -> None:
    """Record why an operation failed; ``message`` is for the tenant, ``details`` for admins."""
    tx.put(
        _FAULT,
        id=id_,
        server=server,
        code=code,
        message=message,
        details=details,
        host=host,
        created_at=now,
    )


def last_fault(tx: Tx, server: str) -> Row | None:
    """Return the newest fault of a server."""
    return tx.one(_LAST_FAULT, server=server)


def faults_of(tx: Tx, servers: list[str]) -> dict[str, Row]:
    """Return server -> its newest fault."""
    found: dict[str, Row] = {}
    for i in range(0, len(servers), 900):
        stmt = sa.select(f).where(f.c.server.in_(servers[i : i + 900])).order_by(f.c.created_at)
        for row in tx.select(stmt):
            found[row["server"]] = row
    return found


def details_of(exc: BaseException) -> str:
    """Return a traceback as text for ``details``."""
    return "".join(traceback.format_exception(exc))[-8000:]
