"""What the API answers about the parts of a server, and about what is done to it."""

from kilonova.http.answer import (
    FLAG,
    LINKS,
    NUMBER,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    TEXT_BY_NAME,
    TEXT_OR_NULL,
    TEXTS,
    Describe,
    Field,
    Json,
    array,
    many,
    one,
    plain,
    shape,
)
from kilonova.http.microversion import Microversion, V

METADATA = plain({"metadata": Field(TEXT_BY_NAME)})
META = plain({"meta": Field({**TEXT_BY_NAME, "minProperties": 1, "maxProperties": 1})})
TAGS = plain({"tags": Field(TEXTS)})

_ADDRESS = array({"version": Field({"enum": [4, 6]}), "addr": Field(TEXT)})


def _by_label(v: Microversion) -> Json:
    return {"type": "object", "additionalProperties": _ADDRESS(v)}


ADDRESSES = plain({"addresses": Field(_by_label)})
ADDRESSES_OF: Describe = lambda v: {**_by_label(v), "minProperties": 1, "maxProperties": 1}  # noqa: E731
_NIC = {
    "net_id": Field(TEXT),
    "port_id": Field(TEXT),
    "mac_addr": Field(TEXT),
    "port_state": Field(TEXT),
    "fixed_ips": Field(array({"subnet_id": Field(TEXT), "ip_address": Field(TEXT)})),
    "tag": Field(TEXT_OR_NULL, since=70),
}
INTERFACES = many("interfaceAttachments", _NIC)
INTERFACE = one("interfaceAttachment", _NIC)

_ATTACHMENT = {
    "id": Field(TEXT, until=88),
    "volumeId": Field(TEXT),
    "serverId": Field(TEXT),
    "device": Field(TEXT_OR_NULL, always=False),
    "tag": Field(TEXT_OR_NULL, since=70),
    "delete_on_termination": Field(FLAG, since=79),
    "attachment_id": Field(TEXT_OR_NULL, since=89),
    "bdm_uuid": Field(TEXT, since=89),
}
_ATTACHED = {
    k: f._replace(until=100)
    for k, f in _ATTACHMENT.items()
    if k not in ("attachment_id", "bdm_uuid")
}
VOLUMES = many("volumeAttachments", _ATTACHMENT)
VOLUME = one("volumeAttachment", _ATTACHMENT)
VOLUME_ATTACHED = one("volumeAttachment", _ATTACHED)  # until 2.100: from then on 202 without a body

_GROUP_RULE = {
    "id": Field(TEXT),
    "parent_group_id": Field(TEXT),
    "ip_protocol": Field(TEXT_OR_NULL),
    "from_port": Field(NUMBER_OR_NULL),
    "to_port": Field(NUMBER_OR_NULL),
    "group": Field(
        plain({"name": Field(TEXT, always=False), "tenant_id": Field(TEXT, always=False)})
    ),
    "ip_range": Field(plain({"cidr": Field(TEXT, always=False)})),
}
_GROUP = {
    "id": Field(TEXT),
    "name": Field(TEXT),
    "description": Field(TEXT_OR_NULL),
    "tenant_id": Field(TEXT),
    "rules": Field(array(_GROUP_RULE)),
}
SECURITY_GROUPS = many("security_groups", _GROUP)

_ACTION = {
    "action": Field(TEXT),
    "instance_uuid": Field(TEXT),
    "request_id": Field(TEXT_OR_NULL),
    "user_id": Field(TEXT_OR_NULL),
    "project_id": Field(TEXT_OR_NULL),
    "start_time": Field(TEXT),
    "message": Field(TEXT_OR_NULL),
    "updated_at": Field(TEXT_OR_NULL, since=58),
}
_EVENT = {
    "event": Field(TEXT),
    "start_time": Field(TEXT),
    "finish_time": Field(TEXT_OR_NULL),
    "result": Field(TEXT_OR_NULL),
    "traceback": Field(TEXT_OR_NULL, always=False),
    "host": Field(TEXT_OR_NULL, since=62, always=False),
    "hostId": Field(TEXT, since=62),
    "details": Field(TEXT_OR_NULL, since=84, always=False),
}
ACTIONS = plain(
    {
        "instanceActions": Field(array(_ACTION)),
        "links": Field(LINKS, since=58, always=False),
    }
)


def _action(v: Microversion) -> Json:
    """Until 2.50 only an admin sees the events."""
    events = Field(array(_EVENT), always=v >= V(2, 51))
    return shape({**_ACTION, "events": events}, v)


ACTION = plain({"instanceAction": Field(_action)})

