"""Which schema a database file has; create it, upgrade it forward, refuse one that is newer than we are.

Upgrades live in ``db/upgrades/`` as functions of an Alembic ``Operations``; Alembic is imported only when one runs.
They run with foreign keys off and a check after (a batch change of a parent table would else empty its children),
over a copy of the file that is kept until the check passed.
"""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from kilonova.common.errors import Conflict
from kilonova.db.engine import Database
from kilonova.db.sql import SQLITE
from kilonova.db.sqlite import SqliteDatabase

Upgrade = Callable[[Any], None]


def ensure(db: Database, metadata: sa.MetaData, upgrades: Sequence[Upgrade] = ()) -> None:
    """Bring ``db`` to the newest schema: version = 1 + number of upgrades. Safe to repeat.

    Raises Conflict when it was written by a newer release.
    """
    if not isinstance(db, SqliteDatabase):
        from kilonova.db import server_schema
        from kilonova.db.server import ServerDatabase

        assert isinstance(db, ServerDatabase)  # noqa: S101 - there are no others
        server_schema.ensure(db, metadata, upgrades)
        return
    head = 1 + len(upgrades)
    found = db.version()
    if found == head:
        return
    if found > head:
        raise Conflict(
            f"The database {db.name} has schema version {found}; this release knows {head}. "
            "Start the newer release that wrote it, or restore a backup."
        )
    if found == 0:
        ddl = [str(CreateTable(t).compile(dialect=SQLITE)) for t in metadata.sorted_tables]
        ddl += [
            str(CreateIndex(i).compile(dialect=SQLITE))
            for t in metadata.sorted_tables
            for i in sorted(t.indexes, key=lambda i: str(i.name))
        ]
        db.script([*ddl, f"PRAGMA user_version={head}"])
        return
    _upgrade(db, upgrades[found - 1 :], head)


def _upgrade(db: SqliteDatabase, pending: Sequence[Upgrade], head: int) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    copy = db.path.with_suffix(".before-upgrade")
    with sqlite3.connect(db.path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    engine = sa.create_engine(f"sqlite:///{db.path}", isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as conn:
            conn.exec_driver_sql("PRAGMA foreign_keys=OFF")
            op = Operations(MigrationContext.configure(conn, opts={"render_as_batch": True}))
            for upgrade in pending:
                upgrade(op)
            broken = conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise Conflict(
                    f"The upgrade of {db.name} broke references; the file was put back.",
                    rows=len(broken),
                )
            conn.exec_driver_sql(f"PRAGMA user_version={head}")
    except BaseException:
        engine.dispose()
        shutil.copyfile(copy, db.path)
        raise
    engine.dispose()
    copy.unlink()
