"""External events of the volume service: a server's record follows its volumes.

An embedded volume grows under the guest before the event is told: its host did both (VolumeExtend). The record only
keeps up, for what is made from it later.
"""

from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Tx
from kilonova.objects.volume import VolumeEvent, VolumeEventKind
from kilonova.operations import server_disks
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)


def listen(services: Services) -> None:
    """Follow the events of this process's volume service."""

    def heard(event: VolumeEvent) -> None:
        if event.kind != VolumeEventKind.EXTENDED or not event.ok:
            return
        try:
            extended(services, event.server_id, event.volume_id)
        except KilonovaError as exc:
            log.warning("a disk was not resized: %s", exc.message, extra={"id": event.server_id})

    services.volumes.on_event(heard)


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
