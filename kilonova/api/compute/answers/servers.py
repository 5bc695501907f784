"""What the API answers about servers."""

from kilonova.http.answer import (
    FLAG,
    LINKS,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    TEXTS,
    Describe,
    Field,
    Fields,
    Json,
    one,
    plain,
    shape,
)
from kilonova.http.microversion import Microversion, V


def _image(v: Microversion) -> Json:
    fields = {"id": Field(TEXT), "links": Field(LINKS), "properties": Field(OBJECT, since=98)}
    return {"anyOf": [shape(fields, v), {"type": "string", "maxLength": 0}]}


def _flavor_of_server(v: Microversion) -> Json:
    fields = {
        "id": Field(TEXT, until=46),
        "links": Field(LINKS, until=46),
        **{n: Field(NUMBER, since=47) for n in ("vcpus", "ram", "disk", "ephemeral", "swap")},
        "original_name": Field(TEXT, since=47),
        "extra_specs": Field(OBJECT, since=47, always=False),
    }
    return shape(fields, v)


def _volumes(v: Microversion) -> Json:
    fields = {"id": Field(TEXT), "delete_on_termination": Field(FLAG, since=3)}
    return {"type": "array", "items": shape(fields, v)}


_FAULT = {
    "code": Field(NUMBER),
    "message": Field(TEXT),
    "created": Field(TEXT),
    "details": Field(TEXT, always=False),
}
_NAMED_LIST: Json = {
    "type": "array",
    "items": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
}
_ATTR = "OS-EXT-SRV-ATTR:"
LISTED: dict[str, Field] = {
    "id": Field(TEXT),
    "name": Field(TEXT),
    "status": Field(TEXT),
    "tenant_id": Field(TEXT),
    "user_id": Field(TEXT),
    "metadata": Field(OBJECT),
    "hostId": Field(TEXT),
    "image": Field(_image),
    "flavor": Field(_flavor_of_server),
    "created": Field(TEXT),
    "updated": Field(TEXT),
    "addresses": Field(OBJECT),
    "accessIPv4": Field(TEXT),
    "accessIPv6": Field(TEXT),
    "links": Field(LINKS),
    "OS-DCF:diskConfig": Field({"enum": ["AUTO", "MANUAL"]}),
    "progress": Field(NUMBER, always=False),
    "fault": Field(plain(_FAULT), always=False),
    "OS-EXT-AZ:availability_zone": Field(TEXT),
    "config_drive": Field({"enum": ["", "True"]}),
    "key_name": Field(TEXT_OR_NULL),
    "OS-SRV-USG:launched_at": Field(TEXT_OR_NULL),
    "OS-SRV-USG:terminated_at": Field(TEXT_OR_NULL),
    "security_groups": Field(_NAMED_LIST, always=False),
    "OS-EXT-STS:task_state": Field(TEXT_OR_NULL),
    "OS-EXT-STS:vm_state": Field(TEXT),
    "OS-EXT-STS:power_state": Field(NUMBER),
    "os-extended-volumes:volumes_attached": Field(_volumes),
    _ATTR + "host": Field(TEXT_OR_NULL, always=False),
    _ATTR + "hypervisor_hostname": Field(TEXT_OR_NULL, always=False),
    _ATTR + "instance_name": Field(TEXT, always=False),
    _ATTR + "hostname": Field(TEXT, since=3, always=False),
    _ATTR + "reservation_id": Field(TEXT, since=3, always=False),
    _ATTR + "launch_index": Field(NUMBER, since=3, always=False),
    _ATTR + "root_device_name": Field(TEXT_OR_NULL, since=3, always=False),
    _ATTR + "kernel_id": Field(TEXT, since=3, always=False),
    _ATTR + "ramdisk_id": Field(TEXT, since=3, always=False),
    _ATTR + "user_data": Field(TEXT_OR_NULL, since=3, always=False),
    "locked": Field(FLAG, since=9),
    "host_status": Field(TEXT, since=16, always=False),
    "description": Field(TEXT_OR_NULL, since=19),
    "tags": Field(TEXTS, since=26),
    "trusted_image_certificates": Field({"type": ["array", "null"], "items": TEXT}, since=63),
    "locked_reason": Field(TEXT_OR_NULL, since=73),
    "pinned_availability_zone": Field(TEXT_OR_NULL, since=96),
    "scheduler_hints": Field(OBJECT, since=100),
}
SHOWN = {**LISTED, "server_groups": Field(TEXTS, since=71)}
BASIC = {"id": Field(TEXT), "name": Field(TEXT), "links": Field(LINKS)}
_LATE_IN_UPDATE = ("OS-DCF:diskConfig", "locked", "description", "tags")
_LATER_IN_UPDATE = ("trusted_image_certificates", "server_groups", "locked_reason")
_EARLY = tuple(LISTED)[:15]


