"""Which schema a database of a server has; create it, upgrade it forward, refuse one that is newer than we are.

The version rests in the table ``schema_version``. Whoever comes first creates; the others wait for the server's lock.
PostgreSQL undoes a creation or an upgrade that fails; MariaDB's DDL cannot be undone, so that its creation is
repeatable, and an upgrade there wants a dump before it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.common.errors import Conflict
from kilonova.db import dialects
from kilonova.db.server import ServerDatabase, Session
from kilonova.db.sql import P, Q

Upgrade = Callable[[Any], None]
_LOCK = 711_504  # any number, the same in every process
_LOCK_S = 60
_METADATA = sa.MetaData()
_version = sa.Table(
    "schema_version",
    _METADATA,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
)
_GET = Q(sa.select(_version.c.version))
_FORGET = Q(sa.delete(_version))
_SET = Q(sa.insert(_version).values(one=1, version=P("version")))


def ensure(db: ServerDatabase, metadata: sa.MetaData, upgrades: Sequence[Upgrade] = ()) -> None:
    """Bring ``db`` to the newest schema: version = 1 + number of upgrades. Safe to repeat, and for several at once.

    Raises Conflict when a newer release wrote it, Unavailable when the server does not answer.
    """
    session = db.writers.take()
    try:
        _ensure(db, session, metadata, upgrades)
    except BaseException:
        db.writers.drop(session)  # which undoes, and unlocks
        raise
    db.writers.give(session)


def _ensure(
    db: ServerDatabase, session: Session, metadata: sa.MetaData, upgrades: Sequence[Upgrade]
) -> None:
    on_postgresql = db.backend.dialect.name == "postgresql"
    head = 1 + len(upgrades)
    if on_postgresql:
        session.command("BEGIN ISOLATION LEVEL READ COMMITTED")
        session.ask_once(f"SELECT pg_advisory_xact_lock({_LOCK})", ())
    else:
        session.ask_once(f"SELECT GET_LOCK(CONCAT(DATABASE(), '.schema'), {_LOCK_S})", ())
    for text in dialects.statements(_METADATA, db.backend.dialect):
        session.command(text)
    rows = session.ask(_GET.on(db.backend.dialect), {}).rows
    found = rows[0][0] if rows else 0
    if found > head:
        raise Conflict(
            f"The database {db.name} has schema version {found}; this release knows {head}. "
            "Start the newer release that wrote it, or restore a backup."
        )
    if found < head:
        if found == 0:
            for text in dialects.statements(metadata, db.backend.dialect):
                session.command(text)
        else:
            _upgrade(db, session, upgrades[found - 1 :])
        session.ask(_FORGET.on(db.backend.dialect), {})
        session.ask(_SET.on(db.backend.dialect), {"version": head})
    session.command("COMMIT")
    if not on_postgresql:
        session.ask_once("SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.schema'))", ())


def _upgrade(db: ServerDatabase, session: Session, pending: Sequence[Upgrade]) -> None:
    """Write the upgrades down as SQL for this kind of server, and run that."""
    import io

    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    written = io.StringIO()
    context = MigrationContext.configure(
        dialect=db.backend.dialect, opts={"as_sql": True, "output_buffer": written}
    )
    for upgrade in pending:
        upgrade(Operations(context))
    for text in written.getvalue().split(";\n\n"):
        if text.strip():
            session.command(text.strip().rstrip(";"))
