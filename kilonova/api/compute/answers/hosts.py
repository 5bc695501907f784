"""What the API answers about hosts: compute services, hypervisors, and hosts by name."""

from kilonova.http.answer import (
    FLAG,
    LINKS,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    Describe,
    Field,
    Fields,
    Json,
    array,
    many,
    one,
    plain,
    shape,
)
from kilonova.http.microversion import Microversion, V

_BINARY = {"binary": Field(TEXT), "host": Field(TEXT)}
_SILENT = {**_BINARY, "status": Field({"enum": ["UNKNOWN"]})}


def _id(v: Microversion) -> Json:
    """A number until 2.52, a uuid from 2.53."""
    return TEXT if v >= V(2, 53) else NUMBER


_ENABLED: Json = {"enum": ["enabled", "disabled"]}
_SERVICE = {
    **_BINARY,
    "id": Field(_id),
    "zone": Field(TEXT),
    "status": Field(_ENABLED),
    "state": Field({"enum": ["up", "down"]}),
    "updated_at": Field(TEXT_OR_NULL),
    "disabled_reason": Field(TEXT_OR_NULL),
    "forced_down": Field(FLAG, since=11),
}


def _services(v: Microversion) -> Json:
    """From 2.69 on a service of a cell that does not answer is there with what is known without it."""
    item = shape(_SERVICE, v)
    if v >= V(2, 69):
        item = {"anyOf": [item, shape(_SILENT, v)]}
    return {"type": "array", "items": item}


_ACTED = {
    **_BINARY,
    "status": Field(_ENABLED, always=False),
    "disabled_reason": Field(TEXT, always=False),
    "forced_down": Field(FLAG, since=11, always=False),
}
SERVICES = plain({"services": Field(_services)})
SERVICE_ACTED = one("service", _ACTED)
SERVICE = one("service", _SERVICE)

AMOUNTS = (
    "vcpus",
    "memory_mb",
    "local_gb",
    "vcpus_used",
    "memory_mb_used",
    "local_gb_used",
    "free_ram_mb",
    "free_disk_gb",
    "current_workload",
    "running_vms",
    "disk_available_least",
)
_SERVERS = array({"name": Field(TEXT), "uuid": Field(TEXT)})
_BASIC = {
    "id": Field(_id),
    "hypervisor_hostname": Field(TEXT),
    "state": Field({"enum": ["up", "down"]}),
    "status": Field(_ENABLED),
}
_OF_SERVICE = {"id": Field(_id), "host": Field(TEXT), "disabled_reason": Field(TEXT_OR_NULL)}
_WITH = {"servers": Field(_SERVERS, since=53, always=False)}
_DETAIL = {
    **_BASIC,
    "hypervisor_type": Field(TEXT),
    "hypervisor_version": Field(NUMBER),
    "host_ip": Field(TEXT),
    "service": Field(plain(_OF_SERVICE)),
    "cpu_info": Field(lambda v: OBJECT if v >= V(2, 28) else TEXT, until=87),
    **{n: Field(NUMBER, until=87) for n in AMOUNTS},
    "uptime": Field(TEXT_OR_NULL, since=88),
    **_WITH,
}


def _hypervisors(fields: Fields) -> Describe:
    links = Field(LINKS, since=33, always=False)
    return plain({"hypervisors": Field(array(fields)), "hypervisors_links": links})


HYPERVISORS = _hypervisors({**_BASIC, **_WITH})
HYPERVISORS_DETAIL = _hypervisors(_DETAIL)
HYPERVISOR = one("hypervisor", _DETAIL)
HYPERVISOR_UPTIME = one("hypervisor", {**_BASIC, "uptime": Field(TEXT)})
HYPERVISOR_SEARCH = many("hypervisors", _BASIC)
HYPERVISOR_SERVERS = many("hypervisors", {**_BASIC, "servers": Field(_SERVERS, always=False)})
STATISTICS = one("hypervisor_statistics", {n: Field(NUMBER) for n in ("count", *AMOUNTS)})

_HOST = {"host_name": Field(TEXT), "service": Field(TEXT), "zone": Field(TEXT)}
_RESOURCE = {
    "host": Field(TEXT),
    "project": Field(TEXT),
    **{n: Field(NUMBER) for n in ("cpu", "memory_mb", "disk_gb")},
}
HOSTS = many("hosts", _HOST)
HOST = many("host", {"resource": Field(plain(_RESOURCE))})
HOST_SET = plain({"host": Field(TEXT), "status": Field(_ENABLED)})
