"""Records in Cinder's forms, by microversion."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.common.clock import iso_micro
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.objects.image import Image
from kilonova.volume.embedded import placing

_json = msgspec.json.decode
MESSAGES_KEPT_S = 30 * 86400.0


def moment(seconds: float | None) -> str | None:
    """Return a time as Cinder writes it."""
    return None if seconds is None else iso_micro(seconds)


def links(req: Request, *path: str) -> list[dict[str, str]]:
    """Return a thing's self and bookmark links."""
    project = req.params.get("project_id")
    parts = (project, *path) if project else path
    return [
        {"rel": "self", "href": req.url("v3", *parts)},
        {"rel": "bookmark", "href": req.url(*parts)},
    ]


def volume_brief(req: Request, row: Row) -> dict[str, Any]:
    """Return the short form of a volume."""
    return {"id": row["id"], "name": row["name"], "links": links(req, "volumes", row["id"])}


def volume(req: Request, row: Row, held: Sequence[Row], type_name: str) -> dict[str, Any]:
    """Return a volume in full. held: its attachments."""
    admin = req.may("volume_extension:volume_host_attribute", {"project_id": row["project_id"]})
    out: dict[str, Any] = {
        **volume_brief(req, row),
        "description": row["description"],
        "status": row["status"],
        "size": row["size_gib"],
        "availability_zone": row["zone"],
        "created_at": moment(row["created_at"]),
        "updated_at": moment(row["updated_at"]),
        "attachments": [
            _attached(a, admin=admin) for a in held if a["status"] in ("attached", "detaching")
        ],
        "volume_type": type_name or None,
        "snapshot_id": row["snapshot_id"],
        "source_volid": row["source_volid"],
        "metadata": _json(row["metadata"]),
        "user_id": row["user_id"],
        "bootable": "true" if row["bootable"] else "false",
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": bool(row["multiattach"]),
        "os-vol-tenant-attr:tenant_id": row["project_id"],
    }
    if row["readonly_said"]:
        out["metadata"] = {**out["metadata"], "readonly": str(bool(row["readonly"]))}
    image = _json(row["image"])
    if image:
        out["volume_image_metadata"] = image
    v = req.version
    if admin:
        out["os-vol-host-attr:host"] = placing.address(row["host"]) or None
        out["os-vol-mig-status-attr:migstat"] = row["migration_status"]
        out["os-vol-mig-status-attr:name_id"] = None
        out["migration_status"] = row["migration_status"]
        if v >= V(3, 21):
            out["provider_id"] = None
        if v >= V(3, 61):
            out["cluster_name"] = None
    if v >= V(3, 13):
        out["group_id"] = None
    if v >= V(3, 48):
        out["shared_targets"] = None if v >= V(3, 69) else False
        out["service_uuid"] = None
    if v >= V(3, 63):
        out["volume_type_id"] = row["type_id"]
    if v >= V(3, 65):
        out["consumes_quota"] = True
    return out


