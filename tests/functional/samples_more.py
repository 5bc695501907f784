"""More API samples: the rest of the compute API, so that every route that works has one (test_samples.py)."""

from typing import Any

from tests.functional.samples import DISKS, SAMPLES, Sample, did, show

ADMIN = "admin"
_WEB, _AGENT = "/servers/{web}", "/servers/{agent}"


def _call(
    name: str, version: str, method: str, path: str, body: Any = None, who: str = "demo"
) -> Sample:
    return Sample(f"{name}-{version}", version, method, path, body, who)


def _admin(name: str, version: str, method: str, path: str, body: Any = None) -> Sample:
    return _call(name, version, method, path, body, ADMIN)


_EVENT = {"events": [{"name": "network-changed", "server_uuid": "{web}"}]}
_METADATA = {"meta": {"role": "db"}}
READ = [
    *show("/", "versions", "2.1"),
    *show(_WEB + "/metadata/role", "server-metadata-item", "2.1"),
    *show(_WEB + "/ips/private", "server-ips-of-network", "2.1"),
    *show(_WEB + "/os-instance-actions/{request}", "server-action-show", "2.1", "2.51", "2.58", "2.62"),
    *show(_WEB + "/os-instance-actions/{request}", "server-action-show-admin", "2.51", "2.84", who=ADMIN),
    *show(_WEB + "/os-interface/{port}", "server-interface-show", "2.1", "2.70"),
    *show(_WEB + "/os-security-groups", "server-security-groups", "2.1"),
    *show(_WEB + "/migrations/1", "error-server-migration", "2.23", who=ADMIN),
    *show(_WEB + "/diagnostics", "server-diagnostics", "2.1", "2.48", who=ADMIN),
    *show(_WEB + "/topology", "server-topology", "2.78", who=ADMIN),
    *show("/flavors/42/os-extra_specs", "flavor-specs", "2.1"),
    *show("/flavors/sample/os-extra_specs/hw:cpu_policy", "flavor-spec-show", "2.1"),
    *show("/os-quota-sets/{project}/defaults", "quota-set-defaults", "2.1", "2.57"),
    *show("/os-quota-class-sets/default", "quota-class-set", "2.1", "2.50", "2.57", who=ADMIN),
    *show("/os-availability-zone/detail", "availability-zones-detail", "2.1", who=ADMIN),
    *show("/os-server-groups", "server-groups-list", "2.1", "2.13", "2.64"),
    *show("/os-aggregates/1", "aggregate-show", "2.1", "2.41", who=ADMIN),
    *show("/os-hypervisors/{hypervisor}", "hypervisor-show", "2.53", "2.88", who=ADMIN),
    *show("/os-hypervisors/statistics", "hypervisors-statistics", "2.1", who=ADMIN),
    *show("/os-hypervisors/{hypervisor}/uptime", "hypervisor-uptime", "2.53", who=ADMIN),
    *show("/os-hypervisors/cell1/search", "hypervisors-search", "2.1", who=ADMIN),
    *show("/os-hypervisors/cell1/servers", "hypervisors-servers", "2.1", who=ADMIN),
    *show("/os-hosts", "hosts-list", "2.1", who=ADMIN),
    *show("/os-hosts/cell1-host1", "host-show", "2.1", who=ADMIN),
    *show(
        "/os-simple-tenant-usage?start=2020-01-01T00:00:00&end=2020-01-02T00:00:00",
        "usage-list", "2.1", "2.40", who=ADMIN,
    ),
    *show(
        "/os-simple-tenant-usage/{project}?start=2020-01-01T00:00:00&end=2020-01-02T00:00:00",
        "usage-show", "2.1", "2.40",
    ),
    *show("/os-instance_usage_audit_log/2020-01-01%2000:00:00", "usage-audit-log-before", "2.1", who=ADMIN),
    *show("/extensions", "extensions-list", "2.1"),
    *show("/extensions/os-config-drive", "extension-show", "2.1"),
]  # fmt: skip

