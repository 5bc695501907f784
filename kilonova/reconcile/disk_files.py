"""Disks on hosts against the records: files that nobody wants, and records whose disk is gone.

Listed only: no file is ever removed, and none made, by guess. Whoever runs the cloud looks at what is in it first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kilonova.operations import server_disks
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.guests import HAVE_A_GUEST, is_owed, left_by_moves, placed_on
from kilonova.reconcile.picture import Files, Picture
from kilonova.volume.interface import KeptData

EVERY_S = 600.0


def look(picture: Picture) -> list[Finding]:
    """Compare what each host keeps, as far as it can say, with servers and volumes."""
    files = picture.files  # asked before the records are read
    placed, left = placed_on(picture), left_by_moves(picture)
    found: list[Finding] = []
    for host, kept in files.items():
        here = placed.get(host, {})
        found += missing_disks(host, kept, here)
        for server in sorted(kept.disks.keys() - here.keys() - picture.guests[host].keys()):
            if (host, server) not in left and not is_owed(picture, host, server):
                found += _nobodys(picture, host, server)
    return found + _volumes(picture, files)


def missing_disks(host: str, kept: Files, placed: Mapping[str, Any]) -> list[Finding]:
    """Decide which disks of the servers on a host are gone."""
    found = []
    for server, row in placed.items():
        if row["vm_state"] not in HAVE_A_GUEST:
            continue
        disks = server_disks.read(row)
        wanted = {d.name for d in disks if d.destination != "volume" and d.state != "attaching"}
        gone = sorted(wanted - kept.disks.get(server, frozenset()))
        if gone:
            found.append(
                Finding(
                    kind="disk_missing",
                    subject=server,
                    where=host,
                    message=f"Server {server} has the local disks {', '.join(gone)} by its record, and host {host} "
                    "has no such files. Bring them back, or rebuild or delete the server.",
                    about=(server,),
                    since=row["updated_at"] or 0.0,
                )
            )
    return found


def _nobodys(picture: Picture, host: str, server: str) -> list[Finding]:
    mapping = picture.mappings.get(server)
    if mapping is not None and mapping["host"] == host:
        return []  # its cell was not read
    where = None if mapping is None else mapping["host"] or "no host"
    whose = "no server of this id is known" if where is None else f"the server is on {where}"
    return [
        Finding(
            kind="disk_unknown",
            subject=server,
            where=host,
            message=f"Host {host} keeps files of {server}, and {whose}. Look what is in them before you remove them.",
            about=(server,),
        )
    ]


def _volumes(picture: Picture, files: Mapping[str, Files]) -> list[Finding]:
    services = picture.services
    data = services.volumes.data() if services.has_volumes else None
    if data is None:
        return []
    owed = {(host, volume) for host, volume, _ in services.volumes.waiting()}
    return plan_volumes(files, data, owed)


def plan_volumes(
    files: Mapping[str, Files], data: Iterable[KeptData], owed: set[tuple[str, str]]
) -> list[Finding]:
    """Decide which data of volumes and snapshots are gone, and which nobody has a record of.

    owed: (host, id) of what hosts that were down still have to remove.
    """
    found, known = [], set[tuple[str, str, str]]()
    for one in data:
        known.update((host, one.kind, one.id) for host in one.hosts)
        host = one.hosts[0] if one.hosts else ""
        if one.sure and host in files and (one.kind, one.id) not in files[host].volumes:
            found.append(
                Finding(
                    kind="volume_data_missing",
                    subject=one.id,
                    where=host,
                    message=f"The {one.kind} {one.id} is on host {host} by its record, and there are no data of it. "
                    "Bring them back, or restore a backup.",
                    about=(one.id,),
                )
            )
    for host, kept in files.items():
        for kind, id_ in sorted(kept.volumes):
            if (host, kind, id_) not in known and (host, id_) not in owed:
                found.append(
                    Finding(
                        kind="volume_data_unknown",
                        subject=id_,
                        where=host,
                        message=f"Host {host} keeps data of a {kind} {id_}, of which no record says that they are "
                        "there. Look what is in them before you remove them.",
                        about=(id_,),
                    )
                )
    return found


def run(services: Services) -> list[Finding]:
    """It is for audits only: nothing of it is mended, so nothing is looked at by itself."""
    return []
