"""What operations do with the volumes of a server: reach them from a host, let go of them, and hold them back.

A host that was told to remove a guest and does not answer may still write: as long as it has a cleanup record, its
server's volumes stay attached (DESIGN 5). Everything here is repeatable.
"""

import contextlib
from collections.abc import Iterable, Mapping

from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Row
from kilonova.objects.guest import FileDisk, NbdDisk
from kilonova.objects.server import DiskRequest
from kilonova.objects.volume import Connection, Connector, FileConnection
from kilonova.operations import cleanup, server_disks
from kilonova.operations.services import CELL0, Services
from kilonova.saga.definition import NotYet, StepFailed
from kilonova.volume.interface import KeeperAway, NotReady

log = get_logger(__name__)


def connect(
    services: Services, attachment_id: str, host: str, *, moves: bool = False
) -> Connection:
    """Let a host reach a volume; one that moves there live is reached so that two hosts can.

    Raises NotYet while that is prepared, NotFound when the attachment is gone.
    """
    try:
        return services.volumes.connect(attachment_id, Connector(host=host, exported=moves))
    except NotReady as exc:
        raise NotYet(exc.message, after_s=exc.after_s) from exc


def connect_all(services: Services, row: Row, host: str) -> None:
    """Let another host reach every volume of a server (unshelve, say). Raises as ``connect``.

    StepFailed while a host that does not answer may still write them.
    """
    attached = [d for d in server_disks.of_row(row) if d.attachment_id is not None]
    if attached and held(services, row["uuid"]):
        raise StepFailed("A host that does not answer may still use the volumes of the server.")
    for disk in attached:
        connect(services, str(disk.attachment_id), host)


def complete_all(services: Services, row: Row) -> None:
    """The guest has its disks: every volume of a server is in use, those too that were only reserved before."""
    for disk in server_disks.of_row(row):
        if disk.attachment_id is not None:
            services.volumes.complete(disk.attachment_id)


def connect_back(services: Services, row: Row, host: str) -> None:
    """Say that a host is to reach the volumes of a server again. Repeatable.

    It need not do so yet: it may be down, and so may be the host that keeps the volume, which can be the same one.
    """
    for disk in server_disks.volumes(server_disks.read(row)):
        if disk.attachment_id is not None:
            with contextlib.suppress(NotYet, KeeperAway):
                connect(services, disk.attachment_id, host)


def connections(
    services: Services, server_id: str, disks: Iterable[DiskRequest]
) -> Mapping[str, Connection]:
    """Return, by attachment id, how the server's host reaches the volumes among ``disks`` at this moment.

    NotYet while one is being made reachable. StepFailed when an attachment is gone, or is of another volume: nothing
    is plugged that only has the same place (source: OSSA-2023-003).
    """
    wanted = [d for d in disks if d.attachment_id is not None]
    if not wanted:
        return {}
    try:
        found = services.volumes.connections(server_id)
    except NotReady as exc:
        raise NotYet(exc.message, after_s=exc.after_s) from exc
    missing = [d for d in wanted if d.attachment_id not in found]
    if missing:
        _check_attached(services, server_id, missing)
        raise NotYet("A volume of the server is being made reachable.", after_s=0.2)
    for d in wanted:
        if found[str(d.attachment_id)].volume_id != d.volume_id:
            raise StepFailed(f"The attachment of volume {d.volume_id} is of another volume now.")
    return found


def _check_attached(services: Services, server_id: str, disks: list[DiskRequest]) -> None:
    there = services.volumes.attachments_of([server_id]).get(server_id, [])
    for d in disks:
        if not any(a.id == d.attachment_id and a.volume_id == d.volume_id for a in there):
            raise StepFailed(f"Volume {d.volume_id} is not attached to the server any more.")


def guest_disk(disk: DiskRequest, connection: Connection) -> FileDisk | NbdDisk:
    """Return a volume as a host is told of it; its serial is its id."""
    if isinstance(connection, FileConnection):
        return FileDisk(
            name=str(disk.volume_id),
            path=connection.path,
            format=connection.format,
            serial=str(disk.volume_id),
            boot_index=disk.boot_index,
            bus=disk.bus or "virtio",
            device=disk.device,
            tag=disk.tag,
            readonly=connection.readonly,
            shareable=connection.shareable,
        )
    return NbdDisk(
        name=str(disk.volume_id),
        host=connection.host,
        port=connection.port,
        export=connection.export,
        serial=str(disk.volume_id),
        boot_index=disk.boot_index,
        bus=disk.bus or "virtio",
        device=disk.device,
        tag=disk.tag,
        readonly=connection.readonly,
        shareable=connection.shareable,
        tls_name=connection.tls_name,
    )


# -- letting go


def held(services: Services, server_id: str) -> bool:
    """Tell whether a host that does not answer may still have a guest of the server."""
    return any(
        services.cell(name).read(lambda tx: cleanup.may_write(tx, server_id))
        for name in services.real_cells()
    )


def release(services: Services, server_id: str, disks: Iterable[DiskRequest]) -> None:
    """A server is gone: end all its attachments, then delete the volumes that were to end with it.

    A volume that somebody else uses, or that has snapshots, stays.
    """
    if not services.has_volumes:
        return
    for a in services.volumes.attachments_of([server_id]).get(server_id, []):
        services.volumes.remove_attachment(attachment_id=a.id)
    for d in disks:
        if not d.delete_on_termination or d.volume_id is None:
            continue
        volume = services.volumes.find(d.volume_id)
        if volume is None or volume.attachments or volume.status == "deleting":
            continue
        try:
            services.volumes.remove_volume(volume_id=d.volume_id)
        except (BadRequest, Conflict, NotFound) as exc:
            log.warning("a volume stays: %s", exc.message, extra={"volume": d.volume_id})


def settle_held(services: Services, server_id: str, operation: str) -> None:
    """A host cleaned up at last: let go of what was held back for it.

    What the operation made and no record names goes; of a server that is gone, everything.
    """
    if not services.has_volumes:
        return
    mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
    row = _record(services, server_id, None if mapping is None else mapping["cell"])
    disks = [] if row is None else server_disks.read(row)
    lives = mapping is not None and mapping["cell"] != CELL0
    kept = {i for d in disks for i in (d.attachment_id, d.volume_id)} if lives else set()
    claims = services.volumes.claims(0.0)
    keys = {(c.operation, c.item) for c in claims if c.operation == operation and c.id not in kept}
    if mapping is None:
        release(services, server_id, disks)
    services.volumes.sweep(sorted(keys))


def _record(services: Services, server_id: str, cell: str | None) -> Row | None:
    """Return a server's row, also the compact one of a server that is gone."""
    for name in [cell] if cell is not None else services.cells:
        try:
            row = services.cell(name).read(lambda tx: servers.find(tx, server_id))
        except KilonovaError:
            continue
        if row is not None:
            return row
    return None
