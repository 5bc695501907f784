"""Tables of the global database: what concerns all cells.

``server_mapping`` decides where a server is and whether it is seen; it is written at accept and removed last.
``requested`` is the server as asked for, a RequestedServer; while ``cell`` is NULL every read renders from it.
"""

import sqlalchemy as sa

from kilonova.db.schema.common import add_notification, add_secret

METADATA = sa.MetaData()


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


cell = sa.Table(
    "cell",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    _text("uuid"),
    _text("url"),
    sa.Column("disabled", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

host_mapping = sa.Table(
    "host_mapping",
    METADATA,
    sa.Column("host", sa.Text, primary_key=True),
    _text("cell"),
    _text("host_id"),
    sa.Index("ix_host_mapping_cell", "cell"),
)

server_mapping = sa.Table(
    "server_mapping",
    METADATA,
    sa.Column("server", sa.Text, primary_key=True),
    _text("project_id"),
    _text("user_id"),
    _text("cell", null=True),
    _text("host", null=True),
    _text("server_group", null=True),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("memory_mib", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("requested", sa.LargeBinary, nullable=False),
    sa.Column("delete_requested", sa.Integer, nullable=False),
    sa.Column(
        "soft_deleted", sa.Integer, nullable=False, server_default="0"
    ),  # then no quota counts it
    sa.Column("create_operation", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
sa.Index("ix_mapping_project", server_mapping.c.project_id, server_mapping.c.created_at)
sa.Index("ix_mapping_host", server_mapping.c.host)
sa.Index("ix_mapping_group", server_mapping.c.server_group)
sa.Index(
    "ix_mapping_unplaced",
    server_mapping.c.created_at,
    sqlite_where=server_mapping.c.cell.is_(None),
    info={"where": server_mapping.c.cell.is_(None)},
)

flavor = sa.Table(
    "flavor",
    METADATA,
    sa.Column("flavorid", sa.Text, primary_key=True),
    _text("name"),
    sa.Column("memory_mib", sa.Integer, nullable=False),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("root_gib", sa.Integer, nullable=False),
    sa.Column("ephemeral_gib", sa.Integer, nullable=False),
    sa.Column("swap_mib", sa.Integer, nullable=False),
    sa.Column("rxtx_factor", sa.Float, nullable=False),
    sa.Column("is_public", sa.Integer, nullable=False),
    sa.Column("disabled", sa.Integer, nullable=False),
    _text("description", null=True),
    _text("extra_specs"),  # JSON object
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("name", name="uq_flavor_name"),
)

flavor_access = sa.Table(
    "flavor_access",
    METADATA,
    sa.Column(
        "flavorid", sa.Text, sa.ForeignKey("flavor.flavorid", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("project_id", sa.Text, primary_key=True),
)

keypair = sa.Table(
    "keypair",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    _text("user_id"),
    _text("name"),
    _text("type"),
    _text("fingerprint"),
    _text("public_key"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("user_id", "name", name="uq_keypair"),
)

quota_limit = sa.Table(
    "quota_limit",
    METADATA,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column(
        "user_id", sa.Text, primary_key=True
    ),  # "" = the whole project; "class:default" rows have project ""
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("hard_limit", sa.Integer, nullable=False),
)

aggregate = sa.Table(
    "aggregate",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    _text("uuid"),
    _text("name"),
    _text("metadata"),  # JSON object; availability_zone is one of its keys
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
    sa.UniqueConstraint("name", name="uq_aggregate_name"),
    sa.UniqueConstraint("uuid", name="uq_aggregate_uuid"),
)

aggregate_host = sa.Table(
    "aggregate_host",
    METADATA,
    sa.Column(
        "aggregate", sa.Integer, sa.ForeignKey("aggregate.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("host", sa.Text, primary_key=True),
    sa.Index("ix_aggregate_host", "host"),
)

server_group = sa.Table(
    "server_group",
    METADATA,
    sa.Column("uuid", sa.Text, primary_key=True),
    _text("project_id"),
    _text("user_id"),
    _text("name"),
    _text("policy"),
    _text("rules"),  # JSON object
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("ix_group_project", "project_id"),
)

idempotency = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("project_id", sa.Text, primary_key=True, info={"length": 64}),
    sa.Column("user_id", sa.Text, primary_key=True, info={"length": 64}),
    sa.Column("method", sa.Text, primary_key=True, info={"length": 16}),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    _text("body_hash"),
    _text("minted"),  # JSON: ids that this request uses, whoever finishes it
    sa.Column("status", sa.Integer),  # NULL while in progress
    sa.Column("answer", sa.LargeBinary),
    _text("location", null=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("ix_idempotency_age", "created_at"),
)

service_process = sa.Table(
    "service_process",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),  # of one start of one process, never used again
    _text("role"),  # all, api, conductor, console
    _text("host"),
    _text("release"),
    _text("versions"),  # JSON manifest
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)

setting = sa.Table(
    "setting",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    _text("value"),
)

secret = add_secret(METADATA)
notification = add_notification(METADATA)
