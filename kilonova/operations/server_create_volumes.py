"""The volumes of a server that is created: the steps of server_create.py that are left out when there are none."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.common.errors import NotFound
from kilonova.db import mappings
from kilonova.objects.base import decode
from kilonova.objects.server import DiskRequest, RequestedServer, ServerParams
from kilonova.objects.volume import Volume, VolumeWanted
from kilonova.operations import server_disks, server_volumes
from kilonova.operations.services import Services
from kilonova.saga.definition import NotYet, Output, Run, StepFailed

DEADLINE_S = 3600.0  # an image may have to be downloaded into each
_UNDER_WAY = ("creating", "downloading")


def none(params: ServerParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server has no volumes."""
    return not params.volumes


def _requested(run: Run) -> RequestedServer:
    services: Services = run.services
    mapping = services.world.read(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    return decode(mapping["requested"], RequestedServer)


def _item(run: Run, index: int) -> str:
    """Return the second half of a key: another one after each retreat, since what was undone may still be going."""
    return f"disk{index}" if run.attempt == 1 else f"disk{index}-{run.attempt}"


def wanted(requested: RequestedServer, disk: DiskRequest) -> VolumeWanted:
    """Return the volume that a disk asks for."""
    blank = disk.source == "blank"
    return VolumeWanted(
        project_id=requested.project_id,
        user_id=requested.user_id,
        size_gib=disk.size_gib,
        name=f"{requested.server_id}-blank-vol" if blank else "",
        image_id=disk.image_id,
        snapshot_id=disk.snapshot_id,
        volume_type=disk.volume_type,
    )


def make(run: Run) -> Output:
    """Make what is asked for, wait for it, reserve every volume for the server and let the chosen host reach it.

    Found again by (operation, item). StepFailed when a volume ends in error, or a host that does not answer may still
    write the server's volumes.
    """
    services: Services = run.services
    requested = _requested(run)
    if server_volumes.held(services, run.resource):
        raise StepFailed("A host that does not answer may still use the volumes of the server.")
    made: dict[int, Volume] = {}
    for i, disk in enumerate(requested.disks):
        if disk.destination == "volume" and disk.volume_id is None:
            key = (run.operation, _item(run, i))
            made[i] = services.volumes.ensure_volume(key, wanted(requested, disk))
    _wait_for(made)
    disks = []
    for i, disk in enumerate(requested.disks):
        if disk.destination == "volume":
            volume_id = str(disk.volume_id or made[i].id)
            disk = _reserve(run, disk.replace(volume_id=volume_id, item=_item(run, i)))
        disks.append(disk)
    for disk in server_disks.volumes(disks):
        server_volumes.connect(services, str(disk.attachment_id), run.outputs["place"]["host"])
    return {"disks": msgspec.to_builtins(disks)}


def _wait_for(made: Mapping[int, Volume]) -> None:
    for volume in made.values():
        if volume.status.startswith("error") or volume.status == "deleting":
            raise StepFailed(
                f"Volume {volume.id} did not finish being created. And its status is {volume.status}."
            )
    if any(v.status in _UNDER_WAY for v in made.values()):
        raise NotYet("The volumes of the server are being made.", after_s=0.5)


def _reserve(run: Run, disk: DiskRequest) -> DiskRequest:
    services: Services = run.services
    attachment = services.volumes.ensure_attachment(
        (run.operation, disk.item),
        volume_id=str(disk.volume_id),
        server_id=run.resource,
        mode=disk.mode,
    )
    return disk.replace(attachment_id=attachment.id, mode=attachment.mode)


def remove(run: Run) -> None:
    """End the attachments, then remove what was made; kept for later while a host may still write (settle_held)."""
    services: Services = run.services
    if server_volumes.held(services, run.resource):
        return
    for i, disk in enumerate(_requested(run).disks):
        if disk.destination == "volume":
            key = (run.operation, _item(run, i))
            services.volumes.remove_attachment(key=key)
            if disk.volume_id is None:
                services.volumes.remove_volume(key=key)


def columns(run: Run) -> dict[str, Any]:
    """Return what the volumes change in the server's row."""
    out = run.outputs.get("volumes")
    return {} if out is None else {"disks": msgspec.json.encode(out["disks"]).decode()}


def complete(run: Run) -> Output:
    """The guest has its disks: every attachment is attached, every volume in use."""
    services: Services = run.services
    for disk in msgspec.convert(run.outputs["volumes"]["disks"], list[DiskRequest]):
        if disk.attachment_id is not None:
            services.volumes.complete(disk.attachment_id)
    return {}
