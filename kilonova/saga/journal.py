"""The journal of operations: what is accepted, where each one stands, what became of its steps.

Every function works inside the caller's transaction; none commits.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.common.ids import is_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.objects.base import Versioned, decode, encode
from kilonova.saga.definition import find
from kilonova.saga.schema import TABLES
from kilonova.saga.state import ANSWER, DO, READY, STATE_COLUMNS, UNDO, WAITING, Live, State

O, S, F, I = TABLES.operation, TABLES.step, TABLES.fence, TABLES.incarnation  # noqa: E741


class Fenced(Conflict):
    """Somebody newer owns the operation; the writer must stop at once and undo nothing."""

    code = "fenced"


_ACCEPT_COLUMNS = (
    *("id", "kind", "version", "resource", "epoch", "project_id", "request_id"),
    *("state", "direction", "step", "seq", "attempt", "tries", "sends", "heard", "wake_at"),
    *("started_at", "deadline", "ends_by", "cancel_requested", "context", "params", "outputs"),
    *("accepted_at", "updated_at"),
)
_NEWEST = sa.select(sa.func.coalesce(sa.func.max(I.c.fence), 0)).scalar_subquery()
_ACCEPT = Q(sa.insert(O).values({**{n: P(n) for n in _ACCEPT_COLUMNS}, "fence": _NEWEST}))
_LOAD = Q(
    sa.select(
        *(O.c[n] for n in STATE_COLUMNS),
        *(O.c[n] for n in ("id", "kind", "version", "resource", "epoch", "fence", "ends_by")),
        *(O.c[n] for n in ("accepted_at", "cancel_requested", "context", "params", "owner")),
    ).where(O.c.id == P("id"))
)
_MOVED: dict[str, Any] = {n: P(n) for n in (*STATE_COLUMNS, "owner", "updated_at")}
_AS_SEEN = sa.and_(O.c.id == P("the_id"), O.c.cancel_requested == P("the_cancel"))
_SAVE = Q(sa.update(O).where(_AS_SEEN, O.c.fence == P("the_fence")).values(_MOVED))
_SAVE_AND_OWN = Q(
    sa.update(O)
    .where(_AS_SEEN, O.c.fence == P("the_fence") - 1, O.c.owner.is_(None), O.c.wake_at.isnot(None))
    .where(sa.exists().where(I.c.name == P("owner"), I.c.ended_at.is_(None)))
    .values({**_MOVED, "fence": O.c.fence + 1})
)
_CHECK = Q(sa.select(O.c.fence, O.c.cancel_requested).where(O.c.id == P("id")))
_STEP = insert(S)
_CLAIM = Q(
    sa.update(O).where(O.c.id == P("the_id"), O.c.fence == P("seen")).values(fence=P("fence"))
)
_POSTPONE = Q(
    sa.update(O).where(O.c.id == P("the_id"), O.c.ended_at.is_(None)).values(wake_at=P("wake_at"))
)
_PROGRESS = Q(
    sa.update(O)
    .where(O.c.id == P("the_id"), O.c.seq == P("the_seq"), O.c.state == WAITING)
    .values(progress=P("progress"), heard=O.c.sends)
)
_DUE = Q(
    sa.select(O.c.id).where(O.c.wake_at <= P("now")).order_by(O.c.wake_at).limit(P("the_limit"))
)
_WAITS_FOR_HOST = sa.and_(O.c.wake_at > P("at"), O.c.waits_for == ANSWER, O.c.host == P("the_host"))
_WAITING_FOR = Q(sa.select(O.c.id).where(_WAITS_FOR_HOST))
_WAITING_FOR_ANY = Q(
    sa.select(O.c.id).where(O.c.wake_at > P("at"), O.c.waits_for == ANSWER).limit(1)
)
_HURRY = Q(sa.update(O).where(_WAITS_FOR_HOST).values(wake_at=P("at"), heard=O.c.sends))
_NEXT = Q(sa.select(sa.func.min(O.c.wake_at)).where(O.c.wake_at.isnot(None)))
_WAITING = Q(sa.select(sa.func.count()).where(O.c.wake_at.isnot(None), O.c.state == WAITING))
_LIVE_OF = Q(
    sa.select(O)
    .where(O.c.resource == P("resource"), O.c.ended_at.is_(None))
    .order_by(O.c.accepted_at)
)
_OLDER = Q(
    sa.select(O.c.id)
    .where(O.c.resource == P("resource"), O.c.ended_at.is_(None), O.c.epoch < P("epoch"))
    .limit(1)
)
_NEIGHBOURS = Q(
    sa.select(O.c.id).where(
        O.c.resource == P("resource"), O.c.ended_at.is_(None), O.c.id != P("but")
    )
)
_HOSTS = Q(
    sa.select(S.c.host).where(S.c.operation == P("operation"), S.c.host.isnot(None)).distinct()
)
_GET = Q(sa.select(O).where(O.c.id == P("id")))
_STEPS = Q(sa.select(S).where(S.c.operation == P("operation")).order_by(S.c.seq))
_CANCEL = Q(
    sa.update(O)
    .where(O.c.id == P("the_id"), O.c.ended_at.is_(None))
    .values(
        cancel_requested=1,
        wake_at=sa.case(
            (sa.and_(O.c.state == WAITING, O.c.direction == DO), P("now")), else_=O.c.wake_at
        ),
    )
)


def _fence(upsert: Any) -> Any:
    q = upsert(F).values({c.name: P(c.name) for c in F.c})
    return q.on_conflict_do_update(
        index_elements=[F.c.operation],
        set_={n: q.excluded[n] for n in ("fence", "seq", "updated_at")},
        where=sa.or_(
            q.excluded.fence > F.c.fence,
            sa.and_(q.excluded.fence == F.c.fence, q.excluded.seq >= F.c.seq),
        ),
    )


def _fence_on_postgresql() -> Any:
    from sqlalchemy.dialects.postgresql import insert as upsert

    return _fence(upsert)


def _fence_on_mysql() -> Any:
    """Insert what is not fenced off: nothing is touched when it is."""
    from sqlalchemy.dialects import mysql

    given, old = {c.name: P(c.name, type_=c.type) for c in F.c}, F.alias("old")
    newer = sa.or_(
        old.c.fence > given["fence"],
        sa.and_(old.c.fence == given["fence"], old.c.seq > given["seq"]),
    )
    fenced = sa.select(old.c.seq).where(old.c.operation == given["operation"], newer).exists()
    names = list(given)
    row = sa.select(*(given[n].label(n) for n in names)).where(~fenced)
    q = mysql.insert(F).from_select(names, row)
    return q.on_duplicate_key_update({n: q.inserted[n] for n in ("fence", "seq", "updated_at")})


_FENCE = Q(_fence(sqlite.insert), postgresql=_fence_on_postgresql, mysql=_fence_on_mysql)
_NEWEST_FENCE = Q(
    sa.select(
        _NEWEST,
        sa.select(sa.func.coalesce(sa.func.max(O.c.fence), 0))
        .where(O.c.wake_at.isnot(None))
        .scalar_subquery(),
    )
)
_BORN = insert(I)
_OLDER_DIE = Q(
    sa.update(I).where(I.c.fence < P("mine"), I.c.ended_at.is_(None)).values(ended_at=P("now"))
)
_FORGET_OLD = Q(sa.delete(I).where(I.c.fence < P("mine"), I.c.ended_at < P("before")))
_BYE = Q(sa.update(I).where(I.c.fence == P("mine")).values(ended_at=P("now")))
_INHERIT = Q(
    sa.update(O)
    .where(O.c.wake_at.isnot(None))
    .values(
        fence=P("mine"),
        owner=None,
        wake_at=P("now"),
        # silence towards a process that died is not the host's: a parked undo needs three sends of one owner
        sends=sa.case((O.c.sends > 1, 1), else_=O.c.sends),
        deadline=sa.case((O.c.deadline < P("grace"), P("grace")), else_=O.c.deadline),
    )
)
_SHIFT = Q(
    sa.update(O)
    .where(O.c.wake_at.isnot(None))
    .values(
        wake_at=O.c.wake_at + P("by"),
        deadline=O.c.deadline + P("by"),
        ends_by=O.c.ends_by + P("by"),
    )
)

_CONTEXT = msgspec.json.Decoder(Context)
_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.decode


def _at_rest(context: Context) -> Context:
    """An id that was reserved for one request is nobody's afterwards."""
    return context if context.operation is None else context.replace(operation=None)


