"""Volume attachments of a server, called by the volume's id. source: compute API reference, os-volume_attachments."""

from typing import Any

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import BOOLEAN, TAG, UUID, Json, true, wrap
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import (
    COUNT,
    NO_QUERY,
    R,
    many,
    offset_page,
    strict_from,
    versioned,
)
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.schema import extend
from kilonova.objects.server import AttachParams, DiskRequest
from kilonova.operations import (
    server_disks,
    states,
    volume_attach,
    volume_detach,
    volume_swap,
    volume_update,
)
from kilonova.operations.accept import Found
from kilonova.operations.services import Services

_RULE = R + "os-volumes-attachments:"


def _shown(req: Request, server_id: str, disk: DiskRequest) -> dict[str, Any]:
    """Return an attachment as the request's microversion has it."""
    out: dict[str, Any] = {}
    if not req.version >= V(2, 89):
        out["id"] = disk.volume_id
    out |= {"volumeId": disk.volume_id, "serverId": server_id}
    device = server_disks.path_of(disk)
    if device is not None:
        out["device"] = device
    if req.version >= V(2, 70):
        out["tag"] = disk.tag
    if req.version >= V(2, 79):
        out["delete_on_termination"] = disk.delete_on_termination
    if req.version >= V(2, 89):
        out |= {"attachment_id": disk.attachment_id, "bdm_uuid": disk.id}
    return out


def _missing(server_id: str, volume_id: str) -> NotFound:
    return NotFound(f"Instance {server_id} is not attached to volume {volume_id}")


def index(req: Request) -> Any:
    """List a server's volume attachments."""
    row = seen(req, _RULE + "index")
    part = offset_page(req, server_disks.of_row(row))
    return {"volumeAttachments": [_shown(req, row["uuid"], d) for d in part]}


def show(req: Request) -> Any:
    """Show one attachment."""
    row = seen(req, _RULE + "show")
    volume_id = req.params["volume_id"]
    disk = server_disks.find_volume(server_disks.of_row(row), volume_id)
    if disk is None:
        raise _missing(row["uuid"], volume_id)
    return {"volumeAttachment": _shown(req, row["uuid"], disk)}


def _check_shelved(req: Request, server: Found, verb: str) -> None:
    """Shelved servers' volumes can be changed from 2.20 on."""
    row = server.row
    if row is None or req.version >= V(2, 20):
        return
    if row["vm_state"] in (states.SHELVED, states.SHELVED_OFFLOADED):
        raise Conflict(
            f"Cannot '{verb}' instance {server.id} while it is in vm_state {row['vm_state']}"
        )


def attach(req: Request) -> Any:
    """Attach a volume. Until 2.100 the answer shows the attachment, from 2.101 on there is none to wait for."""
    server = found(req, _RULE + "create")
    _check_shelved(req, server, "attach_volume")
    body = req.body["volumeAttachment"]
    disk = volume_attach.start(
        _services(req),
        req.ctx,
        server,
        volume_attach.Wish(
            volume_id=body["volumeId"],
            device=body.get("device"),
            tag=body.get("tag"),
            delete_on_termination=true(body.get("delete_on_termination", False)),
            multiattach=req.version >= V(2, 60),
        ),
    )
    return _told(req, server.id, disk)


def again(req: Request, params: AttachParams) -> Any:
    """Answer an attach that was accepted before."""
    return _told(req, params.server_id, params.disk)


def _told(req: Request, server_id: str, disk: DiskRequest) -> Any:
    if req.version >= V(2, 101):
        return Response(status=202)
    out = _shown(req, server_id, disk) | {"id": disk.volume_id}
    for name in ("attachment_id", "bdm_uuid"):  # not in this answer, source: API sample of 2.89
        out.pop(name, None)
    return {"volumeAttachment": out}


def update(req: Request) -> None:
    """Change ``delete_on_termination`` (2.85), or have the data moved to another volume, which Cinder asks for."""
    body = req.body["volumeAttachment"]
    volume_id, target = req.params["volume_id"], body["volumeId"]
    swaps = not req.version >= V(2, 85) or volume_id != target
    server = found(req, _RULE + ("swap" if swaps else "update"))
    if req.version >= V(2, 85):
        _change(req, server, volume_id, body)
    if swaps:
        _swap(req, server, volume_id, target)


