"""Tables that every home database has."""

import sqlalchemy as sa


def add_secret(metadata: sa.MetaData) -> sa.Table:
    """Secrets by reference: AES-GCM under a key file outside the database (see db/secrets.py).

    owner: what ends the secret's life: an operation, an attachment or a server.
    """
    return sa.Table(
        "secret",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Index("ix_secret_owner", "owner"),
        sqlite_with_rowid=False,
    )


def add_notification(metadata: sa.MetaData) -> sa.Table:
    """What happened, in the order of commit: what subscribers are told (db/notifications.py).

    event: "<action>:start", ":end" or ":error" of a server's action, with the server's state of that moment; else the
    full name of the event, with its ``payload`` (JSON).
    """
    return sa.Table(
        "notification",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text),
        sa.Column("user_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("vm_state", sa.Text),
        sa.Column("task_state", sa.Text),
        sa.Column("power_state", sa.Integer),
        sa.Column("host", sa.Text),
        sa.Column("payload", sa.Text),
    )