def accept(
    tx: Tx,
    *,
    id: str,
    kind: str,
    version: int,
    resource: str,
    epoch: int,
    project_id: str | None,
    context: Context,
    params: Versioned,
    deadline_s: float | None = None,
    now: float | None = None,
    nudge: Callable[[str, str], None] | None = None,
) -> None:
    """Journal an operation with the intent of its first step; the commit of ``tx`` is the acceptance.

    deadline_s: seconds after which the operation unwinds at the next step boundary (None: never).
    now: seconds since the epoch (None: the machine's clock). nudge(database, id) is called after the commit.
    Raises BadRequest for an id that is no UUID, ValueError for a definition that this release does not know.
    """
    saga = find(kind, version)
    if saga is None:
        raise ValueError(f"no saga {kind} {version} is registered")
    if not is_uuid(id) or not resource:
        raise BadRequest("An operation needs a UUID and a resource.")
    if type(params) is not saga.params:
        raise TypeError(f"{kind} takes {saga.params.__name__}, not {type(params).__name__}")
    at = time.time() if now is None else now
    first = saga.steps[0]
    tx.put(
        _ACCEPT,
        id=id,
        kind=kind,
        version=version,
        resource=resource,
        epoch=epoch,
        project_id=project_id,
        request_id=context.request_id,
        state=READY,
        direction=DO,
        step=first.name,
        seq=1,
        attempt=1,
        tries=0,
        sends=0,
        heard=0,
        wake_at=at,
        started_at=at,
        deadline=None,
        ends_by=None if deadline_s is None else at + deadline_s,
        cancel_requested=0,
        context=_json_encode(_at_rest(context)),
        params=encode(params),
        outputs=b"{}",
        accepted_at=at,
        updated_at=at,
    )
    if nudge is not None:
        tx.after_commit(partial(nudge, tx.database.name, id))


