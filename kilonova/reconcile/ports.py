"""Ports and servers: a port made for an operation that is over, and whose server is gone, is removed by its key."""

import msgspec

from kilonova.db import mappings
from kilonova.operations.services import CELL0, Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture
from kilonova.saga import journal

EVERY_S = 300.0


def look(picture: Picture) -> list[Finding]:
    """Compare every port that has a key with the servers."""
    claims = picture.claims
    found = []
    known: set[str] = set()
    for claim in claims:
        known.add(claim.port_id)
        mapping = picture.mappings.get(claim.device_id)
        if mapping is None or mapping["cell"] == CELL0:
            found.append(
                Finding(
                    kind="port_orphan",
                    subject=claim.port_id,
                    where="network",
                    message=f"Port {claim.port_id} was made for server {claim.device_id}, which is not there.",
                    repair="It is removed; one that the user made is only let go.",
                    about=(claim.device_id, claim.operation),
                    since=claim.created_at,
                    extra=(claim.operation, claim.item, claim.device_id),
                )
            )
    return found + _records(picture, claims, known)


def _records(picture: Picture, claims: list[object], known: set[str]) -> list[Finding]:
    """Compare the NICs in the records with the ports."""
    found = []
    recorded: dict[str, set[str]] = {}
    for name, cell in picture.cells.items():
        for server, row in cell["servers"].items():
            ports = {n["port_id"] for n in msgspec.json.decode(row["nics"])}
            recorded.setdefault(server, set()).update(ports)
            for port in sorted(ports - known) if name != CELL0 else ():
                found.append(
                    Finding(
                        kind="port_missing",
                        subject=port,
                        where=name,
                        message=f"Server {server} has a NIC with port {port}, which the network does not know.",
                        about=(server,),
                        since=row["updated_at"] or 0.0,
                    )
                )
    for claim in claims:
        server, port = claim.device_id, claim.port_id  # type: ignore[attr-defined]
        if picture.row_of(server) is not None and port not in recorded.get(server, ()):
            found.append(
                Finding(
                    kind="port_unrecorded",
                    subject=port,
                    where="network",
                    message=f"Port {port} belongs to server {server}, whose record has no such NIC.",
                    about=(server, claim.operation),  # type: ignore[attr-defined]
                )
            )
    return [f for f in found if not _in_cell0(picture, f.about[0])]


def _in_cell0(picture: Picture, server: str) -> bool:
    mapping = picture.mappings.get(server)
    return mapping is not None and mapping["cell"] == CELL0


def mend(services: Services, finding: Finding) -> bool:
    """Remove by key, if the operation is over everywhere and the server is not placed."""
    operation, item, server = finding.extra
    for db in (services.world, *services.cells.values()):
        row = db.read(lambda tx: journal.find_row(tx, operation))
        if row is not None and row["ended_at"] is None:
            return False
        if db.read(lambda tx: journal.live_of(tx, server)):
            return False
    mapping = services.world.read(lambda tx: mappings.find(tx, server))
    if mapping is not None and mapping["cell"] != CELL0:
        return False
    return services.network.sweep([(operation, item)]) > 0


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
