"""Tables of the embedded volume service, in one SQLite file of its own; it is a home of the engine, with a journal.

Times are seconds since the epoch, sizes GiB. JSON columns hold what msgspec encoded. What a host keeps follows from
``volume.host``; exports are desired state per host with a generation (kilonova/objects/volume_orders.py).
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Float, Index, Integer, Table, Text

from kilonova.saga.schema import add_tables as add_journal

metadata = sa.MetaData()


def _standard() -> list[Column[Any]]:
    return [
        Column("id", Text, primary_key=True),
        Column("project_id", Text, nullable=False),
        Column("user_id", Text, nullable=False, server_default=""),
        Column("name", Text, nullable=False, server_default=""),
        Column("description", Text),
        Column("status", Text, nullable=False),
        Column("metadata", Text, nullable=False, server_default="{}"),
        Column("operation", Text, nullable=False, server_default=""),  # (operation, item): its key
        Column("item", Text, nullable=False, server_default=""),
        Column("created_at", Float, nullable=False),
        Column("updated_at", Float, nullable=False),
    ]


TARGET = "target:"
"""Begins a volume's migration_status: it is what another one becomes, and no volume of its own yet."""
volume = Table(
    "volume",
    metadata,
    *_standard(),
    Column("size_gib", Integer, nullable=False),
    Column("new_size_gib", Integer),  # while it is extended: what quota counts
    Column("previous_status", Text),  # what an unwound operation restores
    Column("type_id", Text),
    Column("zone", Text, nullable=False, server_default="nova"),
    Column("host", Text, nullable=False, server_default=""),
    Column("bootable", Integer, nullable=False, server_default="0"),
    Column("multiattach", Integer, nullable=False, server_default="0"),
    Column("readonly", Integer, nullable=False, server_default="0"),
    Column("readonly_said", Integer, nullable=False, server_default="0"),  # then it is shown
    Column("image", Text, nullable=False, server_default="{}"),  # volume_image_metadata
    Column("image_id", Text),  # what it is made from: at most one of these
    Column("snapshot_id", Text),
    Column("source_volid", Text),
    Column("backup_id", Text),
    Column("path", Text, nullable=False, server_default=""),
    Column("format", Text, nullable=False, server_default="qcow2"),
    Column("epoch", Integer, nullable=False, server_default="1"),
    Column("export_generation", Integer, nullable=False, server_default="0"),
    Column("migration_status", Text),  # Cinder's; "target:<id>": data that become that volume's
    Column("migration_host", Text, nullable=False, server_default=""),  # it has the room too
    Index("volume_project", "project_id", "created_at", "id"),
    Index("volume_created", "created_at", "id"),
    Index("volume_host", "host"),
    Index("volume_key", "operation", "item"),
)
OF_ITS_OWN = sa.func.coalesce(volume.c.migration_status, "").not_like(f"{TARGET}%")
"""Of what is no target: what lists show and quotas count."""
attachment = Table(
    "attachment",
    metadata,
    Column("id", Text, primary_key=True),
    Column("volume_id", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("server_id", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False),
    Column("mode", Text, nullable=False, server_default="rw"),
    Column("mountpoint", Text),
    Column("host", Text, nullable=False, server_default=""),  # of the connector
    Column("connector", Text, nullable=False, server_default="null"),
    Column("export_name", Text, nullable=False, server_default=""),
    Column("attached_at", Float),
    Column("operation", Text, nullable=False, server_default=""),
    Column("item", Text, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("attachment_volume", "volume_id"),
    Index("attachment_server", "server_id"),
    Index("attachment_key", "operation", "item"),
)
snapshot = Table(
    "snapshot",
    metadata,
    *_standard(),
    Column("volume_id", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("size_gib", Integer, nullable=False),
    Index("snapshot_project", "project_id", "created_at", "id"),
    Index("snapshot_volume", "volume_id"),
    Index("snapshot_key", "operation", "item"),
)
backup = Table(
    "backup",
    metadata,
    *_standard(),
    Column("volume_id", Text, nullable=False),
    Column("snapshot_id", Text),
    Column("container", Text, nullable=False),
    Column("location", Text),  # what its target needs to find it again
    Column("size_gib", Integer, nullable=False),
    Column("fail_reason", Text),
    Column("volume", Text, nullable=False, server_default="{}"),  # what a restore gives back
    Column("zone", Text, nullable=False, server_default="nova"),
    Column("parent_id", Text),  # of an incremental one: what it adds to
    Column("host", Text, nullable=False, server_default=""),  # that wrote it
    Column(
        "size_bytes", Integer, nullable=False, server_default="0"
    ),  # of what no image service keeps a record of:
    Column("hash_value", Text),  # SHA-512
    Index("backup_project", "project_id", "created_at", "id"),
    Index("backup_parent", "parent_id"),
)
volume_type = Table(
    "volume_type",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text),
    Column("is_public", Integer, nullable=False, server_default="1"),
    Column("extra_specs", Text, nullable=False, server_default="{}"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)
type_access = Table(
    "type_access",
    metadata,
    Column("type_id", Text, primary_key=True),
    Column("project_id", Text, primary_key=True),
)
default_type = Table(
    "default_type",
    metadata,
    Column("project_id", Text, primary_key=True),
    Column("type_id", Text, nullable=False),
)
quota = Table(
    "quota",
    metadata,
    Column("kind", Text, primary_key=True),  # "project" or "class"
    Column("owner", Text, primary_key=True),
    Column("resource", Text, primary_key=True),
    Column("amount", Integer, nullable=False),
)
transfer = Table(
    "transfer",
    metadata,
    Column("id", Text, primary_key=True),
    Column("volume_id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("salt", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("no_snapshots", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
)
message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_uuid", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("message_project", "project_id", "created_at", "id"),
)
export_host = Table(
    "export_host",
    metadata,
    Column("host", Text, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("applied", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("failed", Text, nullable=False),
    Column("tls_name", Text, nullable=False, server_default=""),
    Column("ports", Text, nullable=False, server_default="[]"),
)
service = Table(
    "service",
    metadata,
    Column("host", Text, primary_key=True),
    Column("disabled", Integer, nullable=False),
    Column("reason", Text),
    Column("updated_at", Float, nullable=False),
)
cleanup = Table(
    "cleanup",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("volume_id", Text, nullable=False),
    Column("size_gib", Integer, nullable=False),  # of the pool: held until the host confirms
    Column("order", sa.LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("last_error", Text),
)
add_journal(metadata)
