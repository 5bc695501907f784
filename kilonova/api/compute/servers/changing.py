"""PUT and DELETE /servers/{id}, and the actions start, stop, reboot, pause, unpause, suspend, resume, lock, unlock."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.api.compute.servers.creating import canonical
from kilonova.api.compute.servers.reading import extras_for, find
from kilonova.api.compute.views.server import ServerView
from kilonova.cells.filters import Rendered
from kilonova.common.errors import Conflict
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations import (
    power,
    server_delete,
    server_pause,
    server_reboot_hard,
    server_reboot_soft,
    server_resume,
    server_soft_delete,
    server_start,
    server_stop,
    server_suspend,
    server_unpause,
)
from kilonova.operations.accept import Found, find_server
from kilonova.operations.records import change_server
from kilonova.operations.services import Services
from kilonova.operations.states import SOFT_DELETED, TRANSITIONS
from kilonova.saga.definition import Saga

# what PUT /servers/{id} answers with until 2.74; addresses are version and addr only
_UPDATED = frozenset(
    (
        "id",
        "name",
        "status",
        "tenant_id",
        "user_id",
        "metadata",
        "hostId",
        "image",
        "flavor",
        "created",
        "updated",
        "addresses",
        "accessIPv4",
        "accessIPv6",
        "links",
        "progress",
        "fault",
        "OS-DCF:diskConfig",
        "locked",
        "description",
        "tags",
        "trusted_image_certificates",
        "server_groups",
        "locked_reason",
    )
)


def _found(req: Request, rule: str) -> Found:
    """Return the server of the path, after asking ``rule`` about its project."""
    services: Services = req.cloud
    found = find_server(services, req.ctx, req.params["server_id"])
    req.authorize(
        rule, {"project_id": found.mapping["project_id"], "user_id": found.mapping["user_id"]}
    )
    return found


def _power(req: Request, rule: str, saga: Saga) -> None:
    power.start(req.cloud, req.ctx, saga, _found(req, rule))


def start(req: Request) -> None:
    """Start a stopped server."""
    _power(req, "os_compute_api:servers:start", server_start.SAGA)


def stop(req: Request) -> None:
    """Stop a running server."""
    _power(req, "os_compute_api:servers:stop", server_stop.SAGA)


def reboot(req: Request) -> None:
    """Reboot a server, SOFT or HARD."""
    kind = req.body["reboot"]["type"].upper()
    saga = server_reboot_soft.SAGA if kind == "SOFT" else server_reboot_hard.SAGA
    _power(req, "os_compute_api:servers:reboot", saga)


def pause(req: Request) -> None:
    """Pause a running server."""
    _power(req, "os_compute_api:os-pause-server:pause", server_pause.SAGA)


def unpause(req: Request) -> None:
    """Let a paused server go on."""
    _power(req, "os_compute_api:os-pause-server:unpause", server_unpause.SAGA)


def suspend(req: Request) -> None:
    """Suspend a running server to disk."""
    _power(req, "os_compute_api:os-suspend-server:suspend", server_suspend.SAGA)


def resume(req: Request) -> None:
    """Resume a suspended server."""
    _power(req, "os_compute_api:os-suspend-server:resume", server_resume.SAGA)


def delete(req: Request) -> None:
    """Delete a server, whatever state it is in; one that can be restored is only hidden, where that is set."""
    found, services = _found(req, "os_compute_api:servers:delete"), req.cloud
    row, saga = found.row, server_soft_delete.SAGA
    window = services.setting("reclaim_instance_interval_s", 0.0)
    if window > 0 and row is not None and row["launched_at"] is not None:
        free = row["task_state"] is None and row["vm_state"] in TRANSITIONS[saga.kind].start
        if free or row["vm_state"] == SOFT_DELETED:
            if free:
                power.start(services, req.ctx, saga, found)
            return
    server_delete.start(services, req.ctx, found)


def force_delete(req: Request) -> None:
    """Delete a server at once, also one that could still be restored."""
    found = _found(req, "os_compute_api:os-deferred-delete:force")
    server_delete.start(req.cloud, req.ctx, found, action="forceDelete")


def lock(req: Request) -> None:
    """Lock a server against its owner's actions; from 2.73 with a reason."""
    found = _found(req, "os_compute_api:os-lock-server:lock")
    value = req.body["lock"]
    reason = value.get("locked_reason") if isinstance(value, dict) else None
    owner = req.ctx.project_id == found.mapping["project_id"] and not req.ctx.is_admin
    by = "owner" if owner else "admin"
    change_server(req.cloud, req.ctx, found, "lock", locked_by=by, locked_reason=reason)


def unlock(req: Request) -> None:
    """Unlock a server; what an admin locked only an admin unlocks."""
    found = _found(req, "os_compute_api:os-lock-server:unlock")
    if found.row is not None and found.row["locked_by"] == "admin":
        req.authorize("os_compute_api:os-lock-server:unlock:unlock_override")
    change_server(req.cloud, req.ctx, found, "unlock", locked_by=None, locked_reason=None)


def _pin(found: Found, wanted: str | None) -> str | None:
    """Return the zone that a server is pinned to from now on. Conflict: it is elsewhere, or pinned elsewhere."""
    row = found.row
    if row is None:
        raise Conflict(
            f"Instance {found.id} is not ready for this yet; try again when it is built."
        )
    pinned, zone = row["requested_zone"], row["availability_zone"]
    if wanted is None or wanted == pinned:
        return wanted
    if pinned is not None:
        raise Conflict(
            "Cannot change pinned availability zone directly. Unpin first by setting "
            "pinned_availability_zone to null."
        )
    if wanted != zone:
        raise Conflict(
            f"Server can only be pinned to its current availability zone '{zone}', but '{wanted}' "
            "was requested."
        )
    return wanted


def update(req: Request) -> Any:
    """Rename a server, change description, host name or access addresses."""
    found = _found(req, "os_compute_api:servers:update")
    body = req.body["server"]
    values: dict[str, Any] = {}
    if "name" in body:
        values["name"] = body["name"].strip()
    for key, column in (("accessIPv4", "access_ip_v4"), ("accessIPv6", "access_ip_v6")):
        if key in body:
            values[column] = canonical(body[key])
    for key, column in (
        ("description", "description"),
        ("hostname", "hostname"),
        ("OS-DCF:diskConfig", "disk_config"),
    ):
        if key in body:
            values[column] = body[key]
    if "pinned_availability_zone" in body:
        values["requested_zone"] = _pin(found, body["pinned_availability_zone"])
    if found.row is not None and found.row["task_state"] == "deleting":
        raise Conflict(f"Instance {found.id} is being deleted")
    change_server(req.cloud, req.ctx, found, None, **values)
    return {"server": shown(req, find(req, found.id))}


def keep_disk_config(req: Request, found: Found, asked: Mapping[str, Any]) -> None:
    """Keep the wish of a rebuild or resize that was accepted: what resizes a partition is in the guest."""
    if "OS-DCF:diskConfig" in asked:
        change_server(req.cloud, req.ctx, found, None, disk_config=asked["OS-DCF:diskConfig"])


def shown(req: Request, row: Rendered, also: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a server as an update is answered: like GET from 2.75 on, with few fields (and ``also``) before."""
    view = ServerView(req, extras_for(req, [row]))
    out = view.detail(row)
    if not req.version >= V(2, 75):
        out = {k: v for k, v in out.items() if k in _UPDATED | also}
        addresses = msgspec.json.decode(row["addresses"])
        out["addresses"] = {
            label: [{"version": a["version"], "addr": a["addr"]} for a in found]
            for label, found in addresses.items()
        }
    return out