def plain(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a volume as create and update answer it: without what only ``show`` and ``detail`` add."""
    return {
        k: v
        for k, v in shown.items()
        if not k.startswith("os-vol-") and k not in ("volume_image_metadata", "cluster_name")
    }


def _attached(row: Row, *, admin: bool) -> dict[str, Any]:
    return {
        "id": row["volume_id"],
        "attachment_id": row["id"],
        "volume_id": row["volume_id"],
        "server_id": row["server_id"] or None,
        "host_name": row["host"] or None if admin else None,
        "device": row["mountpoint"],
        "attached_at": moment(row["attached_at"]),
    }


def attachment_brief(row: Row) -> dict[str, Any]:
    """Return the short form of an attachment."""
    return {
        "id": row["id"],
        "instance": row["server_id"] or None,
        "volume_id": row["volume_id"],
        "status": row["status"],
    }


def attachment(row: Row, info: dict[str, Any]) -> dict[str, Any]:
    """Return an attachment in full. info: connection_info."""
    return {
        **attachment_brief(row),
        "attached_at": moment(row["attached_at"]) or "",
        "detached_at": "",
        "attach_mode": row["mode"],
        "connection_info": info,
    }


def snapshot(req: Request, row: Row, *, full: bool = True) -> dict[str, Any]:
    """Return a snapshot. full: with what only ``detail`` and ``show`` have."""
    v = req.version
    out: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "status": row["status"],
        "size": row["size_gib"],
        "volume_id": row["volume_id"],
        "created_at": moment(row["created_at"]),
        "updated_at": moment(row["updated_at"]),
        "metadata": _json(row["metadata"]),
    }
    if full:
        out["os-extended-snapshot-attributes:progress"] = (
            "100%" if row["status"] == "available" else "0%"
        )
        out["os-extended-snapshot-attributes:project_id"] = row["project_id"]
    if v >= V(3, 14):
        out["group_snapshot_id"] = None
    if v >= V(3, 41):
        out["user_id"] = row["user_id"]
    if v >= V(3, 65):
        out["consumes_quota"] = True
    return out


def uploading(row: Row, image: Image, type_name: str) -> dict[str, Any]:
    """Return the answer of os-volume_upload_image."""
    return {
        "id": row["id"],
        "updated_at": moment(row["updated_at"]),
        "status": "uploading",
        "display_description": row["description"],
        "size": row["size_gib"],
        "volume_type": {"name": type_name, "id": row["type_id"]} if type_name else None,
        "image_id": image.id,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "image_name": image.name,
        "visibility": image.visibility,
        "protected": image.protected,
    }


def packed(pairs: dict[str, str]) -> str:
    """Return pairs as a JSON column keeps them."""
    return msgspec.json.encode(pairs).decode()


def volume_type(row: Row, specs: dict[str, str]) -> dict[str, Any]:
    """Return a volume type with the extra specs that the caller may see."""
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "is_public": bool(row["is_public"]),
        "os-volume-type-access:is_public": bool(row["is_public"]),
        "extra_specs": specs,
    }


def backup_brief(req: Request, row: Row) -> dict[str, Any]:
    """Return the short form of a backup."""
    return {"id": row["id"], "name": row["name"], "links": links(req, "backups", row["id"])}


def backup(req: Request, row: Row, *, parent: bool) -> dict[str, Any]:
    """Return a backup in full. parent: others add to it."""
    v = req.version
    out: dict[str, Any] = {
        **backup_brief(req, row),
        "status": row["status"],
        "size": row["size_gib"],
        "object_count": 1 if row["status"] == "available" else 0,
        "availability_zone": row["zone"],
        "container": row["container"],
        "created_at": moment(row["created_at"]),
        "updated_at": moment(row["updated_at"]),
        "description": row["description"],
        "fail_reason": row["fail_reason"],
        "volume_id": row["volume_id"],
        "is_incremental": row["parent_id"] is not None,
        "has_dependent_backups": parent,
        "snapshot_id": row["snapshot_id"],
        "data_timestamp": moment(_json(row["volume"]).get("data_at", row["created_at"])),
    }
    if v >= V(3, 18) and req.may("backup:backup_project_attribute"):
        out["os-backup-project-attr:project_id"] = row["project_id"]
    if v >= V(3, 43):
        out["metadata"] = _json(row["metadata"])
    if v >= V(3, 56):
        out["user_id"] = row["user_id"]
    if v >= V(3, 64):
        out["encryption_key_id"] = None
    return out


def transfer(req: Request, row: Row, *, full: bool = True) -> dict[str, Any]:
    """Return a transfer; never its key."""
    out: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "volume_id": row["volume_id"],
        "links": links(req, "volume-transfers", row["id"]),
    }
    if full:
        out["created_at"] = moment(row["created_at"])
    if req.version >= V(3, 55) and full:
        out["no_snapshots"] = bool(row["no_snapshots"])
    if req.version >= V(3, 57) and full:
        out["source_project_id"] = row["project_id"]
        out["destination_project_id"] = None
        out["accepted"] = False
    return out


def plain_snapshot(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot as create and update answer it."""
    return {k: v for k, v in shown.items() if not k.startswith("os-extended-")}


def message(req: Request, row: Row) -> dict[str, Any]:
    """Return a message to a tenant."""
    return {
        "id": row["id"],
        "event_id": row["event_id"],
        "user_message": row["text"],
        "message_level": "ERROR",
        "created_at": moment(row["created_at"]),
        "guaranteed_until": moment(row["created_at"] + MESSAGES_KEPT_S),
        "request_id": row["request_id"],
        "resource_type": row["resource_type"],
        "resource_uuid": row["resource_uuid"],
        "links": links(req, "messages", row["id"]),
    }
