"""External events of the volume service: a server's record follows its volumes, its guest their data.

An embedded volume grows under the guest before the event is told: its host did both (VolumeExtend). The record only
keeps up, for what is made from it later.
"""

from kilonova.common.context import service_context
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Tx
from kilonova.objects.volume import VolumeEvent, VolumeEventKind
from kilonova.operations import server_disks, volume_swap
from kilonova.operations.accept import find_server
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)


def listen(services: Services) -> None:
    """Follow the events of this process's volume service."""

    def heard(event: VolumeEvent) -> None:
        if event.kind == VolumeEventKind.SWAP:
            swap(services, event)
        if event.kind != VolumeEventKind.EXTENDED or not event.ok:
            return
        try:
            extended(services, event.server_id, event.volume_id)
        except KilonovaError as exc:
            log.warning("a disk was not resized: %s", exc.message, extra={"id": event.server_id})

    services.volumes.on_event(heard)


def swap(services: Services, event: VolumeEvent) -> None:
    """Have a guest go over to the data of a volume that migrates; what refuses that ends the migration. Repeatable."""
    old, new = (services.volumes.find(i) for i in (event.volume_id, event.new_volume_id))
    if old is None or new is None or new.attachments:
        return
    try:
        ctx = service_context(old.project_id)
        found = find_server(services, ctx, event.server_id)
        volume_swap.start(services, ctx, found, old, new)
    except KilonovaError as exc:
        log.warning("a volume does not migrate: %s", exc.message, extra={"id": event.server_id})
        services.volumes.complete_migration(old.id, new.id, error=True)


def extended(services: Services, server_id: str, volume_id: str) -> bool:
    """Write a volume's size as it is now into its server's record; tell whether that changed. Repeatable."""
    mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
    volume = services.volumes.find(volume_id)
    if volume is None or mapping is None or mapping["cell"] in (None, CELL0):
        return False

    def put(tx: Tx) -> bool:
        row = servers.find(tx, server_id)
        disks = [] if row is None or row["deleted"] else server_disks.read(row)
        changed = [
            d.replace(size_gib=volume.size_gib) if d.volume_id == volume_id else d for d in disks
        ]
        if changed == disks:
            return False
        return servers.set_columns(
            tx, server_id, disks=server_disks.write(changed), updated_at=services.now()
        )

    return services.cell(mapping["cell"]).write(put)
