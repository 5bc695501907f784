"""The tables of embedded identity.

``generation`` of a user, project or domain grows whenever its older tokens must die; tokens carry the number.
``changes`` has one row whose number grows with every write: what was worked out at the same number is still true.
"""

import sqlalchemy as sa

metadata = sa.MetaData()
N, T = sa.Integer, sa.Text

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("id", N, primary_key=True),
    sa.Column("number", N, nullable=False),
)
domain = sa.Table(
    "domain",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False, unique=True),
    sa.Column("description", T, nullable=False),
    sa.Column("enabled", N, nullable=False),
    sa.Column("generation", N, nullable=False),
    sa.Column("extra", T, nullable=False),  # JSON object
)
project = sa.Table(
    "project",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False),
    sa.Column("domain_id", T, nullable=False),
    sa.Column("parent_id", T, nullable=False),  # a project, or the domain for a top-level one
    sa.Column("description", T, nullable=False),
    sa.Column("enabled", N, nullable=False),
    sa.Column("generation", N, nullable=False),
    sa.Column("tags", T, nullable=False),  # JSON list
    sa.Column("extra", T, nullable=False),
    sa.Index("project_by_name", "domain_id", "name", unique=True),
    sa.Index("project_by_name_only", "name"),
    sa.Index("project_by_parent", "parent_id"),
)
user = sa.Table(
    "user",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False),
    sa.Column("domain_id", T, nullable=False),
    sa.Column("default_project_id", T),
    sa.Column("description", T),
    sa.Column("enabled", N, nullable=False),
    sa.Column("generation", N, nullable=False),
    sa.Column("password", T),  # a hash; NULL: cannot log in by password
    sa.Column("options", T, nullable=False),
    sa.Column("extra", T, nullable=False),
    sa.Index("user_by_name", "domain_id", "name", unique=True),
    sa.Index("user_by_name_only", "name"),
    sa.Index("user_by_default_project", "default_project_id"),
)
group = sa.Table(
    "user_group",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False),
    sa.Column("domain_id", T, nullable=False),
    sa.Column("description", T, nullable=False),
    sa.Column("extra", T, nullable=False),
    sa.Index("group_by_name", "domain_id", "name", unique=True),
    sa.Index("group_by_name_only", "name"),
)
membership = sa.Table(
    "membership",
    metadata,
    sa.Column("group_id", T, primary_key=True),
    sa.Column("user_id", T, primary_key=True),
    sa.Index("membership_by_user", "user_id"),
)
role = sa.Table(
    "role",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False),
    sa.Column("domain_id", T, nullable=False),  # "": a role of the whole cloud
    sa.Column("description", T),
    sa.Column("immutable", N, nullable=False),
    sa.Column("extra", T, nullable=False),
    sa.Index("role_by_name", "name", "domain_id", unique=True),
)
implied = sa.Table(
    "implied_role",
    metadata,
    sa.Column("prior_id", T, primary_key=True),
    sa.Column("implied_id", T, primary_key=True),
    sa.Index("implied_by_implied", "implied_id"),
)
assignment = sa.Table(
    "assignment",
    metadata,
    sa.Column("actor_kind", T, primary_key=True),  # user, group
    sa.Column("actor_id", T, primary_key=True),
    sa.Column("target_kind", T, primary_key=True),  # project, domain, system
    sa.Column("target_id", T, primary_key=True),  # "all" for system
    sa.Column("role_id", T, primary_key=True),
    sa.Index("assignment_by_target", "target_kind", "target_id"),
    sa.Index("assignment_by_role", "role_id"),
)
region = sa.Table(
    "region",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("description", T, nullable=False),
    sa.Column("parent_region_id", T),
    sa.Index("region_by_parent", "parent_region_id"),
)
service = sa.Table(
    "service",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("type", T, nullable=False),
    sa.Column("name", T, nullable=False),
    sa.Column("description", T, nullable=False),
    sa.Column("enabled", N, nullable=False),
    sa.Column("extra", T, nullable=False),
    sa.Index("service_by_type", "type"),
)
endpoint = sa.Table(
    "endpoint",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("service_id", T, nullable=False),
    sa.Column("region_id", T),
    sa.Column("interface", T, nullable=False),
    sa.Column("url", T, nullable=False),
    sa.Column("enabled", N, nullable=False),
    sa.Column("extra", T, nullable=False),
    sa.Index("endpoint_by_service", "service_id"),
    sa.Index("endpoint_by_region", "region_id"),
)
credential = sa.Table(
    "application_credential",
    metadata,
    sa.Column("id", T, primary_key=True),
    sa.Column("name", T, nullable=False),
    sa.Column("user_id", T, nullable=False),
    sa.Column("project_id", T, nullable=False),
    sa.Column("description", T),
    sa.Column("secret", T, nullable=False),  # a hash
    sa.Column("roles", T, nullable=False),  # JSON list of role ids
    sa.Column("expires_at", sa.Float),
    sa.Column("unrestricted", N, nullable=False),
    sa.Index("credential_by_name", "user_id", "name", unique=True),
    sa.Index("credential_by_project", "project_id"),
)
revoked = sa.Table(
    "revoked_token",
    metadata,
    sa.Column("audit_id", T, primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Index("revoked_by_expiry", "expires_at"),
)