def _change(req: Request, server: Found, volume_id: str, body: dict[str, Any]) -> None:
    disks = [] if server.row is None else server_disks.of_row(server.row)
    disk = server_disks.find_volume(disks, volume_id)
    if disk is None:
        raise _missing(server.id, volume_id)
    fixed = {
        "id": volume_id,
        "serverId": server.id,
        "device": server_disks.path_of(disk),
        "tag": disk.tag,
    }
    for name, value in fixed.items():
        if name in body and body[name] != value:
            raise BadRequest(f"The {name} property is not mutable")
    if "delete_on_termination" in body:
        wanted = true(body["delete_on_termination"])
        volume_update.start(_services(req), server, volume_id, wanted)


def _swap(req: Request, server: Found, volume_id: str, target: str) -> None:
    """source: Nova since OSSA-2025: only while Cinder migrates the volume."""
    services = _services(req)
    old = services.volumes.get(req.ctx, volume_id)
    try:
        new = services.volumes.get(req.ctx, target)
    except NotFound as exc:
        raise BadRequest(exc.message) from exc
    volume_swap.check_migrates(old, new)
    volume_swap.start(services, req.ctx, server, old, new)


def detach(req: Request) -> None:
    """Detach a volume."""
    server = found(req, _RULE + "delete")
    _check_shelved(req, server, "detach_volume")
    volume_detach.start(_services(req), req.ctx, server, req.params["volume_id"])


def _services(req: Request) -> Services:
    services: Services = req.cloud
    return services


_V = ("properties", "volumeAttachment")
_DEVICE: Json = {
    "type": ["string", "null"],
    "pattern": "(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$",
}
_C1: Json = wrap(
    "volumeAttachment",
    {
        "type": "object",
        "properties": {"volumeId": UUID, "device": _DEVICE},
        "required": ["volumeId"],
        "additionalProperties": False,
    },
)
_C49 = extend(_C1, at=_V, properties={"tag": TAG})
_C79 = extend(_C49, at=_V, properties={"delete_on_termination": BOOLEAN})
_U1: Json = wrap(
    "volumeAttachment",
    {
        "type": "object",
        "properties": {"volumeId": UUID},
        "required": ["volumeId"],
        "additionalProperties": False,
    },
)
_U85 = extend(
    _U1,
    at=_V,
    properties={
        "device": _DEVICE,
        "tag": TAG,
        "delete_on_termination": BOOLEAN,
        "serverId": UUID,
        "id": UUID,
    },
)
_ALL = "/servers/{server_id}/os-volume_attachments"
_ONE = _ALL + "/{volume_id}"
_LIST = strict_from(75, {"limit": many(COUNT), "offset": many(COUNT)})
_E = (400, 403, 404, 409, 413, 503)
ROUTES = [
    *versioned("GET", _ALL, index, _RULE + "index", queries=_LIST, answer=a.VOLUMES),
    *versioned("GET", _ONE, show, _RULE + "show", queries=NO_QUERY, answer=a.VOLUME),
    *versioned(
        "POST",
        _ALL,
        attach,
        _RULE + "create",
        bodies={1: _C1, 49: _C49, 79: _C79},
        success={1: 200, 101: 202},
        answer={1: a.VOLUME_ATTACHED, 101: None},
        idempotent="operation",
        again=again,
        errors=_E,
    ),
    *versioned(
        "PUT",
        _ONE,
        update,
        _RULE + "update",
        bodies={1: _U1, 85: _U85},
        success=202,
        errors=_E,
    ),
    *versioned("DELETE", _ONE, detach, _RULE + "delete", success=202, errors=_E),
]
RULES = {_RULE + n: READER for n in ("index", "show")} | {
    _RULE + n: MEMBER for n in ("create", "update", "delete")
}
RULES[_RULE + "swap"] = "rule:service_api or rule:context_is_admin"
