"""Attachments and servers, in both directions, and volumes that say they are attached while nobody has them (R10).

Only what no host ever reached, or a server that is gone had, is let go of; what a guest may be writing is left alone.
"""

from collections.abc import Iterator
from typing import Any

from kilonova.db import mappings, servers
from kilonova.objects.server import DiskRequest
from kilonova.objects.volume import VolumeAttachment
from kilonova.operations import server_disks, server_volumes, states
from kilonova.operations.services import CELL0, Services
from kilonova.reconcile.allocations import was_ours
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture
from kilonova.saga import journal

EVERY_S = 300.0


def look(picture: Picture) -> list[Finding]:
    """Compare the attachments of the volume service with the disks in the records."""
    if not picture.services.has_volumes:
        return []
    there = picture.attachments
    found = [f for a in there.values() for f in _attachment(picture, a)]
    for name, cell in picture.cells.items():
        if name != CELL0:
            for server, row in cell["servers"].items():
                found += _disks(picture, name, server, row)
    return found + _loose(picture)


def _attachment(picture: Picture, a: VolumeAttachment) -> Iterator[Finding]:
    mapping = picture.mappings.get(a.server_id)
    if mapping is None or mapping["cell"] == CELL0:
        if a.server_id not in picture.held_back:
            yield _orphan(picture, a)
        return
    known = picture.row_of(a.server_id)
    if known is None:
        return
    _, row = known
    if not any(d.attachment_id == a.id for d in server_disks.read(row)):
        if a.server_id not in picture.held_back and not _kept(picture, a):
            yield _unrecorded(picture, a)
    elif a.host and row["host"] not in (None, a.host) and row["vm_state"] != states.RESIZED:
        yield Finding(
            kind="attachment_elsewhere",
            subject=a.id,
            where="volume",
            message=f"Volume {a.volume_id} is reachable by host {a.host}, and server {a.server_id} is on "
            f"host {row['host']}.",
            about=(a.server_id,),
        )


def _kept(picture: Picture, a: VolumeAttachment) -> bool:
    """Tell whether the hidden copy of a server that moved to another cell keeps an attachment, for a revert."""
    rows = [cell["servers"].get(a.server_id) for cell in picture.cells.values()]
    return any(d.attachment_id == a.id for r in rows if r for d in server_disks.of_row(r))


def _orphan(picture: Picture, a: VolumeAttachment) -> Finding:
    ours = was_ours(picture.services, a.server_id)
    return Finding(
        kind="attachment_orphan",
        subject=a.id,
        where="volume",
        message=f"Volume {a.volume_id} is attached to server {a.server_id}, which is not there.",
        repair="The attachment is ended: it was a server once." if ours else None,
        about=(a.server_id,),
        since=picture.claimed.get(a.id, a.attached_at or 0.0),
        extra=(a.server_id,),
    )


def _unrecorded(picture: Picture, a: VolumeAttachment) -> Finding:
    reserved = a.host == "" and a.id in picture.claimed
    return Finding(
        kind="attachment_unrecorded",
        subject=a.id,
        where="volume",
        message=f"Volume {a.volume_id} is attached to server {a.server_id}, whose record has no such disk.",
        repair="It was only reserved, by an attach that never began: the attachment is ended."
        if reserved
        else None,
        about=(a.server_id,),
        since=picture.claimed.get(a.id, 0.0),
        extra=(a.server_id,),
    )


def _disks(picture: Picture, cell: str, server: str, row: Any) -> Iterator[Finding]:
    if row["hidden"]:
        return
    for disk in server_disks.of_row(row):
        a = picture.attachments.get(str(disk.attachment_id))
        if a is None or a.volume_id != disk.volume_id:
            yield _missing(cell, server, row, disk)


def _missing(cell: str, server: str, row: Any, disk: DiskRequest) -> Finding:
    return Finding(
        kind="attachment_missing",
        subject=f"{server}:{disk.volume_id}",
        where=cell,
        message=f"Server {server} has volume {disk.volume_id} by its record, and the volume service has no such "
        "attachment: the server does not start until the volume is detached from it.",
        about=(server,),
        since=row["updated_at"] or 0.0,
    )


def _loose(picture: Picture) -> list[Finding]:
    """Report volumes that nobody can attach, because they say that somebody has them."""
    return [
        Finding(
            kind="volume_stuck",
            subject=volume.id,
            where="volume",
            message=f"Volume {volume.id} is {volume.status}, and nobody has it: reset its status to available.",
            about=(volume.id,),
        )
        for volume in picture.services.volumes.loose()
    ]


def mend(services: Services, finding: Finding) -> bool:
    """End an attachment, if what it was found by still holds and nothing works on its server."""
    (server,) = finding.extra
    for db in services.homes().values():
        if db.read(lambda tx: journal.live_of(tx, server)):
            return False
    mapping = services.world.read(lambda tx: mappings.find(tx, server))
    if finding.kind == "attachment_orphan":
        if mapping is not None and mapping["cell"] != CELL0:
            return False
    elif mapping is None or mapping["cell"] is None or _recorded(services, mapping, finding):
        return False
    if server_volumes.held(services, server):
        return False
    return services.volumes.remove_attachment(attachment_id=finding.subject) > 0


def _recorded(services: Services, mapping: Any, finding: Finding) -> bool:
    """Tell whether any copy of the server names the attachment."""
    rows = [c.read(lambda tx: servers.find(tx, mapping["server"])) for c in services.cells.values()]
    disks = [d for row in rows if row is not None for d in server_disks.of_row(row)]
    return any(d.attachment_id == finding.subject for d in disks)


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
