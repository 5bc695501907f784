"""How files of the embedded volume service of earlier schema versions become what schema.py says."""

from typing import Any

import sqlalchemy as sa


def add_migration(op: Any) -> None:
    """Version 2: volumes that move between hosts, backups that add to others."""
    op.add_column("volume", sa.Column("migration_status", sa.Text))
    room = sa.Column("migration_host", sa.Text, nullable=False, server_default="")
    op.add_column("volume", room)
    op.add_column("backup", sa.Column("parent_id", sa.Text))


def add_backup_parent(op: Any) -> None:
    """Version 3: which backups add to one is found at once."""
    op.create_index("backup_parent", "backup", ["parent_id"])


def add_secure_exports(op: Any) -> None:
    """Version 4: exports with TLS, each volume's at a port of its own."""
    for name, default in (("tls_name", ""), ("ports", "[]")):
        column = sa.Column(name, sa.Text, nullable=False, server_default=default)
        op.add_column("export_host", column)


def add_backup_file(op: Any) -> None:
    """Version 5: backups that are files of a folder."""
    op.add_column("backup", sa.Column("host", sa.Text, nullable=False, server_default=""))
    op.add_column("backup", sa.Column("size_bytes", sa.Integer, nullable=False, server_default="0"))
    op.add_column("backup", sa.Column("hash_value", sa.Text))


UPGRADES = (add_migration, add_backup_parent, add_secure_exports, add_backup_file)
