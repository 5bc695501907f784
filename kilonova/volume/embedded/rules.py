"""Who may do what with volumes: Cinder's rule names with its defaults (source: cinder.policies, the SRBAC defaults).

A system-scoped administrator passes wherever role admin does.
"""

from collections.abc import Mapping

from kilonova.http.policy import Policy

_READER = "role:admin or (role:reader and project_id:%(project_id)s)"
_MEMBER = "role:admin or (role:member and project_id:%(project_id)s)"
_SERVICE = f"{_MEMBER} or role:service"
_ADMIN = "role:admin"

_READS = (
    "volume:get", "volume:get_all", "volume:get_volume_metadata", "volume_extension:volume_image_metadata:show",
    "volume_extension:volume_tenant_attribute", "volume:get_snapshot", "volume:get_all_snapshots",
    "volume:get_snapshot_metadata", "backup:get", "backup:get_all", "volume:get_transfer",
    "volume:get_all_transfers", "volume_extension:type_get", "volume_extension:type_get_all",
    "volume_extension:access_types_extra_specs:get", "volume_extension:types_extra_specs:index",
    "volume_extension:types_extra_specs:show", "volume_extension:quotas:show", "limits_extension:used_limits",
    "volume:availability_zone_list", "message:get", "message:get_all", "group:get_all", "group:get_all_group_snapshots",
    "volume_extension:type_extra_specs:read_public",
)  # fmt: skip
_WRITES = (
    "volume:create", "volume:create_from_image", "volume:update", "volume:delete", "volume:extend",
    "volume:extend_attached_volume", "volume:create_volume_metadata", "volume:update_volume_metadata",
    "volume:delete_volume_metadata", "volume_extension:volume_image_metadata:set",
    "volume_extension:volume_image_metadata:remove", "volume:retype", "volume:update_readonly_flag",
    "volume_extension:volume_actions:reserve", "volume_extension:volume_actions:unreserve",
    "volume_extension:volume_actions:begin_detaching", "volume_extension:volume_actions:roll_detaching",
    "volume_extension:volume_actions:attach", "volume_extension:volume_actions:detach",
    "volume_extension:volume_actions:initialize_connection",
    "volume_extension:volume_actions:terminate_connection", "volume_extension:volume_actions:upload_image",
    "volume_extension:volume_actions:set_bootable", "volume:create_snapshot", "volume:update_snapshot",
    "volume:delete_snapshot", "volume:update_snapshot_metadata", "volume:delete_snapshot_metadata",
    "volume:attachment_create", "volume:attachment_update", "volume:attachment_delete",
    "volume:attachment_complete", "volume:multiattach_bootable_volume", "backup:create", "backup:restore",
    "backup:delete", "backup:update", "volume:create_transfer", "volume:accept_transfer",
    "volume:delete_transfer", "volume:revert_to_snapshot", "message:delete", "volume:reimage",
    "volume:reimage_reserved",
)  # fmt: skip
_ADMINS = (
    "volume:force_delete", "volume_extension:volume_admin_actions:force_delete",
    "volume_extension:volume_admin_actions:force_detach", "volume_extension:volume_admin_actions:reset_status",
    "volume_extension:volume_admin_actions:migrate_volume",
    "volume_extension:volume_admin_actions:migrate_volume_completion",
    "volume_extension:snapshot_admin_actions:force_delete",
    "volume_extension:snapshot_admin_actions:reset_status", "volume_extension:backup_admin_actions:reset_status",
    "volume_extension:backup_admin_actions:force_delete", "volume_extension:volume_host_attribute",
    "volume_extension:volume_mig_status_attribute", "volume_extension:type_create",
    "volume_extension:type_update", "volume_extension:type_delete", "volume_extension:types_extra_specs:create",
    "volume_extension:types_extra_specs:update", "volume_extension:types_extra_specs:delete",
    "volume_extension:type_access:create", "volume_extension:type_access:delete",
    "volume_extension:type_access:list", "volume_extension:volume_type_access:addProjectAccess",
    "volume_extension:volume_type_access:removeProjectAccess", "volume_extension:volume_type_access:get_all_for_type",
    "volume_extension:volume_type_encryption:get", "volume_extension:volume_type_encryption:create",
    "volume_extension:volume_type_encryption:delete", "volume_extension:volume_type_encryption:update",
    "volume_extension:default_set_or_update", "volume_extension:default_get", "volume_extension:default_get_all",
    "volume_extension:default_unset", "volume_extension:quotas:update", "volume_extension:quotas:delete",
    "volume_extension:quota_classes:get", "volume_extension:quota_classes:update",
    "volume_extension:services:index", "volume_extension:services:update",
    "scheduler_extension:scheduler_stats:get_pools",
    "volume_extension:capabilities", "volume_extension:hosts", "backup:backup_project_attribute",
    "backup:backup-import", "backup:export-import",
    "volume:get_all_qos", "volume_extension:qos_specs_manage:get_all", "volume:get_hosts",
)  # fmt: skip

RULES: dict[str, str] = {
    "default": _ADMIN,
    "context_is_admin": "role:admin",
    "admin_api": "role:admin",
    "get_info": "@",  # ours: Cinder asks nothing here but a valid token
    **dict.fromkeys(_READS, _READER),
    **dict.fromkeys(_WRITES, _MEMBER),
    **dict.fromkeys(_ADMINS, _ADMIN),
}
for _name in (
    "volume:get", "volume:get_all", "volume:attachment_create", "volume:attachment_update",
    "volume:attachment_delete", "volume:attachment_complete",
):  # fmt: skip
    RULES[_name] += " or role:service"


def policy(overrides: Mapping[str, str] | None = None) -> Policy:
    """Return the rules; overrides: a policy file's."""
    return Policy(RULES, overrides)
