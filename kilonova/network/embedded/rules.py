"""Who may do what: Neutron's rule names with its defaults (source: neutron.conf.policies, the SRBAC defaults).

The role ``service`` is other services' and inherits nothing: it has every port, and reads networks and subnets
(docs/decisions/service-role-on-the-network.md).
"""

from kilonova.http.policy import Policy

_READ = "rule:admin_only or (role:reader and project_id:%(project_id)s)"
_WRITE = "rule:admin_only or (role:member and project_id:%(project_id)s)"
_NET_OWNER = "rule:admin_only or (role:member and project_id:%(network:project_id)s)"
_ADMIN = "rule:admin_only"
_ADMIN_OR_SERVICE = "rule:admin_or_service"

_RULES = {
    "context_is_admin": "role:admin",
    "admin_only": "rule:context_is_admin",
    "service_api": "role:service",
    "admin_or_service": "rule:admin_only or rule:service_api",
    "see_every_port": "rule:admin_or_service",
    "see_every_network": "rule:admin_or_service",
    "see_every_subnet": "rule:admin_or_service",
    "create_port_for_others": "rule:admin_or_service",
    "shared": "'True':%(shared)s",
    "external": "'True':%(router:external)s",
    "network_owner": "project_id:%(network:project_id)s",
    "get_network": f"{_READ} or rule:shared or rule:external or rule:service_api",
    "get_subnet": f"{_READ} or rule:shared or rule:service_api",
    "create_port": f"{_WRITE} or rule:service_api",
    "get_port": f"{_READ} or (role:reader and rule:network_owner) or rule:service_api",
    "update_port": f"{_WRITE} or (role:member and rule:network_owner) or rule:service_api",
    "delete_port": f"{_WRITE} or (role:member and rule:network_owner) or rule:service_api",
    "create_subnet": f"{_WRITE} and (rule:admin_only or rule:network_owner)",
    "get_agent": "@",  # there are none: everybody sees an empty list, as those do in Neutron who may see none
    "get_service_provider": "role:reader or rule:admin_only",
    "get_availability_zone": "role:reader or rule:admin_only",
    "get_extension": "@",
    "get_network_ip_availability": _ADMIN,
    "get_quota": _ADMIN,
    "update_quota": _ADMIN,
    "delete_quota": _ADMIN,
    "get_auto_allocated_topology": _READ,
    "delete_auto_allocated_topology": _WRITE,
    "add_router_interface": _WRITE,
    "remove_router_interface": _WRITE,
    "add_extraroutes": _WRITE,
    "remove_extraroutes": _WRITE,
    "create_floatingip:floating_ip_address": _ADMIN,
}
for _thing in (
    "network",
    "subnet",
    "port",
    "router",
    "floatingip",
    "security_group",
    "security_group_rule",
):
    for _verb, _rule in (
        ("get", _READ),
        ("create", _WRITE),
        ("update", _WRITE),
        ("delete", _WRITE),
    ):
        _RULES.setdefault(f"{_verb}_{_thing}", _rule)
        if _verb != "create":
            _RULES.setdefault(f"{_verb}_{_thing}s_tags", _READ if _verb == "get" else _WRITE)
for _verb in ("create", "update"):
    for _name in (
        "shared",
        "router:external",
        "is_default",
        "provider:network_type",
        "provider:physical_network",
        "provider:segmentation_id",
    ):
        _RULES[f"{_verb}_network:{_name}"] = _ADMIN
    _RULES[f"{_verb}_network:port_security_enabled"] = _WRITE
    for _name in ("mac_address", "fixed_ips:ip_address", "port_security_enabled", "device_owner"):
        _RULES[f"{_verb}_port:{_name}"] = f"{_NET_OWNER} or rule:service_api"
    _RULES[f"{_verb}_port:allowed_address_pairs"] = _NET_OWNER
    for _name in ("binding:host_id", "binding:profile"):
        _RULES[f"{_verb}_port:{_name}"] = _ADMIN_OR_SERVICE
    _RULES[f"{_verb}_router:external_gateway_info:enable_snat"] = _ADMIN
    _RULES[f"{_verb}_router:external_gateway_info:external_fixed_ips"] = _ADMIN
_RULES["update_port:mac_address"] = _ADMIN_OR_SERVICE
for _name in ("provider:network_type", "provider:physical_network", "provider:segmentation_id"):
    _RULES[f"get_network:{_name}"] = _ADMIN_OR_SERVICE
for _name in ("binding:host_id", "binding:profile", "binding:vif_type", "binding:vif_details"):
    _RULES[f"get_port:{_name}"] = _ADMIN_OR_SERVICE

for _name in (
    "get_port_binding",
    "create_port_binding",
    "update_port_binding",
    "delete_port_binding",
):
    _RULES[_name] = _ADMIN_OR_SERVICE
_RULES["activate"] = _ADMIN_OR_SERVICE

RULES = dict(_RULES)
POLICY = Policy(RULES)
