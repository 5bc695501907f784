"""Operations as people see them, and how long they are kept.

Every function works inside the caller's transaction; none commits.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Database, Row, Tx
from kilonova.db.sql import P, Q
from kilonova.saga import journal, recovery
from kilonova.saga.definition import find
from kilonova.saga.schema import TABLES
from kilonova.saga.state import CANCELLED, DO, DONE, READY, UNDO, State

O, S, F = TABLES.operation, TABLES.step, TABLES.fence  # noqa: E741
DAY_S = 86400.0
FOLD_AFTER_S = DAY_S
KEEP_S = 30 * DAY_S
UNWIND_OVERDUE_S = 60.0

_OLD = Q(
    sa.select(O.c.id)
    .where(
        O.c.folded.is_(None),
        O.c.state == P("state"),
        O.c.ended_at < P("before"),
    )
    .order_by(O.c.ended_at)
    .limit(P("the_limit"))
)
_FOLD = Q(
    sa.update(O).where(O.c.id == P("the_id")).values(folded=P("folded"), params=None, outputs=None)
)
_DROP_STEPS = Q(sa.delete(S).where(S.c.operation == P("operation")))
_GONE = Q(
    sa.select(O.c.id).where(O.c.ended_at < P("before")).order_by(O.c.ended_at).limit(P("the_limit"))
)
_DROP = Q(sa.delete(O).where(O.c.id == P("id")))
_OLD_FENCES = Q(
    sa.delete(F).where(
        F.c.operation.in_(
            sa.select(
                sa.select(F.c.operation)
                .where(F.c.updated_at < P("before"))
                .limit(P("the_limit"))
                .subquery("old")  # MariaDB takes a limit only so deep, and a change's own table too
                .c.operation
            )
        )
    )
)
_OVERDUE = Q(
    sa.select(O.c.id).where(
        O.c.wake_at.isnot(None), sa.or_(O.c.deadline < P("now"), O.c.ends_by < P("now"))
    )
)


def summary(row: Row, now: float, *, admin: bool = False) -> dict[str, Any]:
    """Return an operation in JSON values; times are seconds since the epoch. Host names and details only for admins.

    state is ``unwinding`` while it goes back. overdue: a deadline passed, or one undo takes longer than a minute.
    """
    live = row["ended_at"] is None
    error = None
    if row["error_code"] is not None:
        error = {"code": row["error_code"], "message": row["error_message"]}
        if admin and row["error_details"]:
            error["details"] = row["error_details"]
    out: dict[str, Any] = {
        "id": row["id"],
        "kind": row["kind"],
        "resource": row["resource"],
        "project_id": row["project_id"],
        "request_id": row["request_id"],
        "state": "unwinding" if live and row["direction"] == UNDO else row["state"],
        "step": (row["step"] or "unwound") if live else None,
        "attempt": row["attempt"],
        "accepted_at": row["accepted_at"],
        "updated_at": row["updated_at"],
        "ended_at": row["ended_at"],
        "waits_for": row["waits_for"] if live else None,
        "progress": row["progress"] if live else None,
        "deadline": row["deadline"] if live else None,
        "ends_by": row["ends_by"],
        "overdue": live and _overdue(row, now),
        "cancel_requested": bool(row["cancel_requested"]),
        "error": error,
    }
    if admin:
        out.update(
            host=row["host"],
            last_error=row["last_error"],
            tries=row["tries"],
            sends=row["sends"],
            owner=row["owner"],
            fence=row["fence"],
            epoch=row["epoch"],
        )
    return out


def _overdue(row: Row, now: float) -> bool:
    limits = [t for t in (row["deadline"], row["ends_by"]) if t is not None]
    if row["direction"] == UNDO:
        limits = [row["started_at"] + UNWIND_OVERDUE_S]
    return any(now > t for t in limits)


def show(tx: Tx, id: str, now: float, *, admin: bool = False) -> dict[str, Any]:
    """Return an operation with its steps and what would be undone if it were cancelled now. NotFound."""
    row = journal.get(tx, id)
    out = summary(row, now, admin=admin)
    if row["folded"] is not None:
        steps = msgspec.json.decode(row["folded"], type=list[dict[str, Any]])
    else:
        steps = [dict(r) for r in journal.steps_of(tx, id)]
    hidden = {"operation"} if admin else {"operation", "host"}
    out["steps"] = [{k: v for k, v in s.items() if k not in hidden} for s in steps]
    out["would_undo"] = would_undo(row)
    return out


def would_undo(row: Mapping[str, Any]) -> list[str]:
    """Return names of the steps that an unwind beginning now would undo, in its order."""
    saga = find(row["kind"], row["version"])
    if saga is None or row["ended_at"] is not None or row["step"] not in saga.positions:
        return []
    index = saga.positions[row["step"]]
    if row["direction"] == DO and recovery.past_return(saga, index):
        return []
    if row["state"] == READY:
        return []
    outputs = msgspec.json.decode(row["outputs"] or b"{}", type=dict[str, Any])
    state = State(
        state=row["state"], direction=row["direction"], step=row["step"], seq=0, outputs=outputs
    )
    return [s.name for s in reversed(saga.steps[: index + 1]) if recovery.needs_undo(state, s)]


def overdue(tx: Tx, now: float) -> list[str]:
    """Return ids of live operations of which a deadline passed (at most as many as are live)."""
    return [r[0] for r in tx.all(_OVERDUE, now=now)]


def tidy(db: Database, now: float, rounds: int = 100) -> int:
    """Fold and forget in many short transactions, at most ``rounds``; return how many operations it was."""
    total = 0
    for _ in range(rounds):
        n = db.write(lambda tx: fold(tx, now))
        total += n
        if n == 0:
            break
    return total


def fold(tx: Tx, now: float, limit: int = 100) -> int:
    """Shrink the history by at most ``limit`` operations of each sort; call until it returns 0.

    After 24 h the steps of an operation that went well (or was cancelled) become one list in its row; those of a
    failed one stay. After 30 days all of it is gone.
    """
    n = 0
    for state in (DONE, CANCELLED):
        for row in tx.all(_OLD, state=state, before=now - FOLD_AFTER_S, the_limit=limit):
            steps = [dict(r) for r in journal.steps_of(tx, row[0])]
            tx.run(_FOLD, the_id=row[0], folded=msgspec.json.encode(steps))
            tx.run(_DROP_STEPS, operation=row[0])
            n += 1
    for row in tx.all(_GONE, before=now - KEEP_S, the_limit=limit):
        tx.run(_DROP_STEPS, operation=row[0])
        tx.run(_DROP, id=row[0])
        n += 1
    return n + tx.run(_OLD_FENCES, before=now - KEEP_S, the_limit=limit)
