"""Keystone's default policy, by its rule names. source: keystone.common.policies (2025.1, with the manager role).

Targets are flat: ``target.user.domain_id`` and so on, made by the routes. ``domain_id`` alone is the caller's own
domain scope: a rule that compares it lets domain-scoped callers list, and the list is cut to their domain.
"""

ADMIN = "rule:admin_required"
READER = "(role:reader and system_scope:all)"
IN_DOMAIN = "(role:reader and domain_id:%(domain_id)s)"
ADMIN_OR_READER = f"{ADMIN} or {READER}"
LIST = f"{ADMIN_OR_READER} or {IN_DOMAIN}"


def _read(kind: str, more: str = "") -> str:
    return f"{ADMIN_OR_READER} or (role:reader and domain_id:%(target.{kind}.domain_id)s)" + (
        f" or {more}" if more else ""
    )


def _manage(kind: str) -> str:
    return f"{ADMIN} or (role:manager and domain_id:%(target.{kind}.domain_id)s)"


_SELF = "user_id:%(target.user.id)s"
_SAME_DOMAIN = "(role:{role} and domain_id:%(target.actor.domain_id)s and domain_id:%(target.target.domain_id)s)"
_MEMBERSHIP = (
    "(role:{role} and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)"
)
_GRANT_READ = f"{ADMIN_OR_READER} or " + _SAME_DOMAIN.format(role="reader")
_GRANT_WRITE = (
    f"{ADMIN} or (rule:domain_managed_target_role and {_SAME_DOMAIN.format(role='manager')})"
)

RULES: dict[str, str] = {
    "admin_required": "role:admin",
    "service_role": "role:service",
    "domain_managed_target_role": (
        "'manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s"
    ),
    # tokens and what a token can reach
    "identity:check_token": f"{ADMIN_OR_READER} or rule:token_subject",
    "identity:validate_token": f"{ADMIN_OR_READER} or rule:service_role or rule:token_subject",
    "identity:revoke_token": f"{ADMIN} or rule:token_subject",
    "token_subject": "user_id:%(target.token.user_id)s",
    "identity:get_auth_catalog": "@",
    "identity:get_auth_projects": "@",
    "identity:get_auth_domains": "@",
    "identity:get_auth_system": "@",
    # domains
    "identity:get_domain": (
        f"{ADMIN_OR_READER} or domain_id:%(target.domain.id)s or project_domain_id:%(target.domain.id)s"
    ),
    "identity:list_domains": f"{ADMIN_OR_READER} or (role:manager and domain_id:%(domain_id)s)",
    "identity:create_domain": ADMIN,
    "identity:update_domain": ADMIN,
    "identity:delete_domain": ADMIN,
    # projects
    "identity:get_project": _read("project", "project_id:%(target.project.id)s"),
    "identity:list_projects": LIST,
    "identity:list_user_projects": _read("user", _SELF),
    "identity:create_project": _manage("project"),
    "identity:update_project": _manage("project"),
    "identity:delete_project": _manage("project"),
    "identity:list_project_tags": _read("project", "project_id:%(target.project.id)s"),
    "identity:get_project_tag": _read("project", "project_id:%(target.project.id)s"),
    "identity:update_project_tags": _manage("project"),
    "identity:create_project_tag": _manage("project"),
    "identity:delete_project_tags": _manage("project"),
    "identity:delete_project_tag": _manage("project"),
    # users
    "identity:get_user": _read("user", _SELF),
    "identity:list_users": LIST,
    "identity:create_user": _manage("user"),
    "identity:update_user": _manage("user"),
    "identity:delete_user": _manage("user"),
    "identity:change_password": "@",  # who knows the old one may: source, Keystone
    # groups
    "identity:get_group": _read("group"),
    "identity:list_groups": LIST,
    "identity:list_groups_for_user": _read("user", _SELF),
    "identity:create_group": _manage("group"),
    "identity:update_group": _manage("group"),
    "identity:delete_group": _manage("group"),
    "identity:list_users_in_group": _read("group"),
    "identity:check_user_in_group": f"{ADMIN_OR_READER} or {_MEMBERSHIP.format(role='reader')}",
    "identity:add_user_to_group": f"{ADMIN} or {_MEMBERSHIP.format(role='manager')}",
    "identity:remove_user_from_group": f"{ADMIN} or {_MEMBERSHIP.format(role='manager')}",
    # roles
    "identity:get_role": f"{ADMIN_OR_READER} or (role:manager and domain_id:%(domain_id)s)",
    "identity:list_roles": f"{ADMIN_OR_READER} or (role:manager and domain_id:%(domain_id)s)",
    "identity:create_role": ADMIN,
    "identity:update_role": ADMIN,
    "identity:delete_role": ADMIN,
    "identity:get_implied_role": ADMIN_OR_READER,
    "identity:list_implied_roles": ADMIN_OR_READER,
    "identity:list_role_inference_rules": ADMIN_OR_READER,
    "identity:check_implied_role": ADMIN_OR_READER,
    "identity:create_implied_role": ADMIN,
    "identity:delete_implied_role": ADMIN,
    # who holds what
    "identity:list_role_assignments": LIST,
    "identity:check_grant": _GRANT_READ,
    "identity:list_grants": _GRANT_READ,
    "identity:create_grant": _GRANT_WRITE,
    "identity:revoke_grant": _GRANT_WRITE,
    "identity:list_system_grants_for_user": ADMIN_OR_READER,
    "identity:check_system_grant_for_user": ADMIN_OR_READER,
    "identity:create_system_grant_for_user": ADMIN,
    "identity:revoke_system_grant_for_user": ADMIN,
    "identity:list_system_grants_for_group": ADMIN_OR_READER,
    "identity:check_system_grant_for_group": ADMIN_OR_READER,
    "identity:create_system_grant_for_group": ADMIN,
    "identity:revoke_system_grant_for_group": ADMIN,
    # catalog
    "identity:get_region": "@",
    "identity:list_regions": "@",
    "identity:create_region": ADMIN,
    "identity:update_region": ADMIN,
    "identity:delete_region": ADMIN,
    "identity:get_service": ADMIN_OR_READER,
    "identity:list_services": ADMIN_OR_READER,
    "identity:create_service": ADMIN,
    "identity:update_service": ADMIN,
    "identity:delete_service": ADMIN,
    "identity:get_endpoint": ADMIN_OR_READER,
    "identity:list_endpoints": ADMIN_OR_READER,
    "identity:create_endpoint": ADMIN,
    "identity:update_endpoint": ADMIN,
    "identity:delete_endpoint": ADMIN,
    # application credentials
    "identity:get_application_credential": f"{ADMIN_OR_READER} or {_SELF}",
    "identity:list_application_credentials": f"{ADMIN_OR_READER} or {_SELF}",
    "identity:list_access_rules": f"{ADMIN_OR_READER} or {_SELF}",
    "identity:create_application_credential": _SELF,
    "identity:delete_application_credential": f"{ADMIN} or {_SELF}",
}
