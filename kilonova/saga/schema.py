"""The journal's tables; every home database (the global one and each cell) has them.

All times are seconds since the epoch; JSON columns hold what msgspec encoded and pass through to the answer.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True)
class Tables:
    """The journal's tables in one MetaData."""

    operation: sa.Table
    step: sa.Table
    fence: sa.Table
    incarnation: sa.Table


def add_tables(metadata: sa.MetaData) -> Tables:
    """Add the journal to a home database's schema; call it once per MetaData."""
    return Tables(
        operation=_operation(metadata),
        step=_operation_step(metadata),
        fence=add_fence(metadata),
        incarnation=_incarnation(metadata),
    )


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("project_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("sends", sa.Integer, nullable=False),
        sa.Column("heard", sa.Integer, nullable=False),
        sa.Column("wake_at", sa.Float),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float),
        sa.Column("ends_by", sa.Float),
        sa.Column("waits_for", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("progress", sa.Text),
        sa.Column("last_error", sa.Text),
        sa.Column("retreat_to", sa.Text),
        sa.Column("cancel_requested", sa.Integer, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_details", sa.Text),
        sa.Column("context", sa.LargeBinary),
        sa.Column("params", sa.LargeBinary),
        sa.Column("outputs", sa.LargeBinary),
        sa.Column("accepted_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("folded", sa.LargeBinary),  # the steps as one JSON list, once folded
    ]


def _operation(metadata: sa.MetaData) -> sa.Table:
    """One row per operation.

    state: ready | running | waiting, and at the end done | failed | cancelled. direction undo = it unwinds.
    wake_at: when the sweep looks at it (NULL once ended); of a running one: when its owner is thought to have lost it.
    step, seq, direction, started_at, deadline: the intent. ends_by: limit of the whole operation.
    waits_for: answer | not_yet | retry | queue | turn. tries: failures of this step. sends: how often its
    order was sent; heard: how many of those the host had seen when it last said that it works on it.
    error_*: why it unwinds. last_error: what the current step said last, for people who look.
    """
    table = sa.Table("operation", metadata, *_columns())
    woken = table.c.wake_at.isnot(None)
    sa.Index("ix_operation_wake", table.c.wake_at, sqlite_where=woken, info={"where": woken})
    sa.Index("ix_operation_resource", table.c.resource, table.c.accepted_at)
    sa.Index("ix_operation_project", table.c.project_id, table.c.accepted_at)
    sa.Index("ix_operation_accepted", table.c.accepted_at)
    ended = table.c.ended_at.isnot(None)
    long = sa.and_(ended, table.c.folded.is_(None))
    sa.Index(
        "ix_operation_unfolded",
        *(table.c.state, table.c.ended_at),
        sqlite_where=long,
        info={"where": long},
    )
    sa.Index("ix_operation_ended", table.c.ended_at, sqlite_where=ended, info={"where": ended})
    return table


def _operation_step(metadata: sa.MetaData) -> sa.Table:
    """What became of each try of a step that ended; the one under way stands in ``operation``.

    state: done | failed | retreat | undone | parked | cancelled.
    """
    return sa.Table(
        "operation_step",
        metadata,
        sa.Column("operation", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("host", sa.Text),
        sa.Column("error", sa.Text),
        sqlite_with_rowid=False,
    )


def add_fence(metadata: sa.MetaData) -> sa.Table:
    """Add ``op_fence``: the highest (fence, seq) that wrote here for an operation whose home is elsewhere."""
    table = sa.Table(
        "op_fence",
        metadata,
        sa.Column("operation", sa.Text, primary_key=True),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    sa.Index("ix_op_fence_updated", table.c.updated_at)
    return table


def _incarnation(metadata: sa.MetaData) -> sa.Table:
    """Every start of a conductor on this database; ``fence`` only grows and names are never used again."""
    return sa.Table(
        "incarnation",
        metadata,
        sa.Column("fence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("renewed_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
    )


TABLES = add_tables(sa.MetaData())
"""The tables that statements are written against; their text is the same in every database."""
