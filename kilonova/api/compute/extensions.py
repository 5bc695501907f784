"""The list of extensions, as clients older than microversions read it: only what works here is named."""

from typing import Any

from kilonova.api.compute.answers import others as a
from kilonova.api.compute.rules import ANY
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import NotFound
from kilonova.http.request import Request

_SEEN = {
    "OS-DCF": "DiskConfig",
    "OS-EXT-AZ": "ExtendedAvailabilityZone",
    "OS-EXT-IPS": "ExtendedIps",
    "OS-EXT-IPS-MAC": "ExtendedIpsMac",
    "OS-EXT-SRV-ATTR": "ExtendedServerAttributes",
    "OS-EXT-STS": "ExtendedStatus",
    "OS-FLV-DISABLED": "FlavorDisabled",
    "OS-FLV-EXT-DATA": "FlavorExtraData",
    "OS-SCH-HNT": "SchedulerHints",
    "OS-SRV-USG": "ServerUsage",
    "os-aggregates": "Aggregates",
    "os-attach-interfaces": "AttachInterfaces",
    "os-availability-zone": "AvailabilityZone",
    "os-config-drive": "ConfigDrive",
    "os-console-output": "ConsoleOutput",
    "os-extended-quotas": "ExtendedQuotas",
    "os-extended-services": "ExtendedServices",
    "os-extended-services-delete": "ExtendedServicesDelete",
    "os-flavor-access": "FlavorAccess",
    "os-flavor-extra-specs": "FlavorExtraSpecs",
    "os-flavor-manage": "FlavorManage",
    "os-flavor-rxtx": "FlavorRxtx",
    "os-flavor-swap": "FlavorSwap",
    "os-hosts": "Hosts",
    "os-hypervisors": "Hypervisors",
    "os-instance-actions": "InstanceActions",
    "os-keypairs": "Keypairs",
    "os-migrations": "Migrations",
    "os-multiple-create": "MultipleCreate",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-security-groups": "SecurityGroups",
    "os-server-diagnostics": "ServerDiagnostics",
    "os-server-external-events": "ServerExternalEvents",
    "os-server-group-quotas": "ServerGroupQuotas",
    "os-server-groups": "ServerGroups",
    "os-server-list-multi-status": "ServerListMultiStatus",
    "os-server-sort-keys": "ServerSortKeys",
    "os-server-start-stop": "ServerStartStop",
    "os-services": "Services",
    "os-simple-tenant-usage": "SimpleTenantUsage",
    "os-used-limits": "UsedLimits",
    "os-used-limits-for-admin": "UsedLimitsForAdmin",
    "os-user-data": "UserData",
    "os-user-quotas": "UserQuotas",
}


def _shape(alias: str) -> dict[str, Any]:
    return {
        "alias": alias,
        "name": _SEEN[alias],
        "description": f"{_SEEN[alias]}, as the compute API defines it.",
        "links": [],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    }


def index(req: Request) -> Any:
    """List the extensions that work."""
    return {"extensions": [_shape(a) for a in sorted(_SEEN)]}


def show(req: Request) -> Any:
    """Show one extension."""
    alias = req.params["alias"]
    if alias not in _SEEN:
        raise NotFound("The resource could not be found.")
    return {"extension": _shape(alias)}


_RULE = R + "extensions"
ROUTES = [
    *versioned("GET", "/extensions", index, _RULE, queries=NO_QUERY, answer=a.EXTENSIONS),
    *versioned("GET", "/extensions/{alias}", show, _RULE, queries=NO_QUERY, answer=a.EXTENSION),
]
RULES = {_RULE: ANY}
