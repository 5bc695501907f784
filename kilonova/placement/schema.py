"""The tables of placement, in the global database.

Resource classes and traits stand in rows by name; the tables ``resource_class`` and ``trait`` hold the CUSTOM_ ones,
the standard ones come from os-resource-classes and os-traits. What is used is counted from ``allocation``, never kept.
``changed_at`` grows with every change of a provider, its inventory, traits, aggregates or allocations; a reader that
re-reads a few seconds of overlap misses nothing that a longer transaction does not hide, and the full comparison of
generations every 60 s finds that too.
"""

import sqlalchemy as sa

METADATA = sa.MetaData()


def _provider_fk(cascade: bool = True) -> sa.Column[int]:
    rule = sa.ForeignKey("resource_provider.id", ondelete="CASCADE" if cascade else "RESTRICT")
    return sa.Column("provider", sa.Integer, rule, primary_key=True)


resource_provider = sa.Table(
    "resource_provider",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("uuid", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("root", sa.Integer, nullable=False),  # id of the tree's root: its own for a root
    sa.Column("parent", sa.Integer),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Index("uq_provider_uuid", "uuid", unique=True),
    sa.Index("uq_provider_name", "name", unique=True),
    sa.Index("ix_provider_root", "root"),
    sa.Index("ix_provider_parent", "parent"),
    sa.Index("ix_provider_changed", "changed_at"),
)

inventory = sa.Table(
    "inventory",
    METADATA,
    _provider_fk(),
    sa.Column("resource_class", sa.Text, primary_key=True),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("reserved", sa.Integer, nullable=False),
    sa.Column("min_unit", sa.Integer, nullable=False),
    sa.Column("max_unit", sa.Integer, nullable=False),
    sa.Column("step_size", sa.Integer, nullable=False),
    sa.Column("allocation_ratio", sa.Float, nullable=False),
    sa.Index("ix_inventory_class", "resource_class"),
    sqlite_with_rowid=False,
)

provider_trait = sa.Table(
    "provider_trait",
    METADATA,
    _provider_fk(),
    sa.Column("trait", sa.Text, primary_key=True),
    sa.Index("ix_provider_trait", "trait"),
    sqlite_with_rowid=False,
)

provider_aggregate = sa.Table(
    "provider_aggregate",
    METADATA,
    _provider_fk(),
    sa.Column("aggregate", sa.Text, primary_key=True),  # UUID
    sa.Index("ix_provider_aggregate", "aggregate"),
    sqlite_with_rowid=False,
)

resource_class = sa.Table(
    "resource_class",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
)

trait = sa.Table(
    "trait",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
)

consumer = sa.Table(
    "consumer",
    METADATA,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column(
        "type", sa.Text, nullable=False
    ),  # INSTANCE, MIGRATION, …; "unknown" when nobody said
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("ix_consumer_project", "project_id", "user_id"),
    sqlite_with_rowid=False,
)

allocation = sa.Table(
    "allocation",
    METADATA,
    sa.Column("consumer", sa.Text, primary_key=True),
    _provider_fk(cascade=False),
    sa.Column("resource_class", sa.Text, primary_key=True),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Index("ix_allocation_provider", "provider", "resource_class", "used"),
    sqlite_with_rowid=False,
)

provider_gone = sa.Table(
    "provider_gone",
    METADATA,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Index("ix_provider_gone", "changed_at"),
)


def add_tables(metadata: sa.MetaData) -> None:
    """Add placement's tables to the global database's schema."""
    for table in METADATA.sorted_tables:
        table.to_metadata(metadata)