def find_row(tx: Tx, id: str) -> Row | None:
    """Return the row of an operation, or None."""
    return tx.one(_GET, id=id)


def get(tx: Tx, id: str) -> Row:
    """Return the row of an operation; NotFound if there is none (any more)."""
    row = tx.one(_GET, id=id)
    if row is None:
        raise NotFound(f"Operation {id} could not be found.")
    return row


def steps_of(tx: Tx, id: str) -> list[Row]:
    """Return the tries of steps that ended, in order; empty once they are folded."""
    return tx.all(_STEPS, operation=id)


def live_of(tx: Tx, resource: str) -> list[Row]:
    """Return the operations of a resource that have not ended, oldest first."""
    return tx.all(_LIVE_OF, resource=resource)


def list_(
    tx: Tx,
    *,
    project_id: str | None = None,
    resource: str | None = None,
    state: str | None = None,
    live: bool | None = None,
    kind: str | None = None,
    limit: int = 100,
    before: tuple[float, str] | None = None,
) -> list[Row]:
    """Return operations, newest first. before: (accepted_at, id) of the last one of the page before.

    state may be ``unwinding`` too: live and on its way back.
    """
    # Of live ones there are few: found by their own index, sorted afterwards.
    at = O.c.accepted_at + 0.0 if live else O.c.accepted_at
    q = sa.select(O).order_by(at.desc(), O.c.id.desc()).limit(limit)
    if project_id is not None:
        q = q.where(O.c.project_id == project_id)
    if resource is not None:
        q = q.where(O.c.resource == resource)
    if state == "unwinding":
        q = q.where(O.c.direction == UNDO, O.c.wake_at.isnot(None))
    elif state is not None:
        q = q.where(O.c.state == state)
    if kind is not None:
        q = q.where(O.c.kind == kind)
    if live is not None:
        q = q.where(O.c.wake_at.isnot(None) if live else O.c.ended_at.isnot(None))
    if before is not None:
        moment, id = before
        same = sa.and_(O.c.accepted_at == moment, O.c.id < id)
        q = q.where(sa.or_(O.c.accepted_at < moment, same))
    return tx.select(q)


