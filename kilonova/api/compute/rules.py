"""Nova's policy rule names with its default roles. source: Nova, "Sample Policy File" of the defaults.

Files of api/compute name their rules here, so that one list is the whole of it; a policy file overrides by name.
"""

ADMIN = "rule:context_is_admin"
READER = "rule:project_reader_or_admin"
MEMBER = "rule:project_member_or_admin"
ANY = "@"

BASE = {
    "context_is_admin": "role:admin",
    "admin_or_owner": "is_admin:True or project_id:%(project_id)s",
    "project_reader": "role:reader and project_id:%(project_id)s",
    "project_member": "role:member and project_id:%(project_id)s",
    "project_manager": "role:manager and project_id:%(project_id)s",
    "project_reader_or_admin": "rule:project_reader or rule:context_is_admin",
    "project_member_or_admin": "rule:project_member or rule:context_is_admin",
    "project_manager_or_admin": "rule:project_manager or rule:context_is_admin",
    "service_api": "role:service",
}

_P = "os_compute_api:"

SERVERS = {
    _P + "servers:index": READER,
    _P + "servers:detail": READER,
    _P + "servers:index:get_all_tenants": ADMIN,
    _P + "servers:detail:get_all_tenants": ADMIN,
    _P + "servers:allow_all_filters": ADMIN,
    _P + "servers:show": READER,
    _P + "servers:show:flavor-extra-specs": READER,
    _P + "servers:show:host_status": ADMIN,
    _P + "servers:show:host_status:unknown-only": ADMIN,
    _P + "servers:create": MEMBER,
    _P + "servers:create:forced_host": ADMIN,
    _P + "compute:servers:create:requested_destination": ADMIN,
    _P + "servers:create:attach_volume": MEMBER,
    _P + "servers:create:attach_network": MEMBER,
    _P + "servers:create:trusted_certs": MEMBER,
    _P + "servers:create:zero_disk_flavor": ADMIN,
    "network:attach_external_network": ADMIN,
    _P + "servers:delete": MEMBER,
    _P + "servers:update": MEMBER,
    _P + "servers:start": MEMBER,
    _P + "servers:stop": MEMBER,
    _P + "servers:reboot": MEMBER,
    _P + "os-pause-server:pause": MEMBER,
    _P + "os-pause-server:unpause": MEMBER,
    _P + "os-suspend-server:suspend": MEMBER,
    _P + "os-suspend-server:resume": MEMBER,
    _P + "os-lock-server:lock": MEMBER,
    _P + "os-lock-server:unlock": MEMBER,
    _P + "os-lock-server:unlock:unlock_override": ADMIN,
    _P + "os-extended-server-attributes": ADMIN,
    "compute:servers:create:requested_destination": ADMIN,
}
