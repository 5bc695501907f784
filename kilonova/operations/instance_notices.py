"""What is told of servers, in the form of Nova's versioned notifications (instance.*).

State, task state, power state and host are those of the moment; name, flavor, addresses and the rest are those of when
it is read, a second later for who listens. Hosts are for administrators.
source: Nova's notification samples (doc/notification_samples), field and event names alone.
"""

from typing import Any

import msgspec

from kilonova.common.clock import iso
from kilonova.db import actions, migrations, servers
from kilonova.db import notifications as log
from kilonova.db.engine import Row, Tx
from kilonova.objects.server import FlavorRecord, NicRecord
from kilonova.operations import server_disks
from kilonova.operations.notices import nova_object

_NAMES = {
    "start": "power_on",
    "stop": "power_off",
    "resize_leave": "resize",
    "confirmResize": "resize_confirm",
    "revertResize": "resize_revert",
    "shelveOffload": "shelve_offload",
    "createImage": "snapshot",
    "createBackup": "snapshot",
    "attach_volume": "volume_attach",
    "detach_volume": "volume_detach",
    "swap_volume": "volume_swap",
    "attach_interface": "interface_attach",
    "detach_interface": "interface_detach",
    "changePassword": "change_password",
}
_LIVE = {
    log.START: "live_migration_pre.start",
    log.END: "live_migration_post.end",
    log.ERROR: "live_migration_rollback.end",
}
_RESIZE = {
    log.START: "resize_prep.start",
    log.END: "resize_finish.end",
    log.ERROR: "resize.error",
}
_RESIZES = ("resize", "migrate")
_SINGLE = {"lock": "lock", "unlock": "unlock", "update": "update"}
_POWER = {0: "pending", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}
_SOFT = ("soft-delete", "soft-deleting")
_FLAVOR = msgspec.json.Decoder(FlavorRecord).decode
_NICS = msgspec.json.Decoder(list[NicRecord]).decode
_json = msgspec.json.decode


def name_of(row: Row) -> str | None:
    """Return the event's name as Nova has it; None for what is told by its other half alone (lock has no start)."""
    action, _, phase = row["event"].partition(":")
    if action in _SINGLE:
        return None if phase == "start" else f"instance.{_SINGLE[action]}"
    if action == "live-migration":
        return f"instance.{_LIVE[':' + phase]}"
    if action in _RESIZES:
        return f"instance.{_RESIZE[':' + phase]}"
    if action == "evacuate":
        return "instance.evacuate" if phase == "start" else f"instance.rebuild.{phase}"
    if action == "delete" and (row["vm_state"] in _SOFT or row["task_state"] in _SOFT):
        return f"instance.soft_delete.{phase}"
    return f"instance.{_NAMES.get(action, action)}.{phase}"


def payload(tx: Tx, row: Row, *, admin: bool) -> dict[str, Any] | None:
    """Return what is told; None when nothing is left of the server. tx: reads the database that the row is in."""
    server = servers.find(tx, row["resource"])
    if server is None:
        return None
    data = _data(server, row, admin=admin)
    action, _, phase = row["event"].partition(":")
    if action in _SINGLE:
        data |= {"tags": _json(server["tags"])} if action == "update" else {}
        return nova_object("InstancePayload", "1.8", data)
    data["fault"] = _fault(tx, row) if phase == "error" else None
    if action == "resize_prep" or (action in _RESIZES and phase == "start"):
        moves = migrations.of_server(tx, row["resource"])
        data["new_flavor"] = _flavor(_FLAVOR(moves[-1]["new_flavor"])) if moves else None
        return nova_object("InstanceActionResizePrepPayload", "1.3", data)
    if action == "create":
        data |= {
            "instance_name": server["name"],
            "keypairs": _keys(server),
            "tags": _json(server["tags"]),
            "trusted_image_certificates": _json(server["trusted_certs"]),
        }
        return nova_object("InstanceCreatePayload", "1.12", data)
    return nova_object("InstanceActionPayload", "1.8", data)


