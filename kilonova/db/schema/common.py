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
