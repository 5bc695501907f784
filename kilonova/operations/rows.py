"""From a server as asked for to its row in a cell; also how an unplaced server is rendered."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.objects.guest import PowerState
from kilonova.objects.server import NicRecord, RequestedServer
from kilonova.operations import states
from kilonova.operations.server_disks import is_root, path_of

_encode = msgspec.json.encode


def _json(value: object) -> str:
    return _encode(value).decode()


def row_of(requested: RequestedServer) -> dict[str, Any]:
    """Return every column of the server's row as it is before it has a host: BUILD, scheduling."""
    return {
        "uuid": requested.server_id,
        "project_id": requested.project_id,
        "user_id": requested.user_id,
        "name": requested.name,
        "description": requested.description,
        "hostname": requested.hostname,
        "vm_state": states.BUILDING,
        "task_state": "scheduling",
        "power_state": int(PowerState.NOSTATE),
        "progress": 0,
        "host": None,
        "node": None,
        "availability_zone": None,
        "requested_zone": requested.availability_zone,
        "image_id": requested.image.id if requested.image else "",
        "flavor": _json(requested.flavor),
        "key_name": requested.key_name,
        "config_drive": "True" if requested.config_drive else "",
        "access_ip_v4": requested.access_ip_v4,
        "access_ip_v6": requested.access_ip_v6,
        "metadata": _json(requested.metadata),
        "tags": _json(sorted(requested.tags)),
        "addresses": "{}",
        "security_groups": _json([{"name": name} for _, name in requested.security_groups]),
        "nics": "[]",
        "disks": _json(requested.disks),
        "hardware": "{}",
        "devices": "[]",
        "keys": _json(requested.keys),
        "trusted_certs": _json(requested.trusted_certs),
        "system_metadata": _json({"disk_config": requested.disk_config, "image": requested.image}),
        "locked_by": None,
        "locked_reason": None,
        "reservation_id": requested.reservation_id,
        "launch_index": requested.launch_index,
        "root_device": next((path_of(d) for d in requested.disks if is_root(d)), None)
        or "/dev/vda",
        "user_data": requested.user_data,
        "server_group": requested.server_group,
        "metadata_generation": 1,
        "epoch": 1,
        "hidden": 0,
        "deleted": 0,
        "created_at": requested.created_at,
        "updated_at": requested.created_at,
        "launched_at": None,
        "terminated_at": None,
    }


def nics_json(nics: Sequence[NicRecord]) -> str:
    """Encode the NICs for the row."""
    return _json(nics)