def _data(server: Row, row: Row, *, admin: bool) -> dict[str, Any]:
    system = _json(server["system_metadata"])
    return {
        "action_initiator_project": row["project_id"],
        "action_initiator_user": row["user_id"] or None,
        "architecture": system.get("image_hw_architecture"),
        "auto_disk_config": system.get("disk_config", "MANUAL"),
        "availability_zone": server["availability_zone"],
        "block_devices": _volumes(server),
        "created_at": iso(server["created_at"]),
        "deleted_at": _time(server["terminated_at"]),
        "display_description": server["description"],
        "display_name": server["name"],
        "flavor": _flavor(_FLAVOR(server["flavor"])),
        "host": row["host"] if admin else None,
        "host_name": server["hostname"],
        "image_uuid": server["image_id"],
        "ip_addresses": _addresses(server),
        "kernel_id": "",
        "key_name": server["key_name"],
        "launched_at": _time(server["launched_at"]),
        "locked": server["locked_by"] is not None,
        "locked_reason": server["locked_reason"],
        "metadata": _json(server["metadata"]),
        "node": row["host"] if admin else None,
        "os_type": None,
        "power_state": _POWER.get(row["power_state"], "pending"),
        "progress": server["progress"],
        "ramdisk_id": "",
        "request_id": row["request_id"],
        "reservation_id": server["reservation_id"],
        "shares": [],
        "state": row["vm_state"],
        "task_state": row["task_state"],
        "tenant_id": server["project_id"],
        "terminated_at": _time(server["terminated_at"]),
        "updated_at": _time(server["updated_at"]),
        "user_id": server["user_id"],
        "uuid": server["uuid"],
    }


def _time(at: float | None) -> str | None:
    return None if at is None else iso(at)


def _flavor(f: FlavorRecord) -> dict[str, Any]:
    return nova_object(
        "FlavorPayload",
        "1.4",
        {
            "description": f.description,
            "disabled": f.disabled,
            "ephemeral_gb": f.ephemeral_gib,
            "extra_specs": f.extra_specs,
            "flavorid": f.flavorid,
            "is_public": f.is_public,
            "memory_mb": f.memory_mib,
            "name": f.name,
            "projects": None,
            "root_gb": f.root_gib,
            "rxtx_factor": f.rxtx_factor,
            "swap": f.swap_mib,
            "vcpu_weight": 0,
            "vcpus": f.vcpus,
        },
    )


def _addresses(server: Row) -> list[dict[str, Any]]:
    """Return every address with its port: MACs tell which is whose."""
    ports = {nic.mac: nic.port_id for nic in _NICS(server["nics"])}
    found = []
    for label, addresses in _json(server["addresses"]).items():
        for one in addresses:
            mac = one.get("OS-EXT-IPS-MAC:mac_addr")
            port = ports.get(mac)
            data = {
                "address": one["addr"],
                "device_name": None if port is None else f"tap{port[:11]}",
                "label": label,
                "mac": mac,
                "meta": {},
                "port_uuid": port,
                "version": one["version"],
            }
            found.append(nova_object("IpPayload", "1.0", data))
    return found


def _volumes(server: Row) -> list[dict[str, Any]]:
    """Return the disks that are volumes, as Nova does: local ones are of the flavor and the image."""
    return [
        nova_object(
            "BlockDevicePayload",
            "1.0",
            {
                "boot_index": disk.boot_index,
                "delete_on_termination": disk.delete_on_termination,
                "device_name": server_disks.path_of(disk),
                "tag": disk.tag,
                "volume_id": disk.volume_id,
            },
        )
        for disk in server_disks.read(server)
        if disk.destination == "volume" and disk.volume_id is not None
    ]


def _keys(server: Row) -> list[dict[str, Any]]:
    return [
        nova_object(
            "KeypairPayload",
            "1.0",
            {
                "fingerprint": None,
                "name": name,
                "public_key": public,
                "type": kind,
                "user_id": server["user_id"],
            },
        )
        for name, kind, public in _json(server["keys"])
    ]


def _fault(tx: Tx, row: Row) -> dict[str, Any] | None:
    """Return why it failed, as the tenant may read it."""
    fault = actions.last_fault(tx, row["resource"])
    if fault is None:
        return None
    data = {
        "exception": "KilonovaError",
        "exception_message": fault["message"],
        "function_name": row["event"].partition(":")[0],
        "module_name": "kilonova.operations",
        "traceback": None,
    }
    return nova_object("ExceptionPayload", "1.1", data)
