"""How files of the embedded network of earlier schema versions become what schema.py says (kilonova/db/versions.py)."""

from typing import Any

import sqlalchemy as sa


def add_port_binding(op: Any) -> None:
    """Version 2: ports with several bindings."""
    op.create_table(
        "port_binding",
        sa.Column("port_id", sa.Text, sa.ForeignKey("port.id"), primary_key=True),
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("vnic_type", sa.Text, nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("applied", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("port_binding_host", "port_binding", ["host"])


def add_underlay(op: Any) -> None:
    """Version 3: networks across hosts."""
    forwarding = sa.Column("forwarding", sa.Integer, nullable=False, server_default="0")
    op.add_column("network", forwarding)
    op.create_table(
        "underlay",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("address", sa.Text, nullable=False, unique=True),
        sa.Column("updated_at", sa.Float, nullable=False),
    )


def add_told(op: Any) -> None:
    """Version 4: what is told to hosts is in order, from several conductors too."""
    op.create_table(
        "told",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def add_moved(op: Any) -> None:
    """Version 5: of large networks hosts are told differences."""
    op.create_table(
        "moved",
        sa.Column("network_id", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("what", sa.Text, primary_key=True),
        sqlite_with_rowid=False,
    )


UPGRADES = (add_port_binding, add_underlay, add_told, add_moved)
