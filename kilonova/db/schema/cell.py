"""Tables of a cell's database: servers and all that belongs to one server, and the cell's hosts.

JSON columns are stored encoded and pass through to the answer. Deleted servers stay, compact, with ``deleted`` = 1.
"""

import sqlalchemy as sa

from kilonova.db.schema.common import add_notification, add_secret

METADATA = sa.MetaData()


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


server = sa.Table(
    "server",
    METADATA,
    sa.Column("uuid", sa.Text, primary_key=True),
    _text("project_id"),
    _text("user_id"),
    _text("name"),
    _text("description", null=True),
    _text("hostname"),
    _text("vm_state"),
    _text("task_state", null=True),
    sa.Column("power_state", sa.Integer, nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    _text("host", null=True),
    _text("node", null=True),
    _text("availability_zone", null=True),
    _text("requested_zone", null=True),
    _text("image_id"),  # "" when it boots from a volume
    _text("flavor"),  # JSON: FlavorRecord, frozen at build
    _text("key_name", null=True),
    _text("config_drive"),  # "" or "True", as the API says it
    _text("access_ip_v4"),
    _text("access_ip_v6"),
    _text("metadata"),  # JSON object
    _text("tags"),  # JSON array, sorted
    _text("addresses"),  # JSON: network label -> list of addresses, as the API shows it
    _text("security_groups"),  # JSON: [{"name": ...}]
    _text("nics"),  # JSON: list of NicRecord
    _text("disks"),  # JSON: list of disks as ordered
    _text("hardware"),  # JSON: Hardware as the host reported it
    _text("devices"),  # JSON: list of DeviceAddress
    _text("keys"),  # JSON: [[name, type, public key], ...]
    _text("trusted_certs"),  # JSON array or "null"
    _text("system_metadata"),  # JSON object, never shown
    _text("locked_by", null=True),  # "owner" or "admin"
    _text("locked_reason", null=True),
    _text("reservation_id"),
    sa.Column("launch_index", sa.Integer, nullable=False),
    _text("root_device"),
    _text("user_data", null=True),  # id of a secret
    _text("server_group", null=True),
    sa.Column("metadata_generation", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("hidden", sa.Integer, nullable=False),
    sa.Column("deleted", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
    sa.Column("launched_at", sa.Float),
    sa.Column("terminated_at", sa.Float),
)
sa.Index(
    "ix_server_project", server.c.deleted, server.c.project_id, server.c.created_at, server.c.uuid
)
sa.Index("ix_server_created", server.c.deleted, server.c.created_at, server.c.uuid)
sa.Index("ix_server_host", server.c.host, server.c.deleted)
sa.Index("ix_server_changes", server.c.project_id, server.c.updated_at)
sa.Index("ix_server_updated", server.c.updated_at)
sa.Index("ix_server_ended", server.c.deleted, server.c.terminated_at)

server_tag = sa.Table(
    "server_tag",
    METADATA,
    sa.Column(
        "server", sa.Text, sa.ForeignKey("server.uuid", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Index("ix_tag", "tag"),
    sqlite_with_rowid=False,
)

fault = sa.Table(
    "fault",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("server", sa.Text, nullable=False),
    sa.Column("code", sa.Integer, nullable=False),
    _text("message"),
    _text("details"),
    _text("host", null=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("ix_fault_server", "server", "created_at"),
)

instance_action = sa.Table(
    "instance_action",
    METADATA,
    sa.Column("operation", sa.Text, primary_key=True),
    _text("server"),
    _text("action"),
    _text("request_id"),
    _text("user_id"),
    _text("project_id"),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("updated_at", sa.Float, nullable=False),
    _text("message", null=True),
    sa.Index("ix_action_server", "server", "started_at"),
    sa.Index("ix_action_request", "request_id"),
    sqlite_with_rowid=False,
)

action_event = sa.Table(
    "action_event",
    METADATA,
    sa.Column("operation", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    _text("event"),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    _text("result", null=True),  # Success, Error
    _text("host", null=True),
    _text("details", null=True),
    _text("traceback", null=True),
    sqlite_with_rowid=False,
)

host = sa.Table(
    "host",
    METADATA,
    sa.Column("host", sa.Text, primary_key=True),
    _text("uuid"),  # also the id of its service, hypervisor and root resource provider
    sa.Column("id", sa.Integer, nullable=False),  # integer id for microversions before 2.53
    _text("host_id"),
    _text("boot_id"),
    _text("journal_id"),
    _text("driver"),
    _text("release"),
    _text("versions"),  # JSON manifest
    _text("inventory"),  # JSON Inventory
    _text("digest"),
    sa.Column("disabled", sa.Integer, nullable=False),
    _text("disabled_reason", null=True),
    sa.Column("forced_down", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

cleanup = sa.Table(
    "cleanup",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    _text("host"),
    _text("server"),
    _text("operation"),
    sa.Column("order", sa.LargeBinary, nullable=False),
    _text("holds"),  # JSON: what stays held until it is done (allocation consumers)
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    _text("last_error", null=True),
    sa.Index("ix_cleanup_host", "host"),
    sa.Index("ix_cleanup_server", "server"),
)

migration = sa.Table(
    "migration",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column(
        "uuid", sa.Text, nullable=False, unique=True
    ),  # also the consumer that keeps the old claim
    _text("server"),
    _text("project_id"),
    _text("user_id"),
    _text("operation"),  # the one that moves; a later confirm or revert has its own
    _text("kind"),  # resize, migration, live-migration, evacuation
    _text("status"),  # accepted, migrating, finished, confirmed, reverted, error …
    _text("source_host"),
    _text("source_node"),
    _text("dest_host", null=True),
    _text("dest_node", null=True),
    _text("old_flavor"),  # JSON: FlavorRecord
    _text("new_flavor"),
    _text("old_disks"),  # JSON: disks as the row had them
    _text("old_vm_state"),
    sa.Column("cross_cell", sa.Integer, nullable=False),
    sa.Column("hidden", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("ix_migration_server", "server", "status"),
    sa.Index("ix_migration_status", "status", "updated_at"),
)

console_token = sa.Table(
    "console_token",
    METADATA,
    sa.Column(
        "digest", sa.Text, primary_key=True
    ),  # SHA-256 of the token; the token is never stored
    _text("server"),
    _text("host"),
    _text("kind"),  # vnc, serial
    _text("boot"),  # of the guest: a console is of one run only
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Index("ix_console_token_expires", "expires_at"),
)

secret = add_secret(METADATA)
notification = add_notification(METADATA)