def request_cancel(
    tx: Tx, id: str, now: float | None = None, nudge: Callable[[str, str], None] | None = None
) -> bool:
    """Ask an operation to unwind at its next step boundary (a waiting one at once); repeatable.

    Returns False when it has ended. Past its point of no return, or when its saga is not cancellable, it goes on.
    """
    asked = tx.run(_CANCEL, the_id=id, now=time.time() if now is None else now) == 1
    if asked and nudge is not None:
        tx.after_commit(partial(nudge, tx.database.name, id))
    return asked


def fence_foreign(tx: Tx, operation: str, fence: int, seq: int, now: float | None = None) -> None:
    """Open a step's transaction in a database that is not the operation's home; must be its first statement.

    Repeating a step (same fence and seq) passes; raises Fenced when a newer owner or a later step wrote here.
    """
    at = time.time() if now is None else now
    if tx.run(_FENCE, operation=operation, fence=fence, seq=seq, updated_at=at) < 1:
        raise Fenced("The operation moved on.", operation=operation, fence=fence, seq=seq)


# What follows is for the engine.


def take_over(tx: Tx, name: str, now: float) -> int:
    """Become the owner of this database's operations; every older incarnation is dead. Returns the new fence.

    Only for who holds the lock on the state directory. Steps in doubt are repeated: all live operations become due,
    with at least 30 s until their deadline, because their answers could not reach anybody.
    """
    mine: int = max(tx.one(_NEWEST_FENCE) or (0,)) + 1
    tx.put(_OLDER_DIE, mine=mine, now=now)
    tx.put(_FORGET_OLD, mine=mine, before=now - 30 * 86400)
    tx.put(_BORN, fence=mine, name=name, started_at=now, renewed_at=now, ended_at=None)
    tx.put(_INHERIT, mine=mine, now=now, grace=now + 30.0)
    return mine


def retire(tx: Tx, fence: int, now: float) -> None:
    """Say that an incarnation ended in order."""
    tx.put(_BYE, mine=fence, now=now)


def load(tx: Tx, id: str) -> Live | Row | None:
    """Return an operation to work on; None when missing; its row when this release does not know its definition."""
    row = tx.one(_LOAD, id=id)
    if row is None:
        return None
    saga = find(row["kind"], row["version"])
    if saga is None or (row["step"] and row["step"] not in saga.positions):
        return row
    context: Context = _CONTEXT.decode(row["context"]) if row["context"] else Context(request_id="")
    params: Any = decode(row["params"], saga.params) if row["params"] else None
    live = Live(tx.database.name, row, saga, params, context)
    n = len(STATE_COLUMNS)
    values = dict(zip(STATE_COLUMNS, row[:n], strict=True))
    values["outputs"] = _json_decode(values["outputs"]) if values["outputs"] else {}
    live.state = State(**values)
    return live


