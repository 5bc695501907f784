"""The log of what happened, written in the transaction that makes it so; subscribers read it. The caller's transaction.

It costs an action one statement when it begins and one when it ends: both copy the server's state of that moment.
"""

import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import instance_action as a
from kilonova.db.schema.cell import notification as n
from kilonova.db.schema.cell import server as s
from kilonova.db.schema.world import setting
from kilonova.db.sql import P, Q

_PLACE = Q(sa.select(setting.c.value).where(setting.c.name == P("the_name")))
_MOVE = Q(sa.update(setting).where(setting.c.name == P("the_name")).values(value=P("place")))
_FIRST = Q(sa.insert(setting).values(name=P("the_name"), value=P("place")))

START, END, ERROR, UPDATE = ":start", ":end", ":error", "update:end"
_STATE = ("vm_state", "task_state", "power_state", "host")
_COLUMNS = ("at", "event", "resource", "project_id", "user_id", "request_id")


def _text(name: str) -> sa.ColumnElement[str]:
    return sa.cast(P(name, type_=sa.Text), sa.Text)


_AT = P("at", type_=sa.Float).label("at")
_BEGUN = Q(
    sa.insert(n).from_select(
        [*_COLUMNS, *_STATE],
        sa.select(
            _AT,
            _text("event"),
            s.c.uuid,
            s.c.project_id,
            _text("user"),
            _text("request"),
            *(s.c[name] for name in _STATE),
        ).where(s.c.uuid == P("server")),
    )
)


def _of_action(event: sa.ColumnElement[str]) -> Q:
    """Return what tells of an operation's action, by whoever began that."""
    return Q(
        sa.insert(n).from_select(
            [*_COLUMNS, *_STATE],
            sa.select(
                _AT,
                event,
                s.c.uuid,
                s.c.project_id,
                a.c.user_id,
                a.c.request_id,
                *(s.c[name] for name in _STATE),
            ).where(a.c.operation == P("operation"), s.c.uuid == a.c.server),
        )
    )


_ENDED = _of_action(a.c.action + _text("phase"))
_PART = _of_action(_text("event"))
_TOLD = Q(sa.insert(n).values({name: P(name) for name in (*_COLUMNS, "payload")}))
_AFTER = Q(sa.select(n).where(n.c.id > P("after")).order_by(n.c.id).limit(P("the_limit")))
_NEWEST = Q(sa.select(sa.func.coalesce(sa.func.max(n.c.id), 0)))
_OLD = Q(
    sa.select(n.c.id)
    .where(n.c.at < P("before"), n.c.id < P("newest"))
    .order_by(n.c.id)
    .limit(P("the_limit"))
)
_DROP = Q(sa.delete(n).where(n.c.id <= P("last"), n.c.at < P("before")))


def begun(tx: Tx, ctx: Context, server: str, action: str, now: float) -> None:
    """An action on a server begins. Nothing is told of a server that has no row here."""
    user = ctx.user_id or ""
    event = action + START
    tx.put(_BEGUN, at=now, event=event, user=user, request=ctx.request_id, server=server)


def ended(tx: Tx, operation: str, now: float, *, error: bool) -> None:
    """The action of an operation ended; the server's row is as it will be."""
    tx.put(_ENDED, at=now, phase=ERROR if error else END, operation=operation)


def part(tx: Tx, operation: str, event: str, now: float) -> None:
    """A part of an operation began or ended. event: its name and phase. Nothing is told where its action is not."""
    tx.put(_PART, at=now, event=event, operation=operation)


def updated(tx: Tx, ctx: Context, server: str, now: float) -> None:
    """A server's record changed, by no action."""
    user = ctx.user_id or ""
    tx.put(_BEGUN, at=now, event=UPDATE, user=user, request=ctx.request_id, server=server)


def told(tx: Tx, event: str, resource: str, payload: str, ctx: Context | None, now: float) -> None:
    """Something else happened; ``payload`` is what is told, as JSON."""
    tx.put(
        _TOLD,
        at=now,
        event=event,
        resource=resource,
        project_id=None if ctx is None else ctx.project_id,
        user_id=None if ctx is None else ctx.user_id,
        request_id=None if ctx is None else ctx.request_id,
        payload=payload,
    )


def after(tx: Tx, seq: int, limit: int) -> list[Row]:
    """Return what happened after a number, in order."""
    return tx.all(_AFTER, after=seq, the_limit=limit)


def newest(tx: Tx) -> int:
    """Return the number of what happened last, 0 if nothing did."""
    return int(tx.value(_NEWEST))


def purge(tx: Tx, before: float, limit: int = 1000) -> int:
    """Forget at most ``limit`` of what is older than a moment; the newest stays, so that numbers go on from it."""
    gone = tx.all(_OLD, before=before, newest=newest(tx), the_limit=limit)
    return tx.run(_DROP, last=gone[-1][0], before=before) if gone else 0


def place_of(tx: Tx, subscriber: str) -> str | None:
    """Return how far a subscriber was told; None when it is new. Global database."""
    found: str | None = tx.value(_PLACE, the_name=f"told:{subscriber}")
    return found


def keep_place(tx: Tx, subscriber: str, place: str) -> None:
    """Keep how far a subscriber was told. Global database."""
    if tx.run(_MOVE, the_name=f"told:{subscriber}", place=place) == 0:
        tx.put(_FIRST, the_name=f"told:{subscriber}", place=place)
