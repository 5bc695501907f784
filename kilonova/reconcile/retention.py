"""How long things are kept: journals, deleted servers 30 days, idempotency keys 24 hours. Bounded, chunk by chunk."""

import sqlalchemy as sa

from kilonova.db import notifications
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.schema import cell as c
from kilonova.db.schema import world as w
from kilonova.db.sql import P, Q
from kilonova.operations import events
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.picture import Picture
from kilonova.saga import history

EVERY_S = 3600.0
DAY_S = 86400.0
KEEP_DELETED_S = 30 * DAY_S
KEEP_KEYS_S = DAY_S
CHUNK = 100
_OLD_SERVERS = Q(
    sa.select(c.server.c.uuid)
    .where(c.server.c.deleted == 1, c.server.c.terminated_at < P("before"))
    .limit(P("the_limit"))
)
_ACTIONS = Q(
    sa.select(c.instance_action.c.operation).where(c.instance_action.c.server == P("server"))
)
_DROP_EVENTS = Q(sa.delete(c.action_event).where(c.action_event.c.operation == P("operation")))
_DROP_ACTIONS = Q(sa.delete(c.instance_action).where(c.instance_action.c.server == P("server")))
_DROP_FAULTS = Q(sa.delete(c.fault).where(c.fault.c.server == P("server")))
_DROP_SERVER = Q(sa.delete(c.server).where(c.server.c.uuid == P("server"), c.server.c.deleted == 1))
_DROP_KEYS = Q(sa.delete(w.idempotency).where(w.idempotency.c.created_at < P("before")))
_OLD_KEYS = Q(
    sa.select(sa.func.count())
    .select_from(w.idempotency)
    .where(w.idempotency.c.created_at < P("before"))
)


def look(picture: Picture) -> list[Finding]:
    """Find what should be gone for a day."""
    found, at = [], picture.at
    keys = picture.services.world.read(
        lambda tx: tx.value(_OLD_KEYS, before=at - KEEP_KEYS_S - DAY_S)
    )
    if keys:
        found.append(_behind("idempotency keys", "global", keys))
    before = at - KEEP_DELETED_S - DAY_S
    for name in picture.cells:
        rows = picture.services.cell(name).read(lambda tx: _old(tx, before))
        if rows:
            found.append(_behind("deleted servers", name, len(rows)))
    return found


def _behind(what: str, where: str, n: int) -> Finding:
    return Finding(
        kind="retention_behind",
        subject=what,
        where=where,
        message=f"{n} {what} or more are kept for longer than they should.",
        repair="They are purged within the hour.",
    )


def _old(tx: Tx, before: float) -> list[Row]:
    return tx.all(_OLD_SERVERS, before=before, the_limit=CHUNK)


_LONE_ACTIONS = Q(
    sa.select(c.instance_action.c.operation)
    .where(
        c.instance_action.c.finished_at < P("before"),
        sa.not_(sa.exists().where(c.server.c.uuid == c.instance_action.c.server)),
    )
    .limit(P("the_limit"))
)
_DROP_ACTION = Q(
    sa.delete(c.instance_action).where(c.instance_action.c.operation == P("operation"))
)


def purge_actions(db: Database, before: float) -> int:
    """Forget at most CHUNK old actions of servers that have no row here; return how many."""

    def some(tx: Tx) -> int:
        gone = tx.all(_LONE_ACTIONS, before=before, the_limit=CHUNK)
        for r in gone:
            tx.run(_DROP_EVENTS, operation=r[0])
            tx.run(_DROP_ACTION, operation=r[0])
        return len(gone)

    return db.write(some)


def purge_servers(db: Database, before: float, rounds: int = 100) -> int:
    """Forget servers that were deleted before a moment, with actions, events and faults; return how many."""
    total = 0

    def some(tx: Tx) -> int:
        gone = _old(tx, before)
        for r in gone:
            for action in tx.all(_ACTIONS, server=r[0]):
                tx.run(_DROP_EVENTS, operation=action[0])
            tx.run(_DROP_ACTIONS, server=r[0])
            tx.run(_DROP_FAULTS, server=r[0])
            tx.run(_DROP_SERVER, server=r[0])
        return len(gone)

    for _ in range(rounds):
        n = db.write(some)
        total += n
        if n == 0:
            break
    return total


def purge_events(db: Database, before: float, rounds: int = 100) -> int:
    """Forget what happened before a moment; return how much."""
    total = 0
    for _ in range(rounds):
        n = db.write(lambda tx: notifications.purge(tx, before))
        total += n
        if n == 0:
            break
    return total


def run(services: Services) -> list[Finding]:
    """Shrink the journals, purge what is old. At most 10,000 rows of each sort."""
    now = services.now()
    for db in services.homes().values():
        history.tidy(db, now)
    for db in services.cells.values():
        purge_servers(db, now - KEEP_DELETED_S)
        purge_actions(db, now - KEEP_DELETED_S)
    for db in (services.world, *services.cells.values()):
        purge_events(db, now - events.KEEP_S)
    services.world.write(lambda tx: tx.run(_DROP_KEYS, before=now - KEEP_KEYS_S))
    return []