def save(tx: Tx, live: Live, state: State, now: float) -> bool:
    """Write a transition; False when somebody asked to cancel meanwhile (nothing is written then).

    Raises Fenced when the operation is not ours any more. One that is nobody's yet becomes ours with its first
    transition, if nobody was faster and we are not declared dead.
    """
    values = {n: getattr(state, n) for n in STATE_COLUMNS}
    values["outputs"] = _json_encode(state.outputs)
    changed = tx.run(
        _SAVE_AND_OWN if live.unowned else _SAVE,
        the_id=live.id,
        the_fence=live.fence,
        the_cancel=1 if live.cancelled else 0,
        owner=live.owner,
        updated_at=now,
        **values,
    )
    if changed == 1:
        return True
    row = tx.one(_CHECK, id=live.id)
    ours = row is not None and row["fence"] == live.fence - (1 if live.unowned else 0)
    stands = row is not None and bool(row["cancel_requested"]) == live.cancelled
    if not ours or (live.unowned and stands):
        raise Fenced("The operation has another owner.", operation=live.id, fence=live.fence)
    return False


def add_step(tx: Tx, live: Live, state: str, now: float, error: str | None = None) -> None:
    """Keep what became of the current try of the current step."""
    s = live.state
    tx.put(
        _STEP,
        operation=live.id,
        seq=s.seq,
        step=s.step or "unwound",
        direction=s.direction,
        attempt=s.attempt,
        tries=s.tries,
        state=state,
        started_at=s.started_at,
        ended_at=now,
        host=s.host,
        error=error,
    )


def claim(tx: Tx, id: str, *, seen: int, fence: int) -> bool:
    """Take an operation by compare-and-swap on its fence; False when somebody was faster."""
    return tx.run(_CLAIM, the_id=id, seen=seen, fence=fence) == 1


def postpone(tx: Tx, id: str, wake_at: float) -> None:
    """Leave an operation alone until ``wake_at``."""
    tx.put(_POSTPONE, the_id=id, wake_at=wake_at)


def progress(tx: Tx, id: str, seq: int, text: str | None) -> None:
    """Keep what a host says about an order that it still performs."""
    tx.put(_PROGRESS, the_id=id, the_seq=seq, progress=text)


def due(tx: Tx, now: float, limit: int = 500) -> list[str]:
    """Return ids of operations that are ready, due, or seem forgotten; one indexed query."""
    return [r[0] for r in tx.all(_DUE, now=now, the_limit=limit)]


def waits_for(tx: Tx, host: str, at: float) -> bool:
    """Tell whether ``hurry`` would find anything: one question."""
    return tx.one(_WAITING_FOR, the_host=host, at=at) is not None


def waits_for_any(tx: Tx, at: float) -> bool:
    """Tell whether ``hurry`` would find anything for any host."""
    return tx.one(_WAITING_FOR_ANY, at=at) is not None


def hurry(tx: Tx, host: str, at: float) -> list[str]:
    """Have what waits for a host that listens again send its order at ``at``; return the ids.

    What was sent before does not count as unheard.
    """
    found = [r[0] for r in tx.all(_WAITING_FOR, the_host=host, at=at)]
    if found:
        tx.put(_HURRY, the_host=host, at=at)
    return found


def next_wake(tx: Tx) -> float | None:
    """Return when the next operation is due, seconds since the epoch; None when none is live."""
    at: float | None = tx.value(_NEXT)
    return at


def waiting(tx: Tx) -> int:
    """Return how many operations wait."""
    n: int = tx.value(_WAITING)
    return n


def waits_its_turn(tx: Tx, resource: str, epoch: int) -> bool:
    """Tell whether an operation of a lower epoch on the resource has not ended."""
    return tx.one(_OLDER, resource=resource, epoch=epoch) is not None


def neighbours(tx: Tx, resource: str, but: str) -> list[str]:
    """Return ids of other live operations of a resource (they may wait for this one to end)."""
    return [r[0] for r in tx.all(_NEIGHBOURS, resource=resource, but=but)]


def hosts_of(tx: Tx, id: str) -> list[str]:
    """Return the hosts that an operation ordered to do something."""
    return [r[0] for r in tx.all(_HOSTS, operation=id)]


def shift(tx: Tx, by_s: float) -> None:
    """Move every wake-up and deadline: the machine's clock jumped."""
    tx.put(_SHIFT, by=by_s)
