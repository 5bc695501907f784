"""Tables of the embedded network service. One SQLite file of its own; times are seconds since the epoch.

Addresses are kept as text for people and as 32 hex digits for order, so that IPv4 and IPv6 sort alike.
``free_range`` holds what is left of the pools: the property tests prove that free and allocated make up the pool.
generation: grows with each change of a document that hosts apply (kilonova/objects/netstate.py).
"""

import sqlalchemy as sa
from sqlalchemy import Column, Float, Index, Integer, Table, Text

metadata = sa.MetaData()


def _standard() -> list[Column[object]]:
    return [
        Column("id", Text, primary_key=True),
        Column("project_id", Text, nullable=False),
        Column("name", Text, nullable=False, server_default=""),
        Column("description", Text, nullable=False, server_default=""),
        Column("created_at", Float, nullable=False),
        Column("updated_at", Float, nullable=False),
        Column("revision", Integer, nullable=False, server_default="0"),
    ]


network = Table(
    "network",
    metadata,
    *_standard(),
    Column("admin_up", Integer, nullable=False),
    Column("shared", Integer, nullable=False),
    Column("external", Integer, nullable=False),
    Column("is_default", Integer, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("port_security", Integer, nullable=False),
    Column("segment", Integer, nullable=False, unique=True),
    Column("physical", Text, nullable=False),
    Column("dns_domain", Text, nullable=False),
    Column("auto_for", Text, unique=True),  # project whose auto-allocated topology this is
    Column("generation", Integer, nullable=False),
    Column(
        "forwarding", Integer, nullable=False, server_default="0"
    ),  # generation of where MACs live
    Index("network_project", "project_id"),
    Index("network_shared", "shared", "external"),
    Index("network_external", "external", "is_default"),
)

subnet = Table(
    "subnet",
    metadata,
    *_standard(),
    Column("network_id", Text, sa.ForeignKey("network.id"), nullable=False),
    Column("ip_version", Integer, nullable=False),
    Column("cidr", Text, nullable=False),
    Column("gateway_ip", Text),
    Column("enable_dhcp", Integer, nullable=False),
    Column("dns_nameservers", Text, nullable=False),
    Column("host_routes", Text, nullable=False),
    Column("allocation_pools", Text, nullable=False),
    Column("ipv6_address_mode", Text),
    Column("ipv6_ra_mode", Text),
    Column("dns_publish_fixed_ip", Integer, nullable=False),
    Index("subnet_network", "network_id"),
    Index("subnet_project", "project_id"),
)

port = Table(
    "port",
    metadata,
    *_standard(),
    Column("network_id", Text, sa.ForeignKey("network.id"), nullable=False),
    Column("mac", Text, nullable=False),
    Column("admin_up", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("device_owner", Text, nullable=False),
    Column("operation", Text, nullable=False),  # first half of the key, "" without one
    Column("item", Text, nullable=False),
    Column("preserve", Integer, nullable=False),  # the user made it: compute only unbinds it
    Column("host", Text, nullable=False),
    Column("vnic_type", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("port_security", Integer, nullable=False),
    Column("pairs", Text, nullable=False),
    Column("dhcp_options", Text, nullable=False),
    Column("dns_name", Text, nullable=False),
    Column("tag", Text),  # device role tag of compute
    Column("generation", Integer, nullable=False),
    Column("applied", Integer, nullable=False),
    sa.UniqueConstraint("network_id", "mac"),
    Index("port_project", "project_id"),
    Index("port_device", "device_id"),
    Index("port_key", "operation", "item"),
    Index("port_host", "host", "network_id"),
    Index("port_owner", "network_id", "device_owner"),
    Index(
        "port_pending",
        "updated_at",
        sqlite_where=sa.text("host <> '' AND applied < generation"),
    ),
)

port_binding = Table(  # beside the active one, which is the port's own row
    "port_binding",
    metadata,
    Column("port_id", Text, sa.ForeignKey("port.id"), primary_key=True),
    Column("host", Text, primary_key=True),
    Column("vnic_type", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("applied", Integer, nullable=False),  # generation of the port in force at the host
    Column("created_at", Float, nullable=False),
    Index("port_binding_host", "host"),
    sqlite_with_rowid=False,
)

underlay = Table(  # hosts that reach each other; a host that is alone is not in it
    "underlay",
    metadata,
    Column("host", Text, primary_key=True),
    Column("address", Text, nullable=False, unique=True),
    Column("updated_at", Float, nullable=False),
)

moved = Table(  # what changed of where MACs live (store/moves.py)
    "moved",
    metadata,
    Column("network_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("what", Text, primary_key=True),
    sqlite_with_rowid=False,
)

told = Table(  # one row: a counter of full states (sequence.py)
    "told",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", sa.BigInteger, nullable=False),
)

address = Table(
    "address",
    metadata,
    Column("subnet_id", Text, sa.ForeignKey("subnet.id"), primary_key=True),
    Column("num", Text, primary_key=True),
    Column("ip", Text, nullable=False),
    Column("port_id", Text, sa.ForeignKey("port.id"), nullable=False),
    Column("place", Integer, nullable=False),  # order within the port
    Index("address_port", "port_id", "place"),
    Index("address_ip", "ip"),
    sqlite_with_rowid=False,
)

free_range = Table(
    "free_range",
    metadata,
    Column("subnet_id", Text, sa.ForeignKey("subnet.id"), primary_key=True),
    Column("first", Text, primary_key=True),
    Column("last", Text, nullable=False),
    sqlite_with_rowid=False,
)

security_group = Table(
    "security_group",
    metadata,
    *_standard(),
    Column("stateful", Integer, nullable=False),
    Column("default_of", Text, unique=True),  # the project whose default group this is
    Column("generation", Integer, nullable=False),
    Index("security_group_project", "project_id"),
)

rule = Table(
    "rule",
    metadata,
    *_standard(),
    Column("group_id", Text, sa.ForeignKey("security_group.id"), nullable=False),
    Column("direction", Text, nullable=False),
    Column("ethertype", Text, nullable=False),
    Column("protocol", Text),
    Column("port_min", Integer),
    Column("port_max", Integer),
    Column("remote_cidr", Text),
    Column("remote_group", Text, sa.ForeignKey("security_group.id")),
    Index("rule_group", "group_id"),
    Index("rule_remote", "remote_group"),
    Index("rule_project", "project_id"),
)

port_group = Table(
    "port_group",
    metadata,
    Column("port_id", Text, sa.ForeignKey("port.id"), primary_key=True),
    Column("group_id", Text, sa.ForeignKey("security_group.id"), primary_key=True),
    Index("port_group_group", "group_id"),
    sqlite_with_rowid=False,
)

router = Table(
    "router",
    metadata,
    *_standard(),
    Column("admin_up", Integer, nullable=False),
    Column("gateway_port", Text, sa.ForeignKey("port.id"), unique=True),
    Column("snat", Integer, nullable=False),
    Column("routes", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("applied", Integer, nullable=False),
    Index("router_project", "project_id"),
    Index("router_host", "host"),
    Index("router_pending", "id", sqlite_where=sa.text("host <> '' AND applied < generation")),
)

floating = Table(
    "floating",
    metadata,
    *_standard(),
    Column("network_id", Text, sa.ForeignKey("network.id"), nullable=False),
    Column("ip", Text, nullable=False),
    Column("floating_port", Text, sa.ForeignKey("port.id"), nullable=False, unique=True),
    Column("port_id", Text, sa.ForeignKey("port.id")),
    Column("fixed_ip", Text),
    Column("router_id", Text, sa.ForeignKey("router.id")),
    Column("status", Text, nullable=False),
    Column("dns_name", Text, nullable=False),
    Column("dns_domain", Text, nullable=False),
    sa.UniqueConstraint("port_id", "fixed_ip"),
    sa.UniqueConstraint("network_id", "ip"),
    Index("floating_project", "project_id"),
    Index("floating_router", "router_id"),
    Index("floating_ip", "ip"),
)

tag = Table(
    "tag",
    metadata,
    Column("resource_id", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
)

quota = Table(
    "quota",
    metadata,
    Column("project_id", Text, primary_key=True),
    Column("resource", Text, primary_key=True),
    Column("amount", Integer, nullable=False),
)