def _updated(v: Microversion) -> Json:
    """PUT answers with few fields before 2.75, and like GET from then on."""
    fields = SHOWN
    if not v >= V(2, 75):
        kept = (*_EARLY, "progress", "fault", *_LATE_IN_UPDATE, *_LATER_IN_UPDATE)
        fields = {k: f for k, f in SHOWN.items() if k in kept}
    return one("server", fields)(v)


def _rebuilt(v: Microversion) -> Json:
    """As an update is answered, with the password, and what a rebuild can change."""
    fields = SHOWN
    if not v >= V(2, 75):
        kept = (*_EARLY, "progress", "fault", *_LATE_IN_UPDATE, *_LATER_IN_UPDATE)
        fields = {k: f for k, f in SHOWN.items() if k in kept}
        fields["key_name"] = Field(TEXT_OR_NULL, since=54)
    fields = {
        **{k: f for k, f in fields.items() if k != _ATTR + "user_data"},
        "user_data": Field(TEXT_OR_NULL, since=57),
        "adminPass": Field(TEXT),
    }
    return one("server", fields)(v)


_MADE = {
    "id": Field(TEXT),
    "links": Field(LINKS),
    "OS-DCF:diskConfig": Field({"enum": ["AUTO", "MANUAL"]}),
    "security_groups": Field(_NAMED_LIST),
    "adminPass": Field(TEXT, always=False),
}


def _created(v: Microversion) -> Json:
    """POST answers with the server, or with the reservation id when that was asked for."""
    fields = {
        "server": Field(plain(_MADE), always=False),
        "reservation_id": Field(TEXT, always=False),
    }
    return {**shape(fields, v), "minProperties": 1, "maxProperties": 1}


_SILENT = {"id": Field(TEXT), "status": Field({"enum": ["UNKNOWN"]}), "links": Field(LINKS)}
_SILENT_DETAIL = {**_SILENT, "tenant_id": Field(TEXT), "created": Field(TEXT)}
_SILENT_SHOWN = {
    **_SILENT_DETAIL,
    **{
        n: SHOWN[n]
        for n in (
            *("user_id", "image", "flavor", "server_groups"),
            *("OS-EXT-AZ:availability_zone", "OS-EXT-STS:power_state"),
        )
    },
}


def _or_silent(fields: Fields, silent: Fields) -> Describe:
    """From 2.69 on a server of a cell that does not answer has what is known without it."""

    def describe(v: Microversion) -> Json:
        if not v >= V(2, 69):
            return shape(fields, v)
        return {"anyOf": [shape(fields, v), shape(silent, v)]}

    return describe


def _listed(fields: Fields, silent: Fields) -> Describe:
    def items(v: Microversion) -> Json:
        return {"type": "array", "items": _or_silent(fields, silent)(v)}

    return plain({"servers": Field(items), "servers_links": Field(LINKS, since=1, always=False)})


LIST = _listed(BASIC, _SILENT)
DETAIL = _listed(LISTED, _SILENT_DETAIL)
SHOW = plain({"server": Field(_or_silent(SHOWN, _SILENT_SHOWN))})
CREATE: Describe = _created
UPDATE: Describe = _updated
REBUILD: Describe = _rebuilt
