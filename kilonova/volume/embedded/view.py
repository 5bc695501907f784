"""Records in Cinder's forms, by microversion."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.common.clock import iso_micro
from kilonova.db.engine import Row
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.volume.embedded import placing

_json = msgspec.json.decode


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
    if row["readonly"]:
        out["metadata"] = {**out["metadata"], "readonly": "True"}
    image = _json(row["image"])
    if image:
        out["volume_image_metadata"] = image
    v = req.version
    if admin:
        out["os-vol-host-attr:host"] = placing.address(row["host"]) or None
        out["os-vol-mig-status-attr:migstat"] = None
        out["os-vol-mig-status-attr:name_id"] = None
        out["migration_status"] = None
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