CONSOLE_OUTPUT = plain({"output": Field(TEXT)})
_CELL = {
    "memory_mb": Field(NUMBER),
    "siblings": Field({"type": "array", "items": {"type": "array", "items": NUMBER}}),
    "vcpu_set": Field({"type": "array", "items": NUMBER}),
    "host_node": Field(NUMBER, always=False),
    "cpu_pinning": Field(OBJECT, always=False),
}
TOPOLOGY = plain({"nodes": Field(array(_CELL)), "pagesize_kb": Field(NUMBER_OR_NULL)})

_DISK = ("read_bytes", "read_requests", "write_bytes", "write_requests", "errors_count")
_NIC_COUNTS = tuple(
    f"{way}_{what}"
    for way in ("rx", "tx")
    for what in ("octets", "errors", "drop", "packets", "rate")
)


def _counts(*names: str, **more: Field) -> Field:
    return Field(array({**more, **{n: Field(NUMBER_OR_NULL) for n in names}}))


_FACTS = {
    **{n: Field(TEXT_OR_NULL) for n in ("state", "driver", "hypervisor", "hypervisor_os")},
    **{n: Field(NUMBER_OR_NULL) for n in ("uptime", "num_cpus", "num_nics", "num_disks")},
    "config_drive": Field(FLAG),
    "disk_details": _counts(*_DISK),
    "cpu_details": _counts("id", "time", "utilisation"),
    "nic_details": _counts(*_NIC_COUNTS, mac_address=Field(TEXT_OR_NULL)),
    "memory_details": Field(plain({n: Field(NUMBER_OR_NULL) for n in ("maximum", "used")})),
}


def _diagnostics(v: Microversion) -> Json:
    """Before 2.48 a flat object whose names are the driver's."""
    if v >= V(2, 48):
        return shape(_FACTS, v)
    return {"type": "object", "additionalProperties": NUMBER}


DIAGNOSTICS: Describe = _diagnostics
_MOVE_OF_SERVER = {
    "id": Field(NUMBER),
    "status": Field(TEXT),
    "source_compute": Field(TEXT_OR_NULL),
    "source_node": Field(TEXT_OR_NULL),
    "dest_host": Field(TEXT_OR_NULL),
    "dest_compute": Field(TEXT_OR_NULL),
    "dest_node": Field(TEXT_OR_NULL),
    "created_at": Field(TEXT),
    "updated_at": Field(TEXT_OR_NULL),
    "server_uuid": Field(TEXT),
    **{
        f"{kind}_{what}_bytes": Field(NUMBER_OR_NULL)
        for kind in ("memory", "disk")
        for what in ("total", "processed", "remaining")
    },
    "uuid": Field(TEXT, since=59),
    "user_id": Field(TEXT_OR_NULL, since=80),
    "project_id": Field(TEXT_OR_NULL, since=80),
}
SERVER_MIGRATIONS = many("migrations", _MOVE_OF_SERVER)
SERVER_MIGRATION = one("migration", _MOVE_OF_SERVER)
_MOVE = {
    "id": Field(NUMBER),
    "status": Field(TEXT),
    "instance_uuid": Field(TEXT),
    "source_compute": Field(TEXT_OR_NULL),
    "source_node": Field(TEXT_OR_NULL),
    "dest_host": Field(TEXT_OR_NULL),
    "dest_compute": Field(TEXT_OR_NULL),
    "dest_node": Field(TEXT_OR_NULL),
    "old_instance_type_id": Field(NUMBER_OR_NULL),
    "new_instance_type_id": Field(NUMBER_OR_NULL),
    "created_at": Field(TEXT),
    "updated_at": Field(TEXT_OR_NULL),
    "migration_type": Field(TEXT, since=23),
    "links": Field(LINKS, since=23, always=False),
    "uuid": Field(TEXT, since=59),
    "user_id": Field(TEXT_OR_NULL, since=80),
    "project_id": Field(TEXT_OR_NULL, since=80),
    "cross_cell_move": Field(FLAG, always=False),  # ours: only of one to another cell
}
MIGRATIONS = many("migrations", _MOVE, paged=59)

# -- actions that answer with a body

IMAGE_MADE = plain({"image_id": Field(TEXT, since=45)})  # createImage, createBackup from 2.45
ADMIN_PASSWORD = plain({"adminPass": Field(TEXT)})  # rescue; evacuate until 2.13
_CONSOLE = {"type": Field(TEXT), "url": Field(TEXT)}
CONSOLE = one("console", _CONSOLE)
REMOTE_CONSOLE = one("remote_console", {"protocol": Field(TEXT), **_CONSOLE})
PASSWORD = plain({"password": Field(TEXT)})
