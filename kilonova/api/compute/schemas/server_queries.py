"""Query parameters of GET /servers. From 2.75 on unknown ones are refused; values are read by servers/filters.py.

source: compute API reference, "List Servers"; names that begin with an underscore are for intermediaries and pass.
"""

from kilonova.api.compute.schemas.common import Json
from kilonova.api.compute.shared import query

_NAMES = (
    "access_ip_v4 access_ip_v6 all_tenants auto_disk_config availability_zone block_device_mapping "
    "changes-before changes-since config_drive created_at deleted description display_description "
    "display_name flavor host hostname image image_ref info_cache ip ip6 kernel_id key_name "
    "launch_index launched_at limit locked locked_by marker metadata name node not-tags "
    "not-tags-any pci_devices power_state progress project_id ramdisk_id reservation_id "
    "root_device_name security_groups services soft_deleted sort_dir sort_key status "
    "system_metadata tags tags-any task_state tenant_id terminated_at user_id uuid vm_state"
)
_ANY: Json = {}
LIST: Json = {
    **query(dict.fromkeys(_NAMES.split(), _ANY), strict=True),
    "patternProperties": {"^_": _ANY},
}
"""What a list takes from 2.75 on."""
