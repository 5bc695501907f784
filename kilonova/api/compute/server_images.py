"""createImage and createBackup: images made of servers. Their bytes come later; the answer names the image."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER
from kilonova.api.compute.schemas.common import METADATA, NAME, Json, wrap
from kilonova.api.compute.servers.finding import found
from kilonova.api.compute.shared import R, versioned
from kilonova.common.errors import BadRequest
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.objects.server import SnapshotParams
from kilonova.operations import server_backup, server_snapshot, server_snapshot_volumes, snapshots

_IMAGE_RULE = R + "servers:create_image"
_BACKUP_RULE = R + "os-create-backup"


def create_image(req: Request) -> Any:
    """Make an image of a server while it goes on."""
    server, asked = found(req, _IMAGE_RULE), req.body["createImage"]
    saga = server_snapshot.SAGA
    if server.row is not None and snapshots.is_volume_backed(server.row):
        found(req, _IMAGE_RULE + ":allow_volume_backed")
        saga = server_snapshot_volumes.SAGA
    image = snapshots.start(
        req.cloud,
        req.ctx,
        saga,
        server,
        asked["name"].strip(),
        asked.get("metadata", {}),
    )
    return _told(req, image)


def create_backup(req: Request) -> Any:
    """Make an image of a server, and delete the oldest of its type beyond ``rotation``."""
    server, asked = found(req, _BACKUP_RULE), req.body["createBackup"]
    rotation = int(asked["rotation"])
    if server.row is not None and snapshots.is_volume_backed(server.row):
        raise BadRequest("Backup is not supported for volume-backed instances.")
    image = snapshots.start(
        req.cloud,
        req.ctx,
        server_backup.SAGA,
        server,
        asked["name"].strip(),
        asked.get("metadata", {}),
        backup_type=asked["backup_type"],
        rotation=rotation,
    )
    return _told(req, image, stays=rotation > 0)


def again(req: Request, params: SnapshotParams) -> Any:
    """Name the image of a request that was accepted before."""
    return _told(req, params.image_id, stays=params.rotation != 0)


def _told(req: Request, image: str, stays: bool = True) -> Any:
    """Name the image: in the body from 2.45, in the Location header before (if it stays)."""
    if req.version >= V(2, 45):
        return {"image_id": image}
    if not stays:
        return None
    return Response(headers={"Location": f"{req.root}/image/v2/images/{image}"})


_IMAGE: Json = {
    "type": "object",
    "properties": {"name": NAME, "metadata": METADATA},
    "required": ["name"],
    "additionalProperties": False,
}
_BACKUP: Json = {
    "type": "object",
    "properties": {
        "name": NAME,
        "backup_type": {"type": "string"},
        "rotation": {"type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 0},
        "metadata": METADATA,
    },
    "required": ["name", "backup_type", "rotation"],
    "additionalProperties": False,
}
_A = "/servers/{server_id}/action"
_C: dict[str, Any] = {
    "success": 202,
    "errors": (400, 403, 404, 409, 413),
    "answer": {1: None, 45: a.IMAGE_MADE},
    "idempotent": "operation",
    "again": again,
}


ROUTES = [
    *versioned(
        "POST",
        _A,
        create_image,
        _IMAGE_RULE,
        bodies={1: wrap("createImage", _IMAGE)},
        action="createImage",
        **_C,
    ),
    *versioned(
        "POST",
        _A,
        create_backup,
        _BACKUP_RULE,
        bodies={1: wrap("createBackup", _BACKUP)},
        action="createBackup",
        **_C,
    ),
]
RULES = {
    _IMAGE_RULE: MEMBER,
    _IMAGE_RULE + ":allow_volume_backed": MEMBER,
    _BACKUP_RULE: MEMBER,
}