CHANGE = [
    _admin("flavor-specs-update", "2.1", "PUT", "/flavors/sample/os-extra_specs/hw:cpu_policy",
           {"hw:cpu_policy": "dedicated"}),
    _admin("flavor-specs-delete", "2.1", "DELETE", "/flavors/sample/os-extra_specs/hw:cpu_policy"),
    _admin("flavor-create", "2.55", "POST", "/flavors", {"flavor": {
        "name": "private", "ram": 256, "vcpus": 1, "disk": 1, "id": "own", "description": "ours",
        "os-flavor-access:is_public": False}}),
    _admin("flavor-access-add", "2.1", "POST", "/flavors/own/action", {"addTenantAccess": {"tenant": "{project}"}}),
    *show("/flavors/own/os-flavor-access", "flavor-access", "2.1", who=ADMIN),
    _admin("flavor-access-remove", "2.1", "POST", "/flavors/own/action",
           {"removeTenantAccess": {"tenant": "{project}"}}),
    _admin("flavor-delete", "2.1", "DELETE", "/flavors/own"),
    _call("keypair-delete", "2.1", "DELETE", "/os-keypairs/k1"),
    _call("server-group-delete", "2.1", "DELETE", "/os-server-groups/{group}"),
    _admin("quota-class-set-update", "2.57", "PUT", "/os-quota-class-sets/default",
           {"quota_class_set": {"server_groups": 11}}),
    _admin("quota-set-update", "2.57", "PUT", "/os-quota-sets/{project}", {"quota_set": {"key_pairs": 90}}),
    _admin("aggregate-create", "2.41", "POST", "/os-aggregates",
           {"aggregate": {"name": "fast", "availability_zone": None}}),
    _admin("aggregate-update", "2.41", "PUT", "/os-aggregates/2", {"aggregate": {"name": "faster"}}),
    _admin("aggregate-add-host", "2.41", "POST", "/os-aggregates/2/action", {"add_host": {"host": "cell1-host1"}}),
    _admin("aggregate-set-metadata", "2.41", "POST", "/os-aggregates/2/action",
           {"set_metadata": {"metadata": {"ssd": "true"}}}),
    _admin("aggregate-remove-host", "2.41", "POST", "/os-aggregates/2/action",
           {"remove_host": {"host": "cell1-host1"}}),
    _admin("aggregate-delete", "2.41", "DELETE", "/os-aggregates/2"),
    _admin("service-disable", "2.53", "PUT", "/os-services/{service}",
           {"status": "disabled", "disabled_reason": "a new fan"}),
    _admin("service-enable", "2.53", "PUT", "/os-services/{service}", {"status": "enabled"}),
    _admin("host-disable", "2.1", "PUT", "/os-hosts/cell1-host1", {"status": "disable"}),
    _admin("host-enable", "2.1", "PUT", "/os-hosts/cell1-host1", {"status": "enable"}),
    _admin("error-service-delete", "2.53", "DELETE", "/os-services/{service}"),
    _admin("external-events", "2.1", "POST", "/os-server-external-events", _EVENT),
    _call("server-metadata-replace", "2.1", "PUT", _WEB + "/metadata", {"metadata": {"role": "web", "k": "v"}}),
    _call("server-metadata-item-update", "2.1", "PUT", _WEB + "/metadata/role", _METADATA),
    _call("server-metadata-item-delete", "2.1", "DELETE", _WEB + "/metadata/k"),
    _call("server-tag-add", "2.26", "PUT", _WEB + "/tags/c"),
    _call("server-tag-check", "2.26", "GET", _WEB + "/tags/c"),
    _call("server-tag-delete", "2.26", "DELETE", _WEB + "/tags/c"),
    _call("server-tags-delete", "2.26", "DELETE", _WEB + "/tags"),
    *did("removeSecurityGroup", {"name": "default"}, "2.1"),
    *did("addSecurityGroup", {"name": "default"}, "2.1"),
    *did("addFixedIp", {"networkId": "{network}"}, "2.1"),
    _call("error-remove-fixed-ip", "2.1", "POST", _WEB + "/action", {"removeFixedIp": {"address": "198.51.100.9"}}),
    _call("error-add-floating-ip", "2.1", "POST", _WEB + "/action", {"addFloatingIp": {"address": "198.51.100.9"}}),
    _call("error-remove-floating-ip", "2.1", "POST", _WEB + "/action",
          {"removeFloatingIp": {"address": "198.51.100.9"}}),
    _call("server-interface-detach", "2.1", "DELETE", _WEB + "/os-interface/{port}"),
]  # fmt: skip

POWER = [
    *did("os-stop", None, "2.1"),
    *did("os-start", None, "2.1"),
    *did("reboot", {"type": "HARD"}, "2.1"),
    *did("pause", None, "2.1"),
    *did("unpause", None, "2.1"),
    *did("suspend", None, "2.1"),
    *did("resume", None, "2.1"),
    *did("os-getVNCConsole", {"type": "novnc"}, "2.1"),
    *did("os-getSerialConsole", {"type": "serial"}, "2.1"),
    _call("server-remote-console-vnc", "2.6", "POST", _WEB + "/remote-consoles",
          {"remote_console": {"protocol": "vnc", "type": "novnc"}}),
    _call("server-remote-console-serial", "2.8", "POST", _WEB + "/remote-consoles",
          {"remote_console": {"protocol": "serial", "type": "serial"}}),
    _call("server-changePassword", "2.1", "POST", _AGENT + "/action", {"changePassword": {"adminPass": "pw-3"}}),
    _call("server-password", "2.1", "GET", _AGENT + "/os-server-password"),
    _call("server-password-clear", "2.1", "DELETE", _AGENT + "/os-server-password"),
    _call("error-restore", "2.1", "POST", _WEB + "/action", {"restore": None}),
]  # fmt: skip

LAST = [  # what a host less does; the server that it is done to is deleted afterwards
    *show(_AGENT + "/os-volume_attachments/{volume}", "error-server-volume", "2.1"),
    _admin("server-migrate", "2.56", "POST", _AGENT + "/action", {"migrate": None}),
    _admin("server-reset-state", "2.1", "POST", _AGENT + "/action", {"os-resetState": {"state": "active"}}),
    _admin("error-evacuate", "2.1", "POST", _AGENT + "/action", {"evacuate": {"onSharedStorage": False}}),
    _admin("service-force-down", "2.53", "PUT", "/os-services/{service}", {"forced_down": True}),
    _admin("server-evacuate", "2.14", "POST", _AGENT + "/action", {"evacuate": {}}),
    _admin("service-force-up", "2.53", "PUT", "/os-services/{service}", {"forced_down": False}),
    _call("server-delete", "2.1", "DELETE", _AGENT),
    _admin("quota-set-delete", "2.1", "DELETE", "/os-quota-sets/{project}"),
]  # fmt: skip

ALL = [*SAMPLES, *READ, *CHANGE, *POWER, *DISKS, *LAST]
